# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""First and second derivatives: in float64 by finite differences, in float32 against eager's accuracy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sr_kernels import ops, reference
from tests import samples
from tests.closeness import assert_as_close_together


def by_name(sample):
    return sample.name


def differentiable(arguments):
    """The arguments with every tensor a leaf that wants its gradient; and these tensors."""
    tensors = []

    def walk(value):
        if isinstance(value, torch.Tensor):
            tensors.append(value.detach().clone().requires_grad_())
            return tensors[-1]
        if isinstance(value, (list, tuple)):
            return type(value)(walk(v) for v in value)
        return value

    return {k: walk(v) for k, v in arguments.items()}, tensors


def with_tensors(arguments, tensors):
    """The arguments with their tensors, in order, replaced."""
    rest = iter(tensors)

    def walk(value):
        if isinstance(value, torch.Tensor):
            return next(rest)
        return type(value)(walk(v) for v in value) if isinstance(value, (list, tuple)) else value

    return {k: walk(v) for k, v in arguments.items()}


def check_both_orders(op, arguments):
    arguments, tensors = differentiable(arguments)

    def function(*tensors):
        return op(**with_tensors(arguments, tensors))

    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("sample", samples.SMALL_CONVS, ids=by_name)
def test_conv2d(sample):
    check_both_orders(ops.conv2d, sample.arguments(torch.float64))


@pytest.mark.parametrize(
    "sample",
    [
        samples.Transposed(shape=(1, 2, 2, 3), channels=2, activation="prelu", slopes=2),
        samples.Transposed(
            shape=(1, 2, 2, 3), channels=2, kernel=(3, 3), output_padding=1, activation="silu"
        ),
        samples.Transposed(shape=(1, 1, 2, 3), channels=2, stride=(2, 1), activation="tanh"),
    ],
    ids=by_name,
)
def test_conv_transpose2d(sample):
    check_both_orders(ops.conv_transpose2d, sample.arguments(torch.float64))


@pytest.mark.parametrize(
    "sample",
    [
        samples.Dense(shape=(1, 2, 3, 2), growth=(1, 2), residuals=(0.5, 1.0), input_scale=0.3),
        samples.Dense(shape=(1, 2, 2, 2), growth=(2,), kernel=1, biases=(False, False), slope=-0.1),
        samples.Dense(shape=(0, 2, 2, 2), growth=(2,)),
    ],
    ids=by_name,
)
def test_dense_block(sample):
    check_both_orders(ops.dense_block, sample.arguments(torch.float64))


def test_pointwise():
    x = torch.randn(2, 8, 2, 3, dtype=torch.float64)
    check_both_orders(ops.pixel_shuffle, {"input": x, "upscale_factor": 2})
    check_both_orders(ops.pixel_unshuffle, {"input": x.transpose(1, 2), "downscale_factor": 1})
    check_both_orders(ops.pixel_unshuffle, {"input": x.view(2, 2, 4, 6), "downscale_factor": 2})
    residual = [(torch.randn_like(x), 0.5), (torch.randn_like(x), -1.0)]
    check_both_orders(ops.residual_add, {"input": x, "residual": residual, "scale": 0.3})
    check_both_orders(ops.residual_add, {"input": x, "residual": torch.randn_like(x)})


def gradients(op, arguments, upstream):
    arguments, tensors = differentiable(arguments)
    y = op(arguments)
    return list(torch.autograd.grad(y, tensors, upstream(y)))


def expanded(y):
    """A gradient of ones that takes no memory, as sum() sends."""
    return torch.ones((), dtype=y.dtype).expand(y.shape)


def strided(y):
    """A gradient that lies transposed, every other element of its storage."""
    n, c, h, w = y.shape
    values = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).to(y.dtype).view(n, c, h, w)
    wide = torch.empty(n, c, w, 2 * h, dtype=y.dtype)[..., ::2].transpose(2, 3)
    return wide.copy_(values)


