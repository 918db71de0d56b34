# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The gradient of a convolution's input by the op itself: where, where not, and that it is right."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sr_kernels
from sr_kernels import ops
from tests.closeness import assert_as_close

cpu = pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")

CHANNELS_LAST = torch.channels_last


def expanded(y):
    return torch.ones((), dtype=y.dtype).expand(y.shape)


def contiguous(y):
    torch.manual_seed(2)
    return torch.randn(y.shape).to(y.dtype)


def strided(y):
    n, c, h, w = y.shape
    return contiguous(y.new_empty(n, c, w, 2 * h))[..., ::2].transpose(2, 3)


def channels_last(y):
    return contiguous(y).contiguous(memory_format=CHANNELS_LAST)


def layer(shape=(2, 16, 29, 33), outputs=20, kernel=3):
    torch.manual_seed(1)
    x = torch.randn(shape).contiguous(memory_format=CHANNELS_LAST)
    return x, torch.randn(outputs, shape[1], kernel, kernel) / shape[1], torch.randn(outputs)


def gradient(op, x, upstream, **settings):
    """(the gradient of x, the kernels that ran in the backward)."""
    x = x.detach().requires_grad_()
    y = op(x, **settings)
    with sr_kernels.record_kernels() as names:
        (dx,) = torch.autograd.grad(y, x, upstream(y.detach()))
    return dx, names


def winograd(names):
    return len(names) == 1 and names[0].startswith("cpu/winograd")


@pytest.mark.parametrize("isa", [isa.name for isa in cpu.ISAS if isa.name == isa.unit])
@pytest.mark.parametrize("upstream", [expanded, contiguous, strided, channels_last])
@pytest.mark.parametrize(
    ("shape", "outputs", "padding"),
    [
        ((2, 16, 29, 33), 20, (1, 1, 1, 1)),
        ((1, 64, 27, 19), 64, (1, 1, 1, 1)),
        ((1, 13, 41, 41), 67, (0, 0, 0, 0)),
        ((3, 48, 26, 31), 40, (2, 0, 1, 2)),
        ((1, 130, 24, 25), 33, (1, 2, 0, 2)),
    ],
)
def test_close_to_eager(isa, shape, outputs, padding, upstream):
    x, weight, _ = layer(shape, outputs)

    def eager(x, weight):
        return F.conv2d(F.pad(x, padding), weight)

    with cpu.limit_isa(isa):
        ours, names = gradient(ops.conv2d, x, upstream, weight=weight, padding=padding)
    theirs, _ = gradient(eager, x, upstream, weight=weight)
    exact, _ = gradient(eager, x.double(), lambda y: upstream(y.float()).double(), weight=weight.double())
    assert winograd(names)
    assert names[0].endswith(isa)
    assert_as_close(ours, theirs, exact)
    assert ours.is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.parametrize("activation", ["leaky_relu", "silu", "prelu"])
def test_behind_an_epilogue(activation):
    x, weight, bias = layer(outputs=16)
    settings = {"weight": weight, "bias": bias, "padding": 1, "activation": activation, "scale": 0.3}
    settings["pixel_shuffle"] = 2
    if activation == "prelu":
        settings["prelu_weight"] = torch.full((16,), 0.2)
    ours, names = gradient(ops.conv2d, x, contiguous, **settings)
    theirs, none = gradient(ops.conv2d, x, contiguous, **settings, backend="torch")
    double = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in settings.items()}
    exact, _ = gradient(ops.conv2d, x.double(), lambda y: contiguous(y.float()).double(), **double)
    assert any(name.startswith("cpu/winograd") for name in names)
    assert not any(name.startswith("cpu/winograd") for name in none)
    assert_as_close(ours, theirs, exact)


def test_the_gradients_of_weights_stay():
    """The same as without it: only the gradient of the input is another kernel's."""
    x, weight, bias = (t.requires_grad_() for t in layer())

    def grads(inputs):
        y = ops.conv2d(x, weight, bias, padding=1)
        return torch.autograd.grad(y, inputs, channels_last(y))

    _, dw, db = grads([x, weight, bias])
    alone = grads([weight, bias])
    assert torch.equal(dw, alone[0])
    assert torch.equal(db, alone[1])


