# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Every Triton kernel over the shared ragged samples, through Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from sr_kernels import ops, reference
from sr_kernels.backends import record_kernels
from sr_kernels.backends.base import BackendError
from sr_kernels.backends.triton import configs, plan
from tests import samples
from tests.closeness import assert_as_close

pytestmark = pytest.mark.usefixtures("interpreted", "poisoned")

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def refused(sample):
    """What the backend has no kernel for."""
    return sample.groups > 1 or (sample.upsample > 1 and sample.stride != 1)


def by_name(sample):
    return sample.name


def check(sample, dtype, load=""):
    """The sample on this backend against the reference in float64; the kernels that ran."""
    arguments = sample.arguments(dtype)
    with record_kernels() as names:
        y = ops.conv2d(**arguments, backend="triton")
    assert names
    assert all(name.startswith(f"triton/conv2d_{load}") for name in names), names
    plain = samples.plain(sample, arguments)
    eager = reference.conv2d(**plain)
    assert y.shape == eager.shape
    if y.numel():
        assert_as_close(y, eager, reference.conv2d(**samples.convert(plain, torch.float64)))


@pytest.mark.parametrize("sample", samples.CONVS, ids=by_name)
def test_conv2d(sample):
    if refused(sample):
        with pytest.raises(BackendError, match=r"groups|upsample needs"):
            ops.conv2d(**sample.arguments(torch.float16), backend="triton")
    else:
        check(sample, torch.float16)


@every_dtype
@pytest.mark.parametrize("sample", [s for s in samples.SMALL_CONVS if not refused(s)], ids=by_name)
def test_small_conv2d(sample, dtype):
    check(sample, dtype)


LOADED = {
    "boxes": samples.Conv(shape=(2, 24, 9, 19), channels=33, layout="channels_last", activation="silu"),
    "pointers": samples.Conv(shape=(2, 11, 9, 19), channels=33, stride=2, residuals=(0.5,)),
    "window": samples.Conv(shape=(2, 3, 9, 19), channels=33, activation="prelu", slopes=33),
    "taps": samples.Conv(shape=(2, 24, 9, 19), channels=3, base="same"),
}


@every_dtype
@pytest.mark.parametrize("load", LOADED)
def test_each_way_of_reading(load, dtype):
    check(LOADED[load], dtype, load)


@pytest.mark.parametrize("load", ["boxes", "pointers", "window"])
@pytest.mark.parametrize("swap", [False, True])
def test_configurations(load, swap, monkeypatch):
    """Tiles narrower and wider than the picture, several blocks of channels either way."""
    sample = samples.Conv(
        shape=(1, 24, 9, 19), channels=40, residuals=(0.5,), activation="gelu", layout="channels_last"
    )
    for th, tw, bn, bk in ((4, 8, 16, 32), (1, 32, 64, 16), (16, 32, 32, 64)):
        config = configs.Config(th, tw, bn, bk, swap=swap)
        monkeypatch.setattr(plan, "load_of", lambda a: load)
        monkeypatch.setattr(configs, "choose", lambda *a, config=config: config)
        with record_kernels() as names:
            y = ops.conv2d(**sample.arguments(torch.float16), backend="triton")
        assert names == [f"triton/conv2d_{load}/{th}x{tw}x{bn}{'t' if swap else ''}"]
        plain = samples.plain(sample, sample.arguments(torch.float16))
        exact = reference.conv2d(**samples.convert(plain, torch.float64))
        assert_as_close(y, reference.conv2d(**plain), exact)
        plan_cache_is_cold()


def plan_cache_is_cold():
    from sr_kernels.backends import registry

    registry._prepared.clear()


@pytest.mark.parametrize("offsets", [(0, 3), (3, 0)], ids=str)
@pytest.mark.parametrize("co", [8, 3])
def test_an_address_decides_nothing(offsets, co):
    """Where no descriptor may begin, by its address alone, the input is copied, whichever came first."""
    weight = torch.randn(co, 16, 3, 3).half()
    storage = torch.randn(16 * 9 * 7 + 8).half()
    found = []
    for offset in offsets:
        x = storage[offset : offset + 16 * 9 * 7].view(1, 9, 7, 16).permute(0, 3, 1, 2)
        with record_kernels() as names:
            y = ops.conv2d(x, weight, padding=1, backend="triton")
        assert_as_close(
            y,
            torch.nn.functional.conv2d(x, weight, padding=1),
            torch.nn.functional.conv2d(x.double(), weight.double(), padding=1),
        )
        found += names
    aligned = storage.data_ptr() % 16 == 0
    assert aligned
    assert [name.split("/")[1] for name in found] == [f"conv2d_{'taps' if co == 3 else 'boxes'}"] * 2


def test_copies_lie_16_bytes_apart():
    storage = torch.zeros(1 + 9 * 7 * 24).half()
    x = storage[1:].view(1, 9, 7, 24).permute(0, 3, 1, 2)[:, :18]
    assert plan.takes_boxes(x)
    y = plan.laid_out(x.copy_(torch.randn(x.shape)))
    assert plan.takes_boxes(y)
    assert y.data_ptr() % 16 == 0
    assert torch.equal(x, y)


def test_an_expanded_input_is_read_by_pointers():
    """Samples that are one have no stride that a descriptor may have."""
    x, weight = torch.randn(1, 16, 9, 7).half(), torch.randn(8, 16, 3, 3).half()
    x = x.contiguous(memory_format=torch.channels_last).expand(3, -1, -1, -1)
    with record_kernels() as names:
        y = ops.conv2d(x, weight, padding=1, backend="triton")
    assert [name.split("/")[1] for name in names] == ["conv2d_pointers"]
    eager, exact = (torch.nn.functional.conv2d(t, weight.to(t.dtype), padding=1) for t in (x, x.double()))
    assert_as_close(y, eager, exact)


