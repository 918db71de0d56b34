# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The gradient of conv2d from aten pieces that are differentiable themselves, so that second order works."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_kernels import reference
from sr_kernels.backends.base import ActivationArgs, ConvArgs, memory_format_of, with_format
from sr_kernels.backends.registry import chosen, willing
from sr_kernels.ops._arguments import pairs
from sr_kernels.ops._input_gradient import input_gradient, takes_kernels
from sr_kernels.ops._signature import is_plain

aten = torch.ops.aten

# The schema's arguments in order; a gradient is returned for each.
ARGUMENTS = (
    "input",
    "weight",
    "bias",
    "stride",
    "padding",
    "dilation",
    "groups",
    "upsample",
    "activation",
    "negative_slope",
    "prelu_weight",
    "residual1",
    "residual1_weight",
    "residual2",
    "residual2_weight",
    "scale",
    "activation_after_add",
    "pixel_shuffle",
    "base",
    "base_mode",
    "backend",
)


def _derives_from_output(a: SimpleNamespace) -> bool:
    """act' is known from act(z) itself, and the op's result is act(z), but for the shuffle."""
    bare = a.residual1 is None and a.residual2 is None and a.scale == 1.0
    invertible = a.activation in ("relu", "tanh", "sigmoid") or (
        a.activation == "leaky_relu" and a.negative_slope > 0
    )
    return invertible and a.base is None and (a.activation_after_add or bare)


def forward(ctx: Any, run: Callable[..., Tensor], args: tuple[Any, ...]) -> Tensor:
    """The op itself where its gradient follows from its result; otherwise the convolution, whose result is
    kept as PyTorch keeps it, and then the rest of the epilogue in PyTorch's own pieces."""
    a = SimpleNamespace(**dict(zip(ARGUMENTS, args, strict=True)))
    ctx.has_bias = a.bias is not None
    ctx.base_shape = None if a.base is None else a.base.shape
    # no tensor may stay here: only save_for_backward knows how to keep one
    ctx.settings = {k: None if isinstance(v, Tensor) else v for k, v in vars(a).items()}
    ctx.settings["backend"] = chosen(a.backend)  # the backward keeps to it, wherever it runs
    if a.activation == "none":
        ctx.save_for_backward(a.input, a.weight, *[None] * 6)
        return run(*args)
    if _derives_from_output(a):
        output = run(*args)
        ctx.save_for_backward(a.input, a.weight, *[None] * 5, output)
        return output
    z, output = _in_steps(a, run)
    ctx.save_for_backward(a.input, a.weight, a.bias, a.prelu_weight, a.residual1, a.residual2, z, None)
    return output


