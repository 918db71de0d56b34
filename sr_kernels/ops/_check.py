# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Validation of arguments, once, below the dispatcher: real and fake tensors meet the same errors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sr_kernels.backends.base import ConvArgs, DenseBlockArgs
from sr_kernels.reference import ACTIVATIONS, BASE_MODES

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PICTURES = (torch.uint8, torch.uint16)


def shape_of(x: Tensor) -> str:
    return f"({', '.join(str(size) for size in x.shape)})"


def pictures(op: str, x: Tensor, name: str = "input") -> None:
    """x is a strided floating (N, C, H, W) tensor in which only N may be 0."""
    if x.dtype not in FLOATS:
        cure = (
            "use its real and imaginary parts as channels"
            if x.is_complex()
            else f"convert it: {name}.float()"
        )
        raise TypeError(f"{op}: {name} must be of floating dtype, got {dtype_of(x)}; {cure}")
    if x.layout != torch.strided:
        raise TypeError(f"{op}: {name} must be a dense tensor, got layout {x.layout}; use {name}.to_dense()")
    if x.dim() != 4:
        cure = f"; add a batch dimension: {name}[None]" if x.dim() == 3 else ""
        raise ValueError(f"{op}: {name} must be (N, C, H, W), got {x.dim()} dimensions, {shape_of(x)}{cure}")
    if x.shape[1] == 0 or x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(f"{op}: only the batch of {name} may be empty, got {shape_of(x)}")


def companion(op: str, x: Tensor, name: str, input: Tensor, *, any_dtype: bool = False) -> None:
    """x has the input's dtype, device and layout."""
    if x.dtype != input.dtype and not any_dtype:
        raise TypeError(
            f"{op}: {name} is {dtype_of(x)} and input is {dtype_of(input)}; convert one of them, "
            f"for example {name}.to(input.dtype)"
        )
    if x.device != input.device:
        raise ValueError(
            f"{op}: {name} is on {x.device} and input is on {input.device}; move one of them, "
            f"for example {name}.to(input.device)"
        )
    if x.layout != torch.strided:
        raise TypeError(f"{op}: {name} must be a dense tensor, got layout {x.layout}; use {name}.to_dense()")


