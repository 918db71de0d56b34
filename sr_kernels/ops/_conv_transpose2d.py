# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Strided transposed convolution as a convolution and a pixel shuffle: no scatter, no zeros multiplied."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sr_kernels import reference
from sr_kernels.backends.base import BackendError
from sr_kernels.backends.registry import chosen, record
from sr_kernels.ops import _arguments, _check
from sr_kernels.ops._conv2d import OP

_cache = WeakTensorKeyDictionary()
_lock = threading.Lock()


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


def _derived(weight: Tensor, stride: int, padding: Sequence[int]) -> Tensor:
    """subpixel_weight, kept for as long as the weight lives and is not written to."""
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and weight.requires_grad):
        return subpixel_weight(weight, stride, padding)
    if type(weight) not in (Tensor, torch.nn.Parameter) or weight.is_inference():
        return subpixel_weight(weight, stride, padding)
    try:
        key = (weight.data_ptr(), weight._version, stride, tuple(padding))
    except RuntimeError:  # a tensor without storage: vmap, functionalisation
        return subpixel_weight(weight, stride, padding)
    with _lock:
        kept = _cache.get(weight)
        if kept is None or kept[0] != key:
            # not an inference tensor even under inference mode: a later backward may save it
            with torch.inference_mode(False), torch.no_grad():
                kept = key, subpixel_weight(weight.detach(), stride, padding)
            _cache[weight] = kept
    derived: Tensor = kept[1]
    return derived


def _check_transposed(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    op = "conv_transpose2d"
    _check.pictures(op, input)
    if weight.dim() != 4 or weight.shape[0] != input.shape[1] or weight.numel() == 0:
        raise ValueError(
            f"{op}: weight must be (C_in, C_out, kh, kw) with the {input.shape[1]} channels of input "
            f"{_check.shape_of(input)}, got {_check.shape_of(weight)}"
        )
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != weight.shape[1]):
        raise ValueError(
            f"{op}: bias must be ({weight.shape[1]},), one value per output channel, "
            f"got {_check.shape_of(bias)}"
        )


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
    result (N, C_out, (H-1)*stride - 2*padding + kh + output_padding, ...). Runs as `conv2d` with
    pixel_shuffle=stride over a rearranged weight (the sub-pixel form; "Is the deconvolution layer the same
    as a convolutional layer?", Shi et al. 2016); with two different strides as PyTorch's own op. The
    rearranged weight is kept while the weight is not written to.

    Raises TypeError or ValueError naming the argument that does not fit, BackendError where the backend
    asked for cannot run it.
    """
    op = "conv_transpose2d"
    _arguments.tensors(op, input=input, weight=weight)
    _arguments.optional_tensors(op, bias=bias, prelu_weight=prelu_weight)
    strides = _arguments.pair(op, "stride", stride)
    paddings = _arguments.pair(op, "padding", padding)
    extra = _arguments.pair(op, "output_padding", output_padding)
    if (
        min(strides) < 1
        or min(paddings) < 0
        or not all(0 <= e < s for e, s in zip(extra, strides, strict=True))
    ):
        raise ValueError(
            f"{op}: stride must be at least 1, padding at least 0, output_padding at least 0 and below "
            f"stride, got stride={stride}, padding={padding}, output_padding={output_padding}"
        )
    _check_transposed(input, weight, bias)
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
        if chosen(backend or "") not in ("auto", "torch"):
            raise BackendError(
                f"{op}: backend {chosen(backend or '')!r} was asked for and takes one stride for both axes, "
                f"got {stride}. Ask for 'auto' or 'torch'."
            )
        record("torch/conv_transpose2d")
        y = F.conv_transpose2d(input, weight, bias, strides, paddings, extra)
        return reference.activate(y, activation or "none", negative_slope, prelu_weight)

    sides = []  # left, right, top, bottom
    for i in (1, 0):
        _, taps, before = _taps(kernel[i], s, paddings[i])
        rows = (size[i] + s - 1) // s
        sides += [before, rows + taps - 1 - input.shape[2 + i] - before]
    if prelu_weight is not None and prelu_weight.shape[0] > 1:
        prelu_weight = prelu_weight.repeat_interleave(s * s)
    y = OP(
        input,
        _derived(weight, s, paddings),
        None if bias is None else bias.repeat_interleave(s * s),
        (1, 1),
        sides,
        (1, 1),
        1,
        1,
        activation or "none",
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
        backend or "",
    )
    return y[:, :, : size[0], : size[1]] if size[0] % s or size[1] % s else y