def _in_steps(a: SimpleNamespace, run: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """What the activation is applied to, and the op's result."""
    b = SimpleNamespace(**vars(a))
    b.activation, b.prelu_weight = "none", None
    b.pixel_shuffle, b.base, b.base_mode = 1, None, "none"
    if not a.activation_after_add:
        b.residual1, b.residual2, b.scale = None, None, 1.0
    z = run(*(vars(b)[name] for name in ARGUMENTS))
    y = reference.activate(z, a.activation, a.negative_slope, a.prelu_weight)
    if not a.activation_after_add:
        y = y * a.scale if a.scale != 1.0 else y
        for residual, weight in pairs(a.residual1, a.residual1_weight, a.residual2, a.residual2_weight):
            y = torch.add(y, residual, alpha=weight)
    y = reference.shuffle_and_add(y, a.pixel_shuffle, a.base, a.base_mode)
    return z, with_format(y, memory_format_of(a.input))


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a = SimpleNamespace(**ctx.settings)
    a.input, a.weight, a.bias, a.prelu_weight, a.residual1, a.residual2, a.z, a.output = ctx.saved_tensors
    needs = SimpleNamespace(**dict(zip(ARGUMENTS, ctx.needs_input_grad[1:], strict=True)))
    grads = SimpleNamespace(**dict.fromkeys(ARGUMENTS))

    if needs.base:
        grads.base = _shrink(grad, ctx.base_shape, a.base_mode)
    if a.pixel_shuffle > 1:
        grad = reference.pixel_unshuffle(grad, a.pixel_shuffle)
    convolves = needs.input or needs.weight or needs.bias
    if a.activation_after_add and (convolves or needs.residual1 or needs.residual2 or needs.prelu_weight):
        grad, grads.prelu_weight = _activation_backward(grad, a, needs.prelu_weight)
    if needs.residual1:
        grads.residual1 = grad * a.residual1_weight
    if needs.residual2:
        grads.residual2 = grad * a.residual2_weight
    mask = [needs.input, needs.weight, needs.bias and ctx.has_bias]
    bias = None
    if convolves or needs.prelu_weight:
        fused = None if a.activation_after_add else _fused_activation_backward(grad, a)
        if fused is not None:
            grad, bias, grads.prelu_weight = fused
            mask[2] = False
        else:
            if a.scale != 1.0:
                grad = grad * a.scale
            if not a.activation_after_add:
                grad, grads.prelu_weight = _activation_backward(grad, a, needs.prelu_weight)
    if convolves:
        grads.input, grads.weight, grads.bias = _convolution_backward(grad, a, mask)
        if bias is not None and needs.bias and ctx.has_bias:
            grads.bias = bias
    return tuple(vars(grads)[name] for name in ARGUMENTS)


def _shrink(grad: Tensor, shape: Any, mode: str) -> Tensor:
    """The gradient of enlarging a tensor of that shape to grad's size."""
    if mode == "nearest":
        return aten.upsample_nearest2d_backward(grad, grad.shape[-2:], shape, None, None)
    if mode == "bilinear":
        return _shrink_bilinear(grad, int(grad.shape[2] // shape[2]))
    return grad.clone()


def _shrink_bilinear(grad: Tensor, factor: int) -> Tensor:
    """The transpose of bilinear enlargement: triangles of width 2*factor gathered per pixel, the two pixels
    beyond each border returned to the border. aten's own backward takes no symbolic sizes."""
    taps = (
        torch.arange(2 * factor, dtype=torch.float64, device=grad.device) - factor // 2 + 0.5
    ) / factor - 0.5
    triangle = (1 - taps.abs()).to(grad.dtype)
    before, after = factor + factor // 2, 2 * factor - factor // 2
    x = F.pad(grad.flatten(0, 1).unsqueeze(1), (before, after, before, after))
    x = F.conv2d(x, (triangle[:, None] * triangle)[None, None], stride=factor)
    for dim in (2, 3):
        n = x.shape[dim]
        inside, first, last = x.narrow(dim, 1, n - 2), x.narrow(dim, 0, 1), x.narrow(dim, n - 1, 1)
        rows = torch.arange(n - 2, device=x.device).view((-1, 1) if dim == 2 else (1, -1))
        inside = torch.where(rows == 0, inside + first, inside)
        x = torch.where(rows == n - 3, inside + last, inside)
    return x.squeeze(1).unflatten(0, grad.shape[:2])


def _window(a: SimpleNamespace) -> tuple[Tensor, list[int]]:
    """The input enlarged, and padded where aten's symmetric padding will not do; what padding is left."""
    x = F.interpolate(a.input, scale_factor=float(a.upsample), mode="nearest") if a.upsample > 1 else a.input
    left, right, top, bottom = a.padding
    if left == right >= 0 and top == bottom >= 0:
        return x, [top, left]
    return F.pad(x, (left, right, top, bottom)), [0, 0]


def _pre_activation(a: SimpleNamespace) -> Tensor:
    """What the activation was applied to: as kept, or computed again where it must be differentiable."""
    if not torch.is_grad_enabled():
        z: Tensor = a.z
        return z
    x, padding = _window(a)
    z = F.conv2d(x, a.weight, a.bias, a.stride, padding, a.dilation, a.groups)
    if a.activation_after_add:
        z = z * a.scale if a.scale != 1.0 else z
        if a.residual1 is not None:
            z = torch.add(z, a.residual1, alpha=a.residual1_weight)
        if a.residual2 is not None:
            z = torch.add(z, a.residual2, alpha=a.residual2_weight)
    return z


def _activation_backward(grad: Tensor, a: SimpleNamespace, need_weight: bool) -> tuple[Tensor, Tensor | None]:
    """The gradients of what the activation was applied to, and of the PReLU slopes."""
    if a.activation == "none":
        return grad, None
    from_output = a.output is not None
    if from_output:
        z = reference.pixel_unshuffle(a.output, a.pixel_shuffle) if a.pixel_shuffle > 1 else a.output
    else:
        z = _pre_activation(a)
    match a.activation:
        case "relu":
            return aten.threshold_backward(grad, z, 0), None
        case "leaky_relu":
            return aten.leaky_relu_backward(grad, z, a.negative_slope, from_output), None
        case "tanh":
            return aten.tanh_backward(grad, z if from_output else torch.tanh(z)), None
        case "sigmoid":
            return aten.sigmoid_backward(grad, z if from_output else torch.sigmoid(z)), None
        case "silu":
            s = torch.sigmoid(z)
            return grad * s * (1 + z * (1 - s)), None
        case "gelu":
            return aten.gelu_backward(grad, z), None
    slopes = a.prelu_weight.view(1, -1, 1, 1).expand(1, z.shape[1], 1, 1)
    dz, dw = aten._prelu_kernel_backward(grad, z, slopes)
    if not need_weight:
        return dz, None
    return dz, dw.sum((0, 2, 3)) if a.prelu_weight.shape[0] > 1 else dw.sum((0, 1, 2, 3)).view(1)


def _fused_activation_backward(
    grad: Tensor, a: SimpleNamespace
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """(dz, db, dslopes) in one pass where a backend has that, and no second derivative is recorded."""
    if a.activation == "none" or grad.numel() == 0 or not takes_kernels(grad) or not is_plain(grad):
        return None
    from_output = a.output is not None
    z = a.output if from_output else a.z
    if from_output and a.pixel_shuffle > 1:
        z = reference.pixel_unshuffle(z, a.pixel_shuffle)
    args = ActivationArgs(
        grad, z, a.activation, a.negative_slope, a.prelu_weight, from_output, a.scale
    )  # fmt: skip
    backend = willing("activation_backward", grad.device.type, args, a.backend)
    if backend is None:
        return None
    dz, db, dslopes = backend.activation_backward(args)
    if dslopes is not None:
        dslopes = dslopes if a.prelu_weight.shape[0] > 1 else dslopes.sum().view(1)
        dslopes = dslopes.to(a.prelu_weight.dtype)
    return dz, db.to(grad.dtype), dslopes


def _convolution_backward(grad: Tensor, a: SimpleNamespace, mask: list[bool]) -> tuple[Tensor | None, ...]:
    """(dX, dW, db) of the convolution proper, each only where the mask asks."""
    ours = None
    if mask[0]:
        layer = ConvArgs(a.input, a.weight, None, a.stride, a.padding, a.dilation, a.groups, a.upsample)
        ours = input_gradient(grad, layer, a.backend)
        mask = [ours is None, *mask[1:]]
    if not any(mask):
        return ours, None, None
    x, padding = _window(a)
    channels = [a.weight.shape[0]]
    dx, dw, db = aten.convolution_backward(
        grad, x, a.weight, channels, a.stride, padding, a.dilation, False, [0, 0], a.groups, mask
    )
    if mask[0]:
        if padding == [0, 0]:
            dx = F.pad(dx, [-side for side in a.padding]) if any(a.padding) else dx
        if a.upsample > 1:
            n, c, h, w = a.input.shape
            size = [h * a.upsample, w * a.upsample]
            dx = aten.upsample_nearest2d_backward(dx, size, [n, c, h, w], None, None)
    return dx if mask[0] else ours, dw if mask[1] else None, db if mask[2] else None
