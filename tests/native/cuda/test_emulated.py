# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Every CUDA kernel of the portable backend, run on the host thread by thread, against the reference."""

from dataclasses import replace

import pytest
import torch

from sr_kernels import record_kernels, reference
from sr_kernels.backends import cuda_check, cuda_plan
from sr_kernels.backends.base import ConvArgs, DenseBlockArgs, memory_format_of
from tests import samples
from tests.closeness import assert_as_close
from tests.samples import Conv

pytestmark = pytest.mark.usefixtures("poisoned")
HALVES = (torch.float16, torch.bfloat16)
CPU = torch.device("cpu")


def arguments(sample: Conv, dtype: torch.dtype) -> tuple[ConvArgs, dict]:
    plain = samples.plain(sample, sample.arguments(dtype))
    return ConvArgs(**plain), plain


def check(backend, sample: Conv, dtype: torch.dtype) -> list[str]:
    """The kernels that ran, their result compared."""
    a, plain = arguments(sample, dtype)
    assert backend.reasons("conv2d", a) == []
    with record_kernels() as names:
        y = backend.conv2d(a)
    assert memory_format_of(y) == memory_format_of(a.input)
    eager, exact = reference.conv2d(**plain), reference.conv2d(**samples.convert(plain, torch.float64))
    assert y.shape == eager.shape
    if y.numel():
        assert_as_close(y, eager, exact)
    return names


def refused(backend, sample: Conv) -> bool:
    return bool(backend.reasons("conv2d", arguments(sample, torch.float16)[0]))


@pytest.mark.parametrize(
    ("sample", "dtype"),
    [(s, torch.float16) for s in samples.CONVS] + [(s, torch.bfloat16) for s in samples.FEATURES],
    ids=lambda v: str(getattr(v, "name", v)),
)
def test_conv2d(backend, sample, dtype):
    if sample.groups > 1 or sample.dilation != 1 or (sample.upsample > 1 and sample.stride != 1):
        assert refused(backend, sample)
        return
    [name] = check(backend, sample, dtype)
    assert name.startswith("cuda/conv2d_sm80")


def layer(ci: int, co: int, h: int = 17, w: int = 19, **more) -> Conv:
    return Conv(shape=(1, ci, h, w), channels=co, layout="channels_last", **more)


# One at least for each kernel and for each way to divide shared memory, several tiles for a block of threads.
KERNELS = [
    ("32x16", layer(12, 24, activation="prelu", slopes=24)),
    ("32", layer(96, 32, activation="leaky_relu", slope=0.2)),
    ("32_full", layer(24, 32, activation="gelu")),
    ("8", layer(64, 3, base="same")),
    ("8", layer(40, 4, kernel=(5, 5), padding=2, shuffle=2, base="bilinear", factor=2)),
    ("48_full", layer(64, 48, shuffle=4, base="nearest", factor=4)),
    ("64", layer(32, 64, residuals=(0.5, -1.0), scale=0.2)),
    ("64_full", layer(16, 64, shuffle=2, activation="tanh", residuals=(1.0,))),
    ("64x64", layer(64, 64, activation="relu")),
    ("128", layer(72, 128, activation="relu", residuals=(1.0,), after=True)),
    ("128", layer(40, 200, shuffle=2, activation="prelu", slopes=1)),
    ("64", layer(3, 64, activation="relu")),
    ("32", layer(1, 32, kernel=(9, 9), padding=4)),
    ("64x64", layer(64, 64, stride=2)),
    ("32", layer(200, 32, kernel=(1, 1), padding=0)),
    ("32", layer(192, 32)),
]