@pytest.mark.parametrize("upstream", [expanded, strided])
@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("sample", [s for s in samples.FEATURES if s.shape[0]], ids=by_name)
def test_conv2d_in_float32(sample, backend, upstream):
    def ours(a):
        return ops.conv2d(**a, backend=backend)

    def plain(a):
        return reference.conv2d(**samples.plain(sample, a))

    arguments = sample.arguments()
    exact = samples.convert(arguments, torch.float64)
    assert_as_close_together(
        gradients(ours, arguments, upstream),
        gradients(plain, arguments, upstream),
        gradients(plain, exact, upstream),
    )


def test_only_the_needed_gradients_are_computed():
    x, weight, bias = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3), torch.randn(4)
    with torch.profiler.profile() as profile:
        y = ops.conv2d(x, weight, bias.requires_grad_(), activation="relu")
        y.sum().backward()
    called = {event.name for event in profile.events()}
    assert not any("mkldnn_convolution_backward_input" in name for name in called)
    assert x.grad is None
    assert weight.grad is None
    assert torch.equal(bias.grad, (y > 0).sum((0, 2, 3)).float())


def test_a_residual_alone_needs_no_convolution():
    residual = torch.randn(1, 4, 5, 5, requires_grad=True)
    x, weight = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3)
    y = ops.conv2d(x, weight, padding=1, activation="silu", residual=[(residual, 0.5)])
    with torch.profiler.profile() as profile:
        y.sum().backward()
    assert not any("conv" in event.name for event in profile.events())
    assert torch.equal(residual.grad, torch.full_like(residual, 0.5))


def test_empty_batch():
    arguments, tensors = differentiable(
        samples.Conv(shape=(0, 5, 6, 8), upsample=2, activation="gelu").arguments()
    )
    ops.conv2d(**arguments).sum().backward()
    assert all(t.grad is not None and t.grad.shape == t.shape for t in tensors)
    assert not tensors[1].grad.any()


def test_derived_weight_follows_the_weight():
    """The sub-pixel form is kept between calls, and made again when the weight was written to."""
    x, weight = torch.randn(1, 3, 4, 4), torch.randn(3, 2, 4, 4)

    def same():
        y = ops.conv_transpose2d(x, weight, stride=2, padding=1)
        return torch.allclose(y, F.conv_transpose2d(x, weight, stride=2, padding=1), atol=1e-4)

    assert same()
    weight.mul_(-2)
    assert same()
    weight.data = torch.randn(3, 2, 4, 4)
    assert same()
    with torch.inference_mode():
        assert same()
    with torch.no_grad():
        ops.conv_transpose2d(x, weight, stride=2, padding=1)
    y = ops.conv_transpose2d(x.requires_grad_(), weight, stride=2, padding=1)
    y.sum().backward()
    assert x.grad is not None


def test_a_frozen_dense_block_computes_no_gradients_of_weights():
    arguments = samples.Dense(residuals=(0.5,)).arguments()
    arguments["input"].requires_grad_()
    y = ops.dense_block(**arguments)
    assert_as_close_together(
        [y.detach()],
        [ops.dense_block(**arguments, backend="torch").detach()],
        [ops.dense_block(**samples.convert(arguments, torch.float64)).detach()],
    )
    y.sum().backward()
    assert all(t.grad is None for t in samples.tensors_of(arguments["weights"]))
    assert arguments["input"].grad is not None


@pytest.mark.parametrize("sample", [s for s in samples.DENSE if s.shape[0]], ids=by_name)
def test_dense_block_in_float32(sample):
    def plain(a):
        a = {**a, "residuals": a["residual"] or ()}
        del a["residual"]
        return reference.dense_block(**a)

    arguments = sample.arguments()
    assert_as_close_together(
        gradients(lambda a: ops.dense_block(**a), arguments, strided),
        gradients(plain, arguments, strided),
        gradients(plain, samples.convert(arguments, torch.float64), strided),
    )