DENSE = [
    *samples.DENSE,
    samples.Dense(shape=(1, 32, 9, 11), growth=(16, 16, 16, 16), layout="channels_last", residuals=(0.5,)),
]


@pytest.mark.parametrize("sample", DENSE, ids=by_name)
def test_dense_block(sample):
    arguments = sample.arguments(torch.float16)
    if len(sample.residuals) > 1:
        with pytest.raises(BackendError, match="two residuals"):
            ops.dense_block(**arguments, backend="triton")
        return
    with record_kernels() as names:
        y = ops.dense_block(**arguments, backend="triton")
    assert len(names) == len(sample.growth) + 1
    assert all(name.startswith("triton/conv2d") for name in names)
    plain = {**arguments, "residuals": arguments.pop("residual", None) or ()}
    plain.pop("residual", None)
    eager = reference.dense_block(**plain)
    assert y.shape == eager.shape
    if y.numel():
        assert_as_close(y, eager, reference.dense_block(**samples.convert(plain, torch.float64)))


@pytest.mark.parametrize("op", ["pixel_shuffle", "pixel_unshuffle"])
@pytest.mark.parametrize(
    ("layout", "channels", "factor", "dtype"),
    [
        *((layout, 3, 2, torch.float16) for layout in samples.LAYOUTS),
        *(("channels_last", channels, 2, torch.float32) for channels in (1, 8, 64)),
        ("channels_last", 4, 4, torch.float64),
        ("channels_last", 2, 3, torch.bfloat16),
        ("contiguous", 1, 3, torch.float64),
    ],
    ids=str,
)
def test_shuffles(op, layout, channels, factor, dtype):
    x = torch.randn(2, channels * factor**2, 2 * factor, 3 * factor).to(dtype)
    x = samples.arrange(x, layout)
    with record_kernels() as names:
        y = getattr(ops, op)(x, factor, backend="triton")
    assert names == [f"triton/{op}"]
    assert torch.equal(y, getattr(reference, op)(x, factor))


@every_dtype
@pytest.mark.parametrize("residuals", [(1.0,), (0.2, -1.5)])
def test_residual_add(dtype, residuals):
    x = torch.randn(2, 3, 5, 7).to(dtype)
    others = [(torch.randn(2, 3, 5, 7).to(dtype), weight) for weight in residuals]
    with record_kernels() as names:
        y = ops.residual_add(x, others, scale=0.3, backend="triton")
    assert names == ["triton/residual_add"]
    exact = reference.residual_add(*samples.convert([x, others], torch.float64), scale=0.3)
    assert_as_close(y, reference.residual_add(x, others, scale=0.3), exact)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16], ids=str)
def test_pictures(dtype):
    full = 255 if dtype == torch.uint8 else 65535
    image = torch.linspace(0, full, 3 * 7 * 11).round().to(torch.int32).to(dtype).view(7, 11, 3)
    with record_kernels() as names:
        y = ops.image_to_float(image, backend="triton")
        again = ops.float_to_image(y, dtype, backend="triton")
    assert names == ["triton/image_to_float", "triton/float_to_image"]
    assert torch.equal(y, reference.image_to_float(image))
    assert torch.equal(again.to(torch.int32), image.to(torch.int32))
    halves = torch.tensor([0.5, 1.5, 2.5, -3.0, full + 9.0, float("nan"), float("inf"), -0.0]) / full
    halves = halves.view(1, 1, 2, 4)
    found = ops.float_to_image(halves, dtype, backend="triton")
    assert torch.equal(found.to(torch.int32), reference.float_to_image(halves, dtype).to(torch.int32))


@pytest.mark.parametrize("magnitude", [1e-4, 0.1, 0.5, 0.7, 4.0])
@pytest.mark.parametrize("activation", ["tanh", "silu", "gelu"])
def test_small_results(activation, magnitude):
    """What is small is as near to the exact result, for its size, as eager's."""
    x, weight = magnitude * torch.randn(1, 4, 21, 21), torch.randn(8, 4, 1, 1) / 2
    a = {"padding": (0, 0, 0, 0), "activation": activation}
    y = ops.conv2d(x, weight, activation=activation, backend="triton")
    eager = reference.conv2d(x, weight, **a)
    assert_as_close(y, eager, reference.conv2d(x.double(), weight.double(), **a))


@pytest.mark.parametrize("load", configs.LOADS)
def test_special_values(load):
    """NaN and infinities come out where eager's do, or, where eager errs, where they are in float64."""
    ci, co, stride = {"window": (4, 8, 1), "taps": (16, 3, 1), "pointers": (16, 8, 2)}.get(load, (16, 8, 1))
    x = torch.randn(1, ci, 9, 9)
    x[0, 0, 1, 1], x[0, 1, 4, 4], x[0, 2, 7, 7] = torch.nan, torch.inf, -torch.inf
    weight = torch.randn(co, ci, 3, 3)
    for activation in reference.ACTIVATIONS:
        slopes = torch.rand(co) if activation == "prelu" else None
        a = {"padding": 1, "activation": activation, "prelu_weight": slopes, "stride": stride}
        with record_kernels() as names:
            y = ops.conv2d(x, weight, **a, backend="triton")
        assert names[0].startswith(f"triton/conv2d_{load}"), names
        a["padding"], a["stride"] = (1, 1, 1, 1), (stride, stride)
        eager = reference.conv2d(x, weight, **a)
        a = samples.convert(a, torch.float64)
        exact = reference.conv2d(x.double(), weight.double(), **a)
        for mask in (torch.isnan, torch.isposinf, torch.isneginf):
            assert ((mask(y) == mask(eager)) | (mask(y) == mask(exact))).all(), (activation, mask)
