# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The kernels made for some layers alone: Hopper's, and the one for few outputs."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from sr_kernels import record_kernels, reference
from sr_kernels.backends import cuda_check, cuda_choice, cuda_plan
from sr_kernels.backends.base import DenseBlockArgs
from tests import samples
from tests.closeness import assert_as_close
from tests.native.cuda.test_emulated import CPU, HALVES, arguments, check, layer

pytestmark = pytest.mark.usefixtures("poisoned")

# One at least for each variant, blocks and chunks that are not whole, every epilogue.
LAYERS = [
    ("staged", layer(64, 64, 9, 11, activation="relu")),
    ("staged", layer(8, 72, activation="prelu", slopes=72, residuals=(0.5,))),
    ("staged", layer(64, 256, 7, 9, shuffle=2)),
    ("resident", layer(48, 130, 5, 9, activation="silu", residuals=(1.0, -0.5), scale=0.2, after=True)),
    ("resident", layer(16, 48, 7, 9, shuffle=4, base="nearest", factor=4)),
    ("resident", layer(24, 84, 7, 9, activation="prelu", slopes=84, shuffle=2, base="same")),
    ("staged_wide", layer(136, 64, 9, 11, activation="leaky_relu", slope=0.2)),
    ("staged_wide", layer(72, 200, 5, 7, padding=0, residuals=(1.0, -0.5))),
    ("streamed", layer(72, 202, 5, 7, padding=0)),
    ("stacked", layer(64, 32, 9, 35, activation="leaky_relu", slope=0.2)),
    ("stacked", layer(40, 12, 9, 11, activation="sigmoid", shuffle=2, base="same")),
    ("stacked", layer(8, 5, 9, 11, activation="prelu", slopes=1)),
    ("stacked_wide", layer(160, 32, 9, 11, residuals=(1.0,))),
    ("stacked_wide", layer(72, 30, 9, 11, padding=2)),
    ("resident", layer(16, 48, 7, 9, activation="gelu", shuffle=4, base="bilinear", factor=4)),
    ("resident", layer(24, 60, 33, 17, activation="tanh", shuffle=2, base="bilinear", factor=2)),
    ("resident", layer(16, 40, 9, 11, activation="gelu", residuals=(1.0,), after=True)),
    ("streamed", layer(72, 130, 5, 7, activation="tanh", scale=0.5)),
    ("streamed", layer(104, 36, 1, 1, shuffle=3, base="bilinear", factor=3)),
    ("stacked", layer(64, 32, 9, 11, activation="tanh")),
    ("stacked", layer(24, 27, 35, 18, shuffle=3, base="bilinear", factor=3)),
    ("stacked_wide", layer(136, 12, 31, 9, activation="gelu", shuffle=2, base="bilinear", factor=2)),
    ("stacked_wide", layer(72, 3, 9, 11, base="bilinear", factor=1)),
    ("staged", layer(64, 64, 9, 11, upsample=2, activation="leaky_relu", slope=0.2)),
    ("staged_wide", layer(72, 32, 5, 7, upsample=2, activation="prelu", slopes=32)),
    ("resident", layer(16, 20, 9, 11, upsample=2, activation="prelu", slopes=1, base="same")),
    ("stacked", layer(16, 3, 9, 11, upsample=2, base="nearest", factor=2)),
]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("variant", "sample"), LAYERS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_layers(hopper, variant, sample, dtype):
    assert check(hopper, sample, dtype) == [f"cuda/conv2d_sm90/{variant}"]


# Several tiles for a block of threads: rings of tiles and of weights go round, warpgroups take turns.
LARGE = [
    ("staged", layer(64, 136, 50, 40, activation="prelu", slopes=136, residuals=(1.0, -0.5))),
    ("resident", layer(40, 130, 70, 40, activation="silu", residuals=(1.0,), after=True)),
    ("staged_wide", layer(136, 136, 50, 20, residuals=(0.2,), scale=0.04)),
    ("streamed", layer(136, 130, 40, 40, activation="leaky_relu", slope=0.1)),
    ("staged", layer(64, 136, 50, 40, activation="relu")),
    ("resident", layer(8, 147, 70, 40, activation="gelu", shuffle=7, base="bilinear", factor=7)),
    ("stacked", layer(64, 27, 70, 90, shuffle=3, base="nearest", factor=3)),
    ("stacked_wide", layer(160, 24, 60, 70, activation="relu")),
]


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize(("variant", "sample"), LARGE, ids=lambda v: v if isinstance(v, str) else v.name)
def test_many_tiles(hopper, variant, sample):
    assert check(hopper, sample, torch.float16) == [f"cuda/conv2d_sm90/{variant}"]


