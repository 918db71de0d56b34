# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Every op against the reference in float64, beside eager PyTorch, on the automatic and torch's backend."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sr_kernels import ops, reference
from sr_kernels.backends import record_kernels, registry
from sr_kernels.backends.base import dense_strides, memory_format_of
from tests import samples
from tests.closeness import assert_as_close

BACKENDS = ("auto", "torch")
OTHER_DTYPES = (torch.float64, torch.bfloat16, torch.float16)

pytestmark = [pytest.mark.usefixtures("poisoned"), pytest.mark.parametrize("backend", BACKENDS)]


def by_name(sample):
    return sample.name


def assert_ran(names, op, backend):
    """One kernel ran: torch's where it was asked for, else one of the first backend that is able here."""
    able = [name for name in registry.order("cpu") if not registry.unavailable(name)]
    allowed = ("torch",) if backend == "torch" else tuple(able)
    assert names, f"{op} recorded no kernel"
    for name in names:
        assert name.split("/")[0] in allowed, names
        if name.startswith("torch/"):
            assert names == [f"torch/{op}"]


def assert_layout(y, x):
    assert y.stride() == dense_strides(y.shape, memory_format_of(x))


def draws_for(numel):
    """Errors of few elements are too few to compare: pool several draws."""
    return min(8, math.ceil(2000 / max(numel, 1)))


def compare(sample, ours, plain, dtype=torch.float32):
    """ours(draw's arguments) against plain(the same) in dtype and in float64."""
    first = ours(sample.arguments(dtype))
    if first.numel() == 0:
        assert first.shape == plain(sample.arguments(dtype)).shape
        return
    results = []
    for draw in range(draws_for(first.numel())):
        arguments = sample.arguments(dtype, draw)
        before = [t.clone() for t in samples.tensors_of(arguments)]
        y = ours(arguments)
        results.append((y, plain(arguments), plain(samples.convert(arguments, torch.float64))))
        assert all(map(torch.equal, before, samples.tensors_of(arguments))), "an input was written to"
    assert_as_close(*(torch.cat([r.flatten() for r in part]) for part in zip(*results, strict=True)))


@pytest.mark.parametrize("sample", samples.CONVS, ids=by_name)
def test_conv2d(sample, backend):
    arguments = sample.arguments()
    with record_kernels() as names:
        y = ops.conv2d(**arguments, backend=backend)
    assert_ran(names, "conv2d", backend)
    assert_layout(y, arguments["input"])
    compare(
        sample,
        lambda a: ops.conv2d(**a, backend=backend),
        lambda a: reference.conv2d(**samples.plain(sample, a)),
    )


def test_one_channel_keeps_the_format_of_its_strides(backend):
    """It is contiguous in both formats: clone gives it the other's strides, contiguous does not."""
    x, weight = torch.randn(2, 1, 4, 5), torch.randn(3, 1, 3, 3)
    same = x.contiguous(memory_format=torch.channels_last)
    other = x.clone(memory_format=torch.channels_last)
    for input, memory_format in ((same, torch.contiguous_format), (other, torch.channels_last)):
        y = ops.conv2d(input, weight, padding=1, backend=backend)
        assert y.stride() == dense_strides(y.shape, memory_format)


@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=str)
@pytest.mark.parametrize("sample", samples.FEATURES, ids=by_name)
def test_conv2d_in_other_dtypes(sample, dtype, backend):
    with record_kernels() as names:
        compare(
            sample,
            lambda a: ops.conv2d(**a, backend=backend),
            lambda a: reference.conv2d(**samples.plain(sample, a)),
            dtype,
        )
    if backend == "torch" or dtype == torch.float64:
        assert set(names) == {"torch/conv2d"}


def eager_transposed(a):
    y = F.conv_transpose2d(a["input"], a["weight"], a["bias"], a["stride"], a["padding"], a["output_padding"])
    return reference.activate(y, a["activation"] or "none", prelu_weight=a["prelu_weight"])


@pytest.mark.parametrize("sample", samples.TRANSPOSED, ids=by_name)
def test_conv_transpose2d(sample, backend):
    compare(sample, lambda a: ops.conv_transpose2d(**a, backend=backend), eager_transposed)
    with record_kernels() as names:
        ops.conv_transpose2d(**sample.arguments(), backend=backend)
    if isinstance(sample.stride, int):
        assert_ran(names, "conv2d", backend)
    else:
        assert names == ["torch/conv_transpose2d"]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stride", [2, 3, (1, 2)], ids=str)
def test_conv_transpose2d_is_dense(stride, channels, layout, backend):
    """Also where the size is no multiple of the stride; the memory format is the input's."""
    x = samples.arrange(torch.randn(2, 5, 4, 6), layout)
    weight = torch.randn(5, channels, 3, 4)
    y = ops.conv_transpose2d(x, weight, stride=stride, padding=1, backend=backend)
    assert_layout(y, x)
    torch.testing.assert_close(y, F.conv_transpose2d(x, weight, stride=stride, padding=1))


def plain_block(a):
    a = {**a, "residuals": a["residual"] or ()}
    del a["residual"]
    return reference.dense_block(**a)


@pytest.mark.parametrize("sample", samples.DENSE, ids=by_name)
def test_dense_block(sample, backend):
    arguments = sample.arguments()
    with record_kernels() as names:
        y = ops.dense_block(**arguments, backend=backend)
    if backend == "torch":
        assert names == ["torch/dense_block"]
    assert names
    assert_layout(y, arguments["input"])
    compare(sample, lambda a: ops.dense_block(**a, backend=backend), plain_block)