@pytest.mark.parametrize(("kernel", "sample"), KERNELS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_each_kernel(backend, kernel, sample):
    assert check(backend, sample, torch.float16) == [f"cuda/conv2d_sm80/{kernel}"]


# Weights that stay, a ring of rows of taps and one of taps; gathered pixels.
RINGS = [
    ("32x16", layer(12, 24)),
    ("32x16", layer(80, 32)),
    ("32", layer(96, 32)),
    ("32", layer(3, 24)),
]


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize(("kernel", "sample"), RINGS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_each_order(backend, kernel, sample):
    assert check(backend, sample, torch.float16) == [f"cuda/conv2d_sm80/{kernel}"]


def test_every_kernel_is_tested(backend):
    assert {f"conv2d_sm80/{name}" for name, _ in KERNELS} == {k.name for k in cuda_plan.kernels_on(CPU)}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("sample", samples.DENSE, ids=lambda s: s.name)
def test_dense_block(backend, sample, dtype):
    kw = sample.arguments(dtype)
    kw["residuals"] = kw.pop("residual") or ()
    a = DenseBlockArgs(**kw)
    if len(sample.residuals) > 1:
        assert backend.reasons("dense_block", a)
        return
    with record_kernels() as names:
        y = backend.dense_block(a)
    assert len(names) == len(a.weights)
    if y.numel():
        exact = reference.dense_block(**samples.convert(kw, torch.float64))
        assert_as_close(y, reference.dense_block(**kw), exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sample", samples.PICTURES, ids=lambda s: s.name)
def test_shuffles_are_exact(backend, sample, dtype):
    x, r = sample.shuffled(dtype), sample.factor
    y = backend.pixel_shuffle(x, r)
    assert torch.equal(y, reference.pixel_shuffle(x, r))
    assert memory_format_of(y) == memory_format_of(x)
    x = sample.unshuffled(dtype)
    assert torch.equal(backend.pixel_unshuffle(x, r), reference.pixel_unshuffle(x, r))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize(
    ("shape", "layout", "offset", "in_pieces"),
    [
        ((2, 16, 3, 5), "channels_last", 0, True),
        ((1, 8, 2, 7), "channels_last", 0, True),
        ((1, 10, 2, 7), "channels_last", 0, False),
        ((2, 3, 2, 16), "contiguous", 0, True),
        ((1, 1, 3, 8), "contiguous", 8, True),
        ((1, 1, 3, 8), "contiguous", 1, False),
        ((1, 2, 3, 9), "contiguous", 0, False),
    ],
)
def test_shuffles_in_pieces_of_sixteen_bytes(
    backend, extension, shape, layout, offset, factor, in_pieces, dtype, monkeypatch
):
    found = []
    call = extension.shuffle
    monkeypatch.setattr(cuda_plan.native, "shuffle", lambda *a: found.append(call(*a)))
    sample = samples.Picture(shape=shape, factor=factor, layout=layout, offset=offset)
    x, fine = sample.shuffled(dtype), sample.unshuffled(dtype)
    assert torch.equal(backend.pixel_shuffle(x, factor), reference.pixel_shuffle(x, factor))
    assert torch.equal(backend.pixel_unshuffle(fine, factor), reference.pixel_unshuffle(fine, factor))
    assert found == [in_pieces] * 2


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize("sample", samples.PICTURES, ids=lambda s: s.name)
def test_residual_add(backend, sample, dtype):
    x, r1, r2 = sample.terms(3, dtype)
    for residuals in ([(r1, 1.0)], [(r1, 0.2), (r2, -1.5)]):
        y = backend.residual_add(x, residuals, 0.5)
        if y.numel():
            exact = reference.residual_add(x.double(), [(r.double(), w) for r, w in residuals], scale=0.5)
            assert_as_close(y, reference.residual_add(x, residuals, scale=0.5), exact)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16], ids=str)
@pytest.mark.parametrize(("shape", "layout"), samples.IMAGES)
def test_pictures(backend, shape, layout, dtype):
    image = samples.image(shape, layout, dtype)
    x = backend.image_to_float(image)
    assert torch.equal(x, reference.image_to_float(image))
    wild = torch.cat([x.flatten() * 3 - 1, torch.tensor([torch.nan, torch.inf, -torch.inf])])
    wild = wild[-x.numel() :].view(x.shape)
    assert torch.equal(backend.float_to_image(wild, dtype), reference.float_to_image(wild, dtype))


def test_the_self_check_names_what_fails(backend, monkeypatch):
    pack = cuda_plan.pack
    monkeypatch.setattr(cuda_plan, "pack", lambda w, *rest: pack(w.flip(2), *rest))
    assert "largest error" in cuda_check.check_kernel(CPU, "conv2d_sm80/32x16")
    monkeypatch.setattr(cuda_plan.native, "add", lambda *_: None)
    assert cuda_check.check_memory_ops(CPU) == "residual_add, torch.float32"


def test_a_kernel_that_failed_is_left_out(backend):
    sample = layer(32, 64)
    cuda_check._results[-1]["conv2d_sm80/64"] = "wrong"
    assert check(backend, sample, torch.float16) != ["cuda/conv2d_sm80/64"]
    for kernel in cuda_plan.kernels():
        cuda_check._results[-1][kernel.name] = "wrong"
    assert backend.reasons("conv2d", arguments(sample, torch.float16)[0]) == ["wrong"]


def test_weights_are_packed_once_and_again_when_they_change(backend, monkeypatch):
    packed = []
    pack = cuda_plan.pack
    monkeypatch.setattr(cuda_plan, "pack", lambda *a: packed.append(1) or pack(*a))
    a, _ = arguments(layer(16, 8, 5, 5), torch.float16)
    first = backend.conv2d(a)
    assert torch.equal(backend.conv2d(a), first)
    assert len(packed) == 1
    a.weight.mul_(2.0)
    second = backend.conv2d(a)
    assert len(packed) == 2
    assert not torch.equal(first, second)


def test_a_plan_asks_no_more_for_tensors_that_stay_the_same(backend, monkeypatch):
    """At the second use it keeps what its steps read; any change, and any other tensor, is noticed."""
    sample = layer(16, 8, 5, 5, activation="prelu", slopes=8)
    a, _ = arguments(sample, torch.float16)
    run = backend.prepare("conv2d", a)

    def check_run(a: ConvArgs) -> None:
        assert torch.equal(run(a), backend.conv2d(a))

    for _ in range(2):
        check_run(a)
    with monkeypatch.context() as patched:
        patched.setattr(cuda_plan, "cached", lambda *_: pytest.fail("asked"))
        run(a)
    for field in ("weight", "bias", "prelu_weight"):
        tensor = getattr(a, field)
        for change in (lambda t: t.mul_(2.0), lambda t: setattr(t, "data", t.data * -1.5)):
            change(tensor)
            for _ in range(3):
                check_run(a)
        a = replace(a, **{field: tensor * 0.5})
        for _ in range(3):
            check_run(a)
    check_run(replace(a, weight=a.weight.clone(), bias=None))
    with torch.inference_mode():
        b = replace(a, weight=a.weight * 2.0, bias=a.bias * 3.0)
        for factor in (1.0, 0.5, 3.0):
            b.bias.mul_(factor)
            check_run(b)


def test_a_plan_forgets_weights_that_are_gone(backend):
    a, _ = arguments(layer(16, 8, 5, 5), torch.float16)
    run = backend.prepare("conv2d", a)
    for _ in range(2):
        run(a)
    [plan] = run.plans.values()
    assert len(plan._packed) == 1
    a.weight = torch.zeros_like(a.weight)
    assert not plan._packed
    assert bool((run(a) == a.bias.view(1, -1, 1, 1)).all())


@pytest.mark.parametrize(
    ("shape", "padding"), [((1, 8, 1, 7), (1, 1, 0, 1)), ((2, 8, 5, 1), (1, 0, 1, 1)), ((1, 3, 1, 1), 0)]
)
def test_an_upsample_to_a_single_row_or_column(backend, shape, padding):
    """Its other phases have no output pixels."""
    kernel = (2, 2) if padding == 0 else (3, 3)
    sample = Conv(shape=shape, channels=8, kernel=kernel, upsample=2, padding=padding, layout="channels_last")
    assert 1 in ConvArgs.output_shape(arguments(sample, torch.float16)[0])[2:]
    check(backend, sample, torch.float16)


def test_what_cannot_be_launched_raises_with_shapes_and_kernel(backend, extension):
    a, _ = arguments(layer(8, 64, 5, 7), torch.float16)
    y = torch.empty(a.output_shape(), dtype=torch.float16, memory_format=torch.channels_last)
    plan = cuda_plan.ConvPlan(a, y)
    plan.steps[0].kernel = 99
    with pytest.raises(
        RuntimeError, match=r"input \(1, 8, 5, 7\), weight \(64, 8, 3, 3\).*kernel 99: no such"
    ):
        plan.run(a, y)
    plan.steps[0].kernel = plan.kernel.index
    plan.steps[0].dtype = 0
    with pytest.raises(RuntimeError, match="must be float16 or bfloat16"):
        plan.run(a, y)


def test_refusals_say_why(backend):
    a, _ = arguments(layer(8, 8, 12, 12), torch.float16)
    cases = {
        "float32": replace(a, input=a.input.float()),
        "dilation": replace(a, dilation=(2, 2)),
        "stride": replace(a, stride=(3, 1)),
        "groups": replace(a, groups=8),
        "11x11": replace(a, weight=torch.zeros(8, 8, 11, 11, dtype=torch.float16)),
    }
    for word, case in cases.items():
        assert any(word in reason for reason in backend.reasons("conv2d", case)), word
