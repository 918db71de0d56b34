# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The op of the library: convolution with everything that follows it in a super-resolution network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sr_kernels.backends.base import ConvArgs, dense_strides, memory_format_of
from sr_kernels.ops import _arguments, _check, _conv2d_backward, _library

_SCHEMA = (
    "(Tensor input, Tensor weight, Tensor? bias=None, int[2] stride=1, int[4] padding=0, int[2] dilation=1, "
    "int groups=1, int upsample=1, str activation='none', float negative_slope=0.01, "
    "Tensor? prelu_weight=None, Tensor? residual1=None, float residual1_weight=1.0, "
    "Tensor? residual2=None, float residual2_weight=1.0, float scale=1.0, bool activation_after_add=False, "
    "int pixel_shuffle=1, Tensor? base=None, str base_mode='none', str backend='') -> Tensor"
)


def _pack(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    upsample: int = 1,
    activation: str = "none",
    negative_slope: float = 0.01,
    prelu_weight: Tensor | None = None,
    residual1: Tensor | None = None,
    residual1_weight: float = 1.0,
    residual2: Tensor | None = None,
    residual2_weight: float = 1.0,
    scale: float = 1.0,
    activation_after_add: bool = False,
    pixel_shuffle: int = 1,
    base: Tensor | None = None,
    base_mode: str = "none",
    backend: str = "",
) -> tuple[ConvArgs, str]:
    """The schema's arguments, brought together."""
    residuals = _arguments.pairs(residual1, residual1_weight, residual2, residual2_weight)
    args = ConvArgs(
        input,
        weight,
        bias,
        stride,
        padding,
        dilation,
        groups,
        upsample,
        activation,
        negative_slope,
        prelu_weight,
        residuals,
        scale,
        activation_after_add,
        pixel_shuffle,
        base,
        base_mode,
    )
    return args, backend


def _empty(args: ConvArgs) -> Tensor:
    shape = args.output_shape()
    return args.input.new_empty_strided(shape, dense_strides(shape, memory_format_of(args.input)))


OP, _plain, call = _library.define("conv2d", _SCHEMA, _pack, _empty, check=_check.convolution)
_library.differentiable("conv2d", OP, _plain, _conv2d_backward.forward, _conv2d_backward.backward)
_library.autocast("conv2d", OP, _library.lower_precision)
_library.vmap("conv2d", OP, samples=(0, 11, 13, 18))


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    upsample: int = 1,
    activation: str | None = None,
    negative_slope: float = 0.01,
    prelu_weight: Tensor | None = None,
    residual: _arguments.Residual | None = None,
    scale: float = 1.0,
    activation_after_add: bool = False,
    pixel_shuffle: int = 1,
    base: Tensor | None = None,
    base_mode: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Convolution, bias, activation, scale, residuals, pixel shuffle and base in one kernel.

        z = conv2d(nearest(input, upsample), weight, stride, padding, dilation, groups) + bias
        r = scale * act(z) + sum(w_i * residual_i)      (activation_after_add: act(scale * z + ...))
        y = pixel_shuffle(r) + base

    Shapes: input (N, C_in, H, W); weight (C_out, C_in/groups, kh, kw); bias (C_out,); each residual
    (N, C_out, Ho, Wo), the convolution's size; base as the result, (N, C_out/r^2, Ho*r, Wo*r), or, with a
    base_mode, an integer factor smaller in height and width.

    The result keeps input's dtype and memory format, as its strides tell it. A tensor of one channel is
    contiguous in both formats, so that x.contiguous(memory_format=torch.channels_last) leaves its strides as
    they are; x.clone(memory_format=torch.channels_last) gives it those of channels_last.

    Args:
        padding: int, (height, width), (left, right, top, bottom) as `F.pad`, "same" or "valid"; in pixels
            of the enlarged input, zeros.
        upsample: integer factor of nearest-neighbour enlargement before the convolution.
        activation: None, "relu", "leaky_relu", "prelu", "silu", "gelu" (erf), "tanh" or "sigmoid".
        negative_slope: slope of "leaky_relu".
        prelu_weight: (1,) or (C_out,), slopes of "prelu", before the shuffle.
        residual: a tensor, or at most two pairs (tensor, weight).
        pixel_shuffle: r, the factor of the depth-to-space step (ESPCN, Shi et al. 2016).
        base: added last; base_mode "nearest" or "bilinear" (align_corners=False) enlarges it on the way.
        backend: a backend's name, explicit; by default the first able one runs.

    Equivalent to `sr_kernels.reference.conv2d` with F.conv2d, activation, add, F.pixel_shuffle and
    F.interpolate. Differentiable twice. While gradients are needed, an activation whose derivative does
    not follow from the result (silu, gelu and prelu; any that a scale, residuals or a base follow) makes the
    forward run in steps: up to the activation, whose input is kept for the backward, then the rest in
    PyTorch's own operations.

    Raises:
        TypeError: a tensor of a wrong or differing dtype, or an argument of a wrong type.
        ValueError: shapes, devices or numbers that do not fit; the message names them.
        BackendError: the backend asked for cannot run these arguments; the message has its reasons.
    """
    op = "conv2d"
    _arguments.tensors(op, input=input, weight=weight)
    _arguments.optional_tensors(op, bias=bias, prelu_weight=prelu_weight, base=base)
    strides = _arguments.pair(op, "stride", stride)
    dilations = _arguments.pair(op, "dilation", dilation)
    result: Tensor = call(
        input,
        weight,
        bias,
        strides,
        _arguments.padding(op, padding, _check.kernel_size(op, weight), strides, dilations),
        dilations,
        _arguments.integer(op, "groups", groups),
        _arguments.integer(op, "upsample", upsample),
        _arguments.text(op, "activation", activation, "none"),
        _arguments.number(op, "negative_slope", negative_slope),
        prelu_weight,
        *_arguments.residuals(op, residual),
        _arguments.number(op, "scale", scale),
        _arguments.flag(op, "activation_after_add", activation_after_add),
        _arguments.integer(op, "pixel_shuffle", pixel_shuffle),
        base,
        _arguments.text(op, "base_mode", base_mode, "none"),
        _arguments.text(op, "backend", backend, ""),
    )
    return result