TAILS = [
    layer(64, 3, 17, 35, base="same"),
    layer(32, 1, activation="relu"),
    layer(8, 4, 7, 9, shuffle=2, base="bilinear", factor=2),
    layer(128, 3, 18, 33, padding=0, residuals=(0.5,), scale=2.0),
    layer(40, 2, 19, 5, padding=2, activation="prelu", slopes=2),
]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("sample", TAILS, ids=lambda s: s.name)
def test_few_outputs(hopper, sample, dtype):
    assert check(hopper, sample, dtype) == ["cuda/conv2d_tail"]


@pytest.mark.parametrize(
    "sample",
    [
        layer(12, 64),
        layer(64, 64, 9, 11, stride=2),
        layer(64, 64, 9, 11, upsample=2, padding=0),
        layer(64, 64, 9, 11, upsample=2, residuals=(1.0,)),
        layer(64, 64, 9, 11, upsample=3),
        layer(64, 64, 9, 11, kernel=(1, 1), padding=0),
        layer(16, 16, 9, 12, base="bilinear", factor=3),
        layer(16, 16, 9, 11, shuffle=2, base="nearest", factor=1),
        layer(64, 64, 9, 11, shuffle=2, residuals=(1.0,)),
    ],
    ids=lambda s: s.name,
)
def test_what_it_refuses_runs_by_the_portable_kernels(hopper, sample):
    [name] = check(hopper, sample, torch.float16)
    assert name.startswith("cuda/conv2d_sm80/")


@pytest.mark.parametrize(
    ("sample", "special"),
    [
        (layer(64, 64, 9, 11, activation="relu"), True),
        (layer(64, 3, 9, 11), True),
        (layer(3, 64, 9, 11), False),
        (layer(64, 64, 9, 11, stride=2), False),
        (layer(64, 64, 9, 11, upsample=2), True),
        (layer(64, 64, 9, 11, upsample=3), False),
        (replace(layer(64, 64, 9, 11, residuals=(1.0,)), layout="contiguous"), True),
        (layer(16, 48, 7, 9, shuffle=4, base="nearest", factor=4), True),
    ],
    ids=lambda v: v.name if isinstance(v, samples.Conv) else str(v),
)
def test_what_has_a_kernel_of_its_own_is_known_without_touching_a_tensor(hopper, sample, special):
    a, _ = arguments(sample, torch.float16)
    assert cuda_plan.has_special(a, []) == special
    [name] = check(hopper, sample, torch.float16)
    assert name.startswith("cuda/conv2d_sm80/") != special


def test_an_expanded_input_runs_by_the_portable_kernels(hopper):
    """The copy engine takes no stride of 0."""
    a, plain = arguments(layer(16, 16, 9, 11), torch.float16)
    x = a.input.expand(3, -1, -1, -1)
    with record_kernels() as names:
        y = hopper.conv2d(replace(a, input=x))
    assert names[0].startswith("cuda/conv2d_sm80/")
    plain = {**plain, "input": x}
    exact = reference.conv2d(**samples.convert(plain, torch.float64))
    assert_as_close(y, reference.conv2d(**plain), exact)


@pytest.mark.parametrize("layout", ["contiguous", "sliced", "cropped"])
@pytest.mark.parametrize("offset", [0, 3, 8])
def test_inputs_anywhere_in_memory(hopper, layout, offset):
    sample = replace(layer(16, 40, 9, 11, residuals=(1.0,)), layout=layout, offset=offset)
    # a slice's pixels are not 16 bytes apart: its results are stored otherwise
    variant = "resident" if layout == "sliced" and not offset else "staged"
    assert check(hopper, sample, torch.float16) == [f"cuda/conv2d_sm90/{variant}"]


def test_one_signature_at_two_addresses(hopper):
    """Prepared where the input lies well, called where it does not."""
    a, _ = arguments(layer(16, 40, 9, 11), torch.float16)
    run = hopper.prepare("conv2d", a)
    expected = run(a)
    memory = torch.empty(a.input.numel() + 8, dtype=torch.float16)
    for offset in (1, 8, 4):
        moved = memory[offset : offset + a.input.numel()].as_strided(a.input.shape, a.input.stride())
        assert torch.equal(run(replace(a, input=moved.copy_(a.input))), expected)


@pytest.mark.parametrize(
    ("shape", "growth", "last"),
    [
        ((2, 64, 9, 11), (32, 32), "sm90/staged_wide"),  # two tensors are read, nothing is copied
        ((2, 64, 5, 7), (20, 36), "sm90/staged_wide"),
        ((2, 32, 5, 7), (32, 32), "sm90/stacked_wide"),  # no whole chunk: all is copied into one buffer
    ],
)
def test_dense_block(hopper, shape, growth, last):
    a, kw = block(growth, shape, residuals=(1.0,))
    with record_kernels() as names:
        y = hopper.dense_block(a)
    assert len(names) == 3
    assert names[-1].startswith(f"cuda/conv2d_{last}")
    exact = reference.dense_block(**samples.convert(kw, torch.float64))
    assert_as_close(y, reference.dense_block(**kw), exact)


