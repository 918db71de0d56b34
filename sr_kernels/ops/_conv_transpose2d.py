# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Strided transposed convolution as a convolution and a pixel shuffle: no scatter, no zeros multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_kernels import reference
from sr_kernels.backends.base import BackendError, memory_format_of, with_format
from sr_kernels.backends.registry import chosen, find, record
from sr_kernels.ops import _arguments, _check, _conv2d, _library


def _taps(kernel: int, stride: int, padding: int) -> tuple[list[int], int, int]:
    """One axis of the sub-pixel kernel: (source tap per [phase, tap], taps per phase, padding before).

    Output position t*stride + phase takes source tap k from input t + (phase + padding - k) / stride, where
    that is whole. Slots without a source tap hold `kernel`, the index of a zero.
    """
    found = {}
    for k in range(kernel):
        phase = (k - padding) % stride
        found[phase, (phase + padding - k) // stride] = k
    offsets = [offset for _, offset in found]
    low, high = min(offsets), max(offsets)
    slots = [found.get((phase, o), kernel) for phase in range(stride) for o in range(low, high + 1)]
    return slots, high - low + 1, -low


def subpixel_weight(weight: Tensor, stride: int, padding: Sequence[int]) -> Tensor:
    """weight (Ci, Co, kh, kw) of a transposed convolution -> (Co*s*s, Ci, kh', kw') of the convolution whose
    pixel-shuffled result is the same."""
    ci, co, kh, kw = weight.shape
    rows, taps_y, _ = _taps(kh, stride, padding[0])
    columns, taps_x, _ = _taps(kw, stride, padding[1])
    w = F.pad(weight, (0, 1, 0, 1))
    w = w.index_select(2, torch.tensor(rows, device=w.device))
    w = w.index_select(3, torch.tensor(columns, device=w.device))
    w = w.view(ci, co, stride, taps_y, stride, taps_x).permute(1, 2, 4, 0, 3, 5)
    return w.reshape(co * stride * stride, ci, taps_y, taps_x)


def repeated(x: Tensor | None, times: int) -> Tensor | None:
    """Per channel (C,) -> per channel before the shuffle (C*times,)."""
    return None if x is None else _library.derived(x, times, lambda x: x.repeat_interleave(times))


def as_convolution(
    input_size: Sequence[int],
    size: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    paddings: tuple[int, int],
) -> tuple[Tensor, Tensor | None, list[int]]:
    """(weight, bias, padding) of the convolution whose pixel-shuffled result, size or more, is the same."""
    sides = []  # left, right, top, bottom
    for i in (1, 0):
        _, taps, before = _taps(weight.shape[2 + i], stride, paddings[i])
        rows = (size[i] + stride - 1) // stride
        sides += [before, rows + taps - 1 - input_size[i] - before]
    subpixel = _library.derived(weight, (stride, paddings), lambda w: subpixel_weight(w, stride, paddings))
    return subpixel, repeated(bias, stride * stride), sides


def chain_layer(
    input_size: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    output_padding: tuple[int, int],
) -> dict[str, Any] | None:
    """The layer of conv2d_chain equal to conv_transpose2d of these, for an input of (H, W) = input_size; None
    where that takes more than a convolution and a pixel shuffle."""
    kernel = weight.shape[2:]
    size = [
        (n - 1) * stride[i] - 2 * padding[i] + kernel[i] + output_padding[i] for i, n in enumerate(input_size)
    ]
    if stride[0] != stride[1] or size[0] % stride[0] or size[1] % stride[0] or min(size) < 1:
        return None
    weight, bias, sides = as_convolution(input_size, size, weight, bias, stride[0], padding)
    if min(sides) < 0:
        return None
    return {"weight": weight, "bias": bias, "padding": sides, "pixel_shuffle": stride[0]}


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    activation: str | None = None,
    negative_slope: float = 0.01,
    prelu_weight: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """act(F.conv_transpose2d(input, weight, bias, stride, padding, output_padding)).

    Shapes: input (N, C_in, H, W); weight (C_in, C_out, kh, kw); bias (C_out,); prelu_weight (1,) or (C_out,);
    result (N, C_out, (H-1)*stride - 2*padding + kh + output_padding, ...), in input's dtype and memory
    format. Runs as `conv2d` with
    pixel_shuffle=stride over a rearranged weight (the sub-pixel form; "Is the deconvolution layer the same
    as a convolutional layer?", Shi et al. 2016); with two different strides as PyTorch's own op. What is
    made from weight, bias and prelu_weight is kept while they are not written to.

    Raises TypeError or ValueError naming the argument that does not fit, BackendError where the backend
    asked for cannot run it.
    """
    op = "conv_transpose2d"
    _arguments.tensors(op, input=input, weight=weight)
    _arguments.optional_tensors(op, bias=bias, prelu_weight=prelu_weight)
    strides = _arguments.pair(op, "stride", stride)
    paddings = _arguments.pair(op, "padding", padding)
    extra = _arguments.pair(op, "output_padding", output_padding)
    activation = _arguments.text(op, "activation", activation, "none")
    negative_slope = _arguments.number(op, "negative_slope", negative_slope)
    backend = _arguments.text(op, "backend", backend, "")
    if (
        min(strides) < 1
        or min(paddings) < 0
        or not all(0 <= e < s for e, s in zip(extra, strides, strict=True))
    ):
        raise ValueError(
            f"{op}: stride must be at least 1, padding at least 0, output_padding at least 0 and below "
            f"stride, got stride={stride}, padding={padding}, output_padding={output_padding}"
        )
    _check.transposed(op, input, weight, bias, activation, prelu_weight)
    kernel, s = weight.shape[2:], strides[0]
    size = [
        (n - 1) * strides[i] - 2 * paddings[i] + kernel[i] + extra[i] for i, n in enumerate(input.shape[2:])
    ]
    if min(size) < 1:
        raise ValueError(
            f"{op}: padding={padding} leaves nothing of the result of input {_check.shape_of(input)} and "
            f"weight {_check.shape_of(weight)} with stride={stride}; pad less"
        )
    if strides[0] != strides[1]:
        y = _unequal_strides(input, weight, bias, strides, paddings, extra, backend)
        slopes = None if prelu_weight is None else prelu_weight.to(y.dtype)  # autocast may tell them apart
        y = reference.activate(y, activation, negative_slope, slopes)
        return with_format(y, memory_format_of(input))

    subpixel, bias, sides = as_convolution(input.shape[2:], size, weight, bias, s, paddings)
    if prelu_weight is not None and prelu_weight.shape[0] > 1:
        prelu_weight = repeated(prelu_weight, s * s)
    y = _conv2d.call(
        input,
        subpixel,
        bias,
        (1, 1),
        tuple(sides),
        (1, 1),
        1,
        1,
        activation,
        negative_slope,
        prelu_weight,
        None,
        1.0,
        None,
        1.0,
        1.0,
        False,
        s,
        None,
        "none",
        backend,
    )
    if size[0] % s or size[1] % s:
        y = with_format(y[:, :, : size[0], : size[1]], memory_format_of(input))
    return y


def _unequal_strides(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    paddings: Sequence[int],
    extra: Sequence[int],
    backend: str,
) -> Tensor:
    name = chosen(backend)
    if name not in ("auto", "torch"):
        find(name)  # an unknown name is the first thing to say
        raise BackendError(
            f"conv_transpose2d: backend {name!r} was asked for and takes one stride for both axes, "
            f"got {tuple(strides)}. Ask for 'auto' or 'torch'."
        )
    record("torch/conv_transpose2d")
    return F.conv_transpose2d(input, weight, bias, strides, paddings, extra)
