# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Every op on every backend of ours against float64, beside eager PyTorch on the same device."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F

from sr_kernels import ops, reference
from sr_kernels.backends import available_backends, record_kernels, registry
from sr_kernels.backends.base import dense_strides, memory_format_of
from tests import samples
from tests.closeness import assert_as_close
from tests.gpu import cases
from tests.gpu.support import assert_ran, assert_same, compare, place, run

SELF_CHECKS = {
    "cuda": "sr_kernels.backends.cuda_check",
    "triton": "sr_kernels.backends.triton.selfcheck",
}

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_the_backend_is_here(name):
    """Absent from this build is a skip with the reason, a failed self-check a failure."""
    reasons = "; ".join(available_backends()[name])
    assert "self-check" not in reasons, reasons
    if reasons:
        pytest.skip(f"{name}: {reasons}")
    assert name in registry.order("cuda")


@pytest.mark.parametrize("name", SELF_CHECKS)
def test_every_kernel_passes_its_self_check(name, device):
    """One that fails is left out with a warning, and the others would pass in its place."""
    if reasons := available_backends()[name]:
        pytest.skip(f"{name}: {'; '.join(reasons)}")
    if device == "cpu":
        pytest.skip("there is nothing to prove on the CPU")
    report = importlib.import_module(SELF_CHECKS[name]).report()
    assert report
    assert set(report.values()) == {"passed"}, report


def test_the_yardstick_is_exact(device):
    """float64 on the device is float64 on the CPU."""
    for sample in cases.LAYERS[:4]:
        arguments = samples.plain(sample, sample.arguments(torch.float64))
        mine, theirs = reference.conv2d(**place(arguments, device)).cpu(), reference.conv2d(**arguments)
        assert (mine - theirs).abs().max() <= 1e-12 * theirs.abs().max()


def check_conv2d(backend, dtype, sample, device):
    arguments = place(sample.arguments(dtype), device)
    y = run(backend, sample, dtype, lambda: ops.conv2d(**arguments, backend=backend))
    assert y.stride() == dense_strides(y.shape, memory_format_of(arguments["input"]))
    compare(
        backend,
        sample,
        dtype,
        device,
        lambda a: ops.conv2d(**a, backend=backend),
        lambda a: reference.conv2d(**samples.plain(sample, a)),
    )


def test_conv2d(backend, dtype, sample, device):
    check_conv2d(backend, dtype, sample, device)


def test_layers(backend, dtype, sample, device):
    check_conv2d(backend, dtype, sample, device)


def eager_transposed(a):
    y = F.conv_transpose2d(a["input"], a["weight"], a["bias"], a["stride"], a["padding"], a["output_padding"])
    return reference.activate(y, a["activation"] or "none", prelu_weight=a["prelu_weight"])


def test_conv_transpose2d(backend, dtype, sample, device):
    compare(
        backend,
        sample,
        dtype,
        device,
        lambda a: ops.conv_transpose2d(**a, backend=backend),
        eager_transposed,
    )


def plain_block(a):
    a = {**a, "residuals": a["residual"] or ()}
    del a["residual"]
    return reference.dense_block(**a)


def test_dense_block(backend, dtype, sample, device):
    compare(backend, sample, dtype, device, lambda a: ops.dense_block(**a, backend=backend), plain_block)


def test_shuffles_are_exact(backend, dtype, sample, device):
    r = sample.factor
    x = place(sample.shuffled(dtype), device)
    y = run(backend, sample, dtype, lambda: ops.pixel_shuffle(x, r, backend=backend))
    assert_same(y, reference.pixel_shuffle(x, r))
    assert y.stride() == dense_strides(y.shape, memory_format_of(x))

    x = place(sample.unshuffled(dtype), device)
    y = run(backend, sample, dtype, lambda: ops.pixel_unshuffle(x, r, backend=backend))
    assert_same(y, reference.pixel_unshuffle(x, r))
    assert y.stride() == dense_strides(y.shape, memory_format_of(x))


def test_residual_add(backend, dtype, sample, device):
    x, first, second = place(sample.terms(3, dtype), device)

    def check(pairs, scale):
        y = run(backend, sample, dtype, lambda: ops.residual_add(x, pairs, scale=scale, backend=backend))
        assert y.stride() == dense_strides(y.shape, memory_format_of(x))
        eager = reference.residual_add(x, pairs, scale=scale)
        exact = reference.residual_add(x.double(), samples.convert(pairs, torch.float64), scale=scale)
        if y.numel() == 0:
            assert y.shape == eager.shape
        else:
            assert_as_close(y, eager, exact)

    check([(first, 1.0)], 1.0)
    check([(first, 0.5)], -0.3)
    check([(first, 0.2), (second, -2.0)], 0.1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16], ids=str)
@pytest.mark.parametrize(("shape", "layout"), samples.IMAGES, ids=str)
def test_images(shape, layout, dtype, backend, device):
    image = place(samples.image(shape, layout, dtype), device)
    with record_kernels() as names:
        x = ops.image_to_float(image, backend=backend)
        back = ops.float_to_image(x, dtype, backend=backend)
    assert_ran(names, backend)
    assert x.stride() == dense_strides(x.shape, torch.channels_last)
    exact = (image.to(torch.float64) / torch.iinfo(dtype).max).permute(2, 0, 1)[None]
    assert_as_close(x, reference.image_to_float(image), exact)
    assert_same(back.to(torch.int32), image.to(torch.int32), "a picture there and back")
    assert back.is_contiguous()


@pytest.mark.parametrize("layout", samples.LAYOUTS)
def test_float_to_image_clamps_and_rounds(layout, backend, device):
    x = torch.linspace(-0.2, 1.2, 3 * 11 * 13).view(1, 3, 11, 13)
    x.view(-1)[:6] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5 / 255, 1.5 / 255, -0.0])
    placed = place(samples.arrange(x, layout), device)
    with record_kernels() as names:
        y = ops.float_to_image(placed, torch.uint8, backend=backend)
    assert_ran(names, backend)
    assert_same(y, reference.float_to_image(placed, torch.uint8))