@pytest.mark.parametrize("dtype", [torch.float32, *OTHER_DTYPES], ids=str)
@pytest.mark.parametrize("sample", samples.PICTURES, ids=by_name)
def test_shuffles_are_exact(sample, dtype, backend):
    x, r = sample.shuffled(dtype), sample.factor
    with record_kernels() as names:
        y = ops.pixel_shuffle(x, r, backend=backend)
    assert_ran(names, "pixel_shuffle", backend)
    assert torch.equal(y, F.pixel_shuffle(x, r))
    assert_layout(y, x)
    assert y.data_ptr() != x.data_ptr() or y.numel() == 0

    x = sample.unshuffled(dtype)
    with record_kernels() as names:
        y = ops.pixel_unshuffle(x, r, backend=backend)
    assert_ran(names, "pixel_unshuffle", backend)
    if x.numel() == 0:
        assert y.shape == (0, x.shape[1] * r * r, x.shape[2] // r, x.shape[3] // r)
    else:
        assert torch.equal(y, F.pixel_unshuffle(x, r))
    assert_layout(y, x)


@pytest.mark.parametrize("sample", samples.PICTURES, ids=by_name)
def test_residual_add(sample, backend):
    x, first, second = sample.terms(3)
    for residual, scale in ((first, 1.0), ([(first, 0.5)], -0.3), ([(first, 0.2), (second, -2.0)], 0.1)):
        with record_kernels() as names:
            y = ops.residual_add(x, residual, scale=scale, backend=backend)
        assert_ran(names, "residual_add", backend)
        assert_layout(y, x)
        pairs = [(residual, 1.0)] if isinstance(residual, torch.Tensor) else residual
        eager = reference.residual_add(x, pairs, scale=scale)
        exact = reference.residual_add(x.double(), samples.convert(pairs, torch.float64), scale=scale)
        if y.numel() == 0:
            assert y.shape == eager.shape
        else:
            assert_as_close(y, eager, exact)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16], ids=str)
@pytest.mark.parametrize(("shape", "layout"), samples.IMAGES, ids=str)
def test_images(shape, layout, dtype, backend):
    image = samples.image(shape, layout, dtype)
    with record_kernels() as names:
        x = ops.image_to_float(image, backend=backend)
    assert_ran(names, "image_to_float", backend)
    assert x.stride() == dense_strides(x.shape, torch.channels_last)
    top = torch.iinfo(dtype).max
    exact = (image.to(torch.float64) / top).permute(2, 0, 1)[None]
    assert_as_close(x, reference.image_to_float(image), exact)

    with record_kernels() as names:
        back = ops.float_to_image(x, dtype, backend=backend)
    assert_ran(names, "float_to_image", backend)
    assert torch.equal(back.to(torch.int32), image.to(torch.int32)), (
        "a picture does not survive the round trip"
    )
    assert back.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16], ids=str)
@pytest.mark.parametrize("layout", samples.LAYOUTS)
def test_float_to_image_clamps_and_rounds(layout, dtype, backend):
    top = torch.iinfo(dtype).max
    x = torch.linspace(-0.2, 1.2, 3 * 11 * 13).view(1, 3, 11, 13)
    x.view(-1)[:6] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5 / top, 1.5 / top, -0.0])
    y = ops.float_to_image(samples.arrange(x, layout), dtype, backend=backend)
    expected = reference.float_to_image(x, dtype)
    assert torch.equal(y.to(torch.int32), expected.to(torch.int32))
    assert int(y.to(torch.int32).max()) == top


def test_special_values(backend):
    """NaN and infinities come out where eager's do, or, where eager errs (its gelu of infinity is NaN), where
    they are in float64; zeros keep their sign."""
    x = torch.randn(1, 4, 9, 9)
    x[0, 0, 1, 1], x[0, 1, 4, 4], x[0, 2, 7, 7], x[0, 3, 7, 1] = math.nan, math.inf, -math.inf, 1e-42
    weight, residual = torch.randn(8, 4, 3, 3), torch.randn(1, 8, 9, 9)
    for activation in reference.ACTIVATIONS:
        for after in (False, True):
            sample = samples.Conv(activation=activation, scale=0.5, after=after)
            slopes = torch.rand(8) if activation == "prelu" else None
            a = {"scale": 0.5, "activation_after_add": after, "residual": residual, "prelu_weight": slopes}
            y = ops.conv2d(x, weight, padding=1, activation=activation, **a, backend=backend)
            a = {**a, "input": x, "weight": weight, "padding": 1, "stride": 1, "dilation": 1}
            a = samples.plain(sample, {**a, "activation": activation, "residual": [(residual, 1.0)]})
            eager, exact = reference.conv2d(**a), reference.conv2d(**samples.convert(a, torch.float64))
            for mask in (torch.isnan, torch.isposinf, torch.isneginf):
                assert ((mask(y) == mask(eager)) | (mask(y) == mask(exact))).all(), (activation, mask)
    z = torch.tensor([0.0, -0.0, -1.0, 2.0]).view(1, 1, 2, 2)
    y = ops.pixel_shuffle(z.view(1, 4, 1, 1), 2, backend=backend)
    assert torch.equal(torch.signbit(y), torch.signbit(z))


def test_repeats_are_bitwise_equal(backend):
    arguments = samples.CONVS[-1].arguments()
    y = ops.conv2d(**arguments, backend=backend)
    assert all(torch.equal(y, ops.conv2d(**arguments, backend=backend)) for _ in range(5))