def dtype_of(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _has_shape(op: str, x: Tensor, name: str, shape: Sequence[int], meaning: str) -> None:
    if tuple(x.shape) != tuple(shape):
        wanted = ", ".join(str(size) for size in shape)
        raise ValueError(f"{op}: {name} must be ({wanted}), {meaning}, got {shape_of(x)}")


def residuals(op: str, pairs: Sequence[tuple[Tensor, float]], input: Tensor, shape: Sequence[int]) -> None:
    for i, (residual, _) in enumerate(pairs):
        name = "residual" if len(pairs) == 1 else f"residual[{i}]"
        companion(op, residual, name, input)
        _has_shape(op, residual, name, shape, "the shape of what it is added to")


def kernel_size(op: str, weight: Tensor) -> tuple[int, int]:
    """(kh, kw) of a convolution's weight."""
    if weight.dim() != 4:
        raise ValueError(f"{op}: weight must be (C_out, C_in/groups, kh, kw), got {shape_of(weight)}")
    return weight.shape[2], weight.shape[3]


def convolution(a: ConvArgs) -> None:
    """Raises TypeError or ValueError where the arguments do not fit together."""
    op, x, w = "conv2d", a.input, a.weight
    pictures(op, x)
    companion(op, w, "weight", x)
    kh, kw = kernel_size(op, w)
    co, ci = w.shape[:2]
    if co == 0 or ci == 0 or kh == 0 or kw == 0:
        raise ValueError(f"{op}: weight must not be empty, got {shape_of(w)}")
    _numbers(op, a)
    if x.shape[1] != ci * a.groups or co % a.groups:
        raise ValueError(
            f"{op}: input {shape_of(x)} and weight {shape_of(w)} do not fit with groups={a.groups}: weight "
            f"takes {ci * a.groups} input channels, input has {x.shape[1]}, and groups must divide both "
            "channel counts"
        )
    if a.bias is not None:
        companion(op, a.bias, "bias", x)
        _has_shape(op, a.bias, "bias", (co,), "one value per output channel")
    height, width = a.conv_size()
    if height < 1 or width < 1:
        raise ValueError(
            f"{op}: the kernel ({kh}, {kw}) with dilation {tuple(a.dilation)} does not fit into input "
            f"{shape_of(x)} enlarged by {a.upsample} and padded by {tuple(a.padding)}; pad more"
        )
    _activation(op, a.activation, a.prelu_weight, x, co)
    residuals(op, a.residuals, x, (x.shape[0], co, height, width))
    _base(op, a)


def _numbers(op: str, a: ConvArgs) -> None:
    for name, value in (("groups", a.groups), ("upsample", a.upsample), ("pixel_shuffle", a.pixel_shuffle)):
        if value < 1:
            raise ValueError(f"{op}: {name} must be at least 1, got {value}")
    for name, pair in (("stride", a.stride), ("dilation", a.dilation)):
        if pair[0] < 1 or pair[1] < 1:
            raise ValueError(f"{op}: {name} must be at least 1, got {tuple(pair)}")
    if a.weight.shape[0] % (a.pixel_shuffle * a.pixel_shuffle):
        raise ValueError(
            f"{op}: pixel_shuffle={a.pixel_shuffle} needs a multiple of {a.pixel_shuffle**2} output "
            f"channels, weight {shape_of(a.weight)} has {a.weight.shape[0]}"
        )


def _activation(
    op: str,
    activation: str,
    prelu_weight: Tensor | None,
    input: Tensor,
    channels: int,
    *,
    any_dtype: bool = False,
) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"{op}: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if (activation == "prelu") != (prelu_weight is not None):
        raise ValueError(
            f"{op}: activation='prelu' and prelu_weight go together, got activation={activation!r} and "
            f"{'no' if prelu_weight is None else 'a'} prelu_weight"
        )
    if prelu_weight is not None:
        companion(op, prelu_weight, "prelu_weight", input, any_dtype=any_dtype)
        if prelu_weight.dim() != 1 or prelu_weight.shape[0] not in (1, channels):
            raise ValueError(
                f"{op}: prelu_weight must be (1,) or ({channels},), one value per output channel of the "
                f"convolution, got {shape_of(prelu_weight)}"
            )


def transposed(
    op: str, x: Tensor, w: Tensor, bias: Tensor | None, activation: str, prelu_weight: Tensor | None
) -> None:
    """Raises TypeError or ValueError where the tensors of a transposed convolution do not fit together.

    It is asked above the dispatcher, where autocast has not made the dtypes one yet.
    """
    device = x.device.type
    mixed = device in ("cpu", "cuda") and torch.is_autocast_enabled(device)  # where the ops autocast
    pictures(op, x)
    companion(op, w, "weight", x, any_dtype=mixed)
    if w.dim() != 4 or w.shape[0] != x.shape[1] or w.numel() == 0:
        raise ValueError(
            f"{op}: weight must be (C_in, C_out, kh, kw) with the {x.shape[1]} channels of input "
            f"{shape_of(x)}, got {shape_of(w)}"
        )
    if bias is not None:
        companion(op, bias, "bias", x, any_dtype=mixed)
        _has_shape(op, bias, "bias", w.shape[1:2], "one value per output channel")
    _activation(op, activation, prelu_weight, x, w.shape[1], any_dtype=mixed)


def _base(op: str, a: ConvArgs) -> None:
    if a.base_mode not in BASE_MODES:
        raise ValueError(f"{op}: base_mode must be None, 'nearest' or 'bilinear', got {a.base_mode!r}")
    if a.base is not None:
        base(op, a.base, a.base_mode, a.input, a.output_shape())
    elif a.base_mode != "none":
        raise ValueError(f"{op}: base_mode={a.base_mode!r} needs a base, got None")


def base(op: str, x: Tensor, mode: str, input: Tensor, shape: Sequence[int]) -> None:
    """x may be added, enlarged by that mode, to a result of this shape."""
    companion(op, x, "base", input)
    if mode == "none":
        _has_shape(op, x, "base", shape, "the shape of the result")
        return
    if x.dim() == 4 and x.shape[2] > 0:
        factor = shape[2] // x.shape[2]
        small = (shape[0], shape[1], x.shape[2] * factor, x.shape[3] * factor)
        if factor >= 1 and x.shape[:2] == tuple(shape[:2]) and small == tuple(shape):
            return
    raise ValueError(
        f"{op}: base with base_mode={mode!r} must be the result's shape "
        f"({', '.join(map(str, shape))}) with height and width divided by one integer, got {shape_of(x)}"
    )


def dense_block(a: DenseBlockArgs) -> None:
    """Raises TypeError or ValueError where the arguments do not fit together."""
    op, x = "dense_block", a.input
    pictures(op, x)
    if not a.weights or len(a.weights) != len(a.biases):
        raise ValueError(
            f"{op}: weights and biases must be lists of one length, at least 1, "
            f"got {len(a.weights)} and {len(a.biases)}"
        )
    channels = x.shape[1]
    for i, (weight, bias) in enumerate(zip(a.weights, a.biases, strict=True)):
        companion(op, weight, f"weights[{i}]", x)
        last = i == len(a.weights) - 1
        if weight.dim() != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
            raise ValueError(
                f"{op}: weights[{i}] must be (C_out, C_in, k, k) with odd k, got {shape_of(weight)}"
            )
        if weight.shape[1] != channels or weight.shape[0] == 0:
            raise ValueError(
                f"{op}: weights[{i}] must take {channels} channels, those of input {shape_of(x)} and of the "
                f"convolutions before it, got {shape_of(weight)}"
            )
        if last and weight.shape[0] != x.shape[1]:
            raise ValueError(
                f"{op}: weights[{i}], the last, must give the input's {x.shape[1]} channels, "
                f"got {shape_of(weight)}"
            )
        if bias is not None:
            companion(op, bias, f"biases[{i}]", x)
            _has_shape(op, bias, f"biases[{i}]", weight.shape[:1], "one value per output channel")
        channels = channels + weight.shape[0]
    residuals(op, a.residuals, x, x.shape)