def block(growth=(32, 32), shape=(2, 64, 9, 11), **fields) -> tuple[DenseBlockArgs, dict]:
    kw = samples.Dense(shape=shape, growth=growth, layout="channels_last", **fields).arguments(torch.float16)
    kw["residuals"] = kw.pop("residual") or ()
    return DenseBlockArgs(**kw), kw


def test_one_signature_of_a_dense_block_at_two_addresses(hopper):
    """Channels of a wider buffer: the second slice is read from a copy, whose pixels are closer together."""
    a, _ = block(residuals=(1.0,))
    n, c, h, w = a.input.shape
    [(residual, factor)] = a.residuals
    wide = torch.full((n, h, w, 80), torch.nan, dtype=torch.float16).permute(0, 3, 1, 2)
    memory = torch.empty(residual.numel() + 8, dtype=torch.float16)
    run = hopper.prepare("dense_block", replace(a, input=wide[:, :c]))
    expected = hopper.dense_block(a)
    for first, offset in ((0, 0), (4, 0), (8, 0), (0, 3), (4, 3), (0, 0)):
        wide.fill_(torch.nan)
        x = wide[:, first : first + c].copy_(a.input)
        added = memory[offset : offset + residual.numel()].as_strided(residual.shape, residual.stride())
        added.copy_(residual)
        assert torch.equal(run(replace(a, input=x, residuals=[(added, factor)])), expected)


def test_one_plan_for_threads_that_meet_a_dense_block_at_once(hopper):
    a, _ = block(growth=(32, 32), shape=(2, 32, 5, 7))  # all is copied into one buffer
    expected = hopper.dense_block(a)
    run = hopper.prepare("dense_block", a)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: run(a), range(8)))
    assert all(torch.equal(y, expected) for y in found)


@pytest.mark.parametrize("offset", [1, 4])
def test_what_is_added_is_not_copied_where_it_lies_badly(hopper, offset):
    """A kernel that stages it is not chosen then; expanded and narrow tensors as any other."""
    a, plain = arguments(layer(16, 72, 9, 11), torch.float16)
    run = None
    wide = torch.randn(1, 9, 11, 1000).half().permute(0, 3, 1, 2)
    for begin, name in ((0, "staged"), (offset, "resident"), (8, "staged")):
        residual = wide[:, begin : begin + 72]
        b = replace(a, residuals=[(residual, 0.5)])
        run = run or hopper.prepare("conv2d", b)
        with record_kernels() as names:
            y = run(b)
        assert names == [f"cuda/conv2d_sm90/{name}"]
        kw = {**plain, "residuals": [(residual, 0.5)]}
        exact = reference.conv2d(**samples.convert(kw, torch.float64))
        assert_as_close(y, reference.conv2d(**kw), exact)


@pytest.mark.parametrize("inputs", [16, 12])  # of a kernel made for some layers, and of a portable one
def test_an_expanded_residual_that_lies_badly(hopper, inputs):
    a, plain = arguments(replace(layer(inputs, 40, 9, 11), shape=(3, inputs, 9, 11)), torch.float16)
    memory = torch.randn(1 + 40 * 99).half()
    residual = memory[1:].view(1, 9, 11, 40).permute(0, 3, 1, 2).expand(3, -1, -1, -1)
    kw = {**plain, "residuals": [(residual, 1.0)]}
    y = hopper.conv2d(replace(a, residuals=[(residual, 1.0)]))
    exact = reference.conv2d(**samples.convert(kw, torch.float64))
    assert_as_close(y, reference.conv2d(**kw), exact)


def test_a_variant_that_fails_its_self_check_is_left_out(hopper, monkeypatch):
    variants = [k.name for k in cuda_plan.kernels() if k.capability]
    assert {f"conv2d_sm90/{variant}" for variant, _ in LAYERS} == set(variants)
    pack = cuda_plan.pack_sm90
    with monkeypatch.context() as patched:
        patched.setattr(cuda_plan, "pack_sm90", lambda w, *rest: pack(w.flip(3), *rest))
        assert "largest error" in cuda_check.check_kernel(CPU, variants[-1])
    sample = layer(64, 64, 9, 11)
    for name, then in (("staged", "sm90/resident"), ("resident", "sm80/64x64")):
        cuda_check._results[-1][f"conv2d_sm90/{name}"] = "wrong"
        hopper_runs = check(hopper, sample, torch.float16)
        assert hopper_runs == [f"cuda/conv2d_{then}"]
        assert cuda_choice._has_special(arguments(sample, torch.float16)[0]) == then.startswith("sm90")
    assert check(hopper, sample, torch.float16) == ["cuda/conv2d_sm80/64x64"]
    assert hopper.reasons("conv2d", arguments(sample, torch.float16)[0]) == []