def test_not_while_a_second_derivative_is_recorded():
    x, weight, _ = (t.requires_grad_() for t in layer())
    y = ops.conv2d(x, weight, padding=1)
    with sr_kernels.record_kernels() as names:
        (dx,) = torch.autograd.grad(y, x, channels_last(y), create_graph=True)
    assert not names
    (dw,) = torch.autograd.grad(dx.square().sum(), weight)
    assert dw.abs().sum() > 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"stride": 2, "padding": 1}, "stride"),
        ({"dilation": 2, "padding": 2}, "dilation"),
        ({"upsample": 2, "padding": 1}, "upsample"),
        ({"backend": "torch", "padding": 1}, "an explicit choice"),
        ({"groups": 2, "padding": 1}, "groups"),
        ({"padding": 3}, "wide padding"),
        ({"padding": 0}, "no padding, few outputs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_left_to_aten(settings, reason):
    x, weight, _ = layer()
    weight = weight[:, :8] if "groups" in settings else weight
    assert not gradient(ops.conv2d, x, channels_last, weight=weight, **settings)[1]


@pytest.mark.parametrize(
    ("shape", "outputs", "kernel"),
    [
        ((1, 16, 40, 40), 8, 3),
        ((1, 3, 99, 99), 32, 3),
        ((1, 16, 40, 40), 16, 5),
        ((0, 16, 40, 40), 16, 3),
        ((1, 16, 35, 36), 16, 3),
        ((5, 256, 10, 10), 16, 3),
    ],
    ids=["few outputs", "few inputs", "5x5", "no pictures", "few elements", "few pixels"],
)
def test_shapes_left_to_aten(shape, outputs, kernel):
    x, weight, _ = layer(shape, outputs, kernel)
    dx, names = gradient(ops.conv2d, x, channels_last, weight=weight, padding=kernel // 2)
    assert not names
    assert dx.shape == x.shape


def test_contiguous_inputs_keep_their_path():
    x, weight, _ = layer()
    assert not gradient(ops.conv2d, x.contiguous(), contiguous, weight=weight, padding=1)[1]


def test_the_choice_of_backend_is_the_forwards():
    x, weight, _ = layer()
    x.requires_grad_()
    with sr_kernels.use_backend("torch"):
        y = ops.conv2d(x, weight, padding=1)
        block = ops.dense_block(x, [weight, torch.randn(16, 36, 3, 3)], [None, None])
    with sr_kernels.record_kernels() as names:
        y.sum().backward()
        block.sum().backward()
    assert not names
    with sr_kernels.use_backend("cpu"):
        y = ops.conv2d(x, weight, padding=1)
    with sr_kernels.use_backend("torch"), sr_kernels.record_kernels() as names:
        y.backward(channels_last(y))
    assert winograd(names)


def test_not_at_the_highest_precision():
    x, weight, _ = layer()
    with sr_kernels.set_precision("highest"):
        assert not gradient(ops.conv2d, x, channels_last, weight=weight, padding=1)[1]


def test_autocast_does_not_reach_into_the_backward():
    x, weight, _ = layer()
    x.requires_grad_()
    y = ops.conv2d(x, weight, padding=1)
    (plain,) = torch.autograd.grad(y, x, channels_last(y), retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (dx,) = torch.autograd.grad(y, x, channels_last(y))
    assert torch.equal(dx, plain)


def test_transposed_convolution():
    """Its sub-pixel form is a 3x3 layer."""
    x, _, _ = layer()
    weight = torch.randn(16, 5, 4, 4)
    ours, names = gradient(ops.conv_transpose2d, x, contiguous, weight=weight, stride=2, padding=1)
    plain = {"weight": weight, "stride": 2, "padding": 1}
    theirs, _ = gradient(F.conv_transpose2d, x, contiguous, **plain)
    plain["weight"] = weight.double()
    exact, _ = gradient(F.conv_transpose2d, x.double(), lambda y: contiguous(y.float()).double(), **plain)
    assert any(name.startswith("cpu/winograd") for name in names)
    assert_as_close(ours, theirs, exact)


def test_dense_block():
    x, _, _ = layer((1, 16, 39, 37))
    weights = [torch.randn(12, 16, 3, 3), torch.randn(12, 28, 3, 3), torch.randn(16, 40, 3, 3)]

    def block(x, **settings):
        convert = [w.to(x.dtype) / 10 for w in weights]
        return ops.dense_block(x, convert, [None] * 3, **settings)

    ours, names = gradient(block, x, expanded)
    theirs, none = gradient(block, x, expanded, backend="torch")
    exact, _ = gradient(block, x.double(), expanded)
    assert len(names) == 3
    assert all(name.startswith("cpu/winograd") for name in names)
    assert not none
    assert_as_close(ours, theirs, exact)


def test_batched_gradients():
    x, weight, _ = layer()
    x.requires_grad_()
    y = ops.conv2d(x, weight, padding=1)
    grads = torch.stack([channels_last(y), contiguous(y) * 2])
    (together,) = torch.autograd.grad(y, x, grads, is_grads_batched=True, retain_graph=True)
    for one, grad in zip(together, grads, strict=True):
        torch.testing.assert_close(one, torch.autograd.grad(y, x, grad, retain_graph=True)[0])


def test_compiled():
    x, weight, bias = layer()

    def step(x, weight, bias):
        return ops.conv2d(x, weight, bias, padding=1, activation="relu").square().mean()

    leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, weight, bias)]
    expected = torch.autograd.grad(step(*leaves), leaves)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    loss = compiled(*leaves)
    with sr_kernels.record_kernels() as names:
        grads = torch.autograd.grad(loss, leaves)
    assert winograd(names)
    for mine, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
