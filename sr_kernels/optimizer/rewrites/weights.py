# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Kernels and biases that follow from others: functions of tensors, and the nodes that call them.

Everything is computed in float64 and rounded once, however many rewrites meet in one kernel: each of them
takes what the last one had before its rounding. All functions are differentiable. A kernel is
(Co, Ci/groups, kh, kw) in conv2d, (Ci, Co, kh, kw) in conv_transpose2d; a bias, a gain, a shift is (C,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from sr_kernels.ops import _conv_transpose2d
from sr_kernels.optimizer.graph import graphs
from sr_kernels.optimizer.graph.graphs import insert, is_call

# Functions of tensors.


def rounded(x: Tensor, like: Tensor) -> Tensor:
    """x in the dtype of like."""
    return x.to(like.dtype)


def per_channel(value: Any, weight: Tensor, count: int, times: int = 1) -> Tensor:
    """A number, or a tensor of one value or one a channel, as (count,), each value `times` times in a row, on
    the device of weight."""
    x = value.double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    return x.to(weight.device).reshape(-1).expand(count // times).repeat_interleave(times)


def results_scaled(weight: Tensor, gain: Tensor, axis: int = 0) -> Tensor:
    """The kernel whose results are gain times as large."""
    shape = [1] * 4
    shape[axis] = -1
    return weight.double() * gain.double().view(shape)


def shifted(bias: Tensor | None, gain: Tensor | None, shift: Tensor | None) -> Tensor | None:
    """gain * bias + shift, what is missing being 0, 1 and 0."""
    y = None if bias is None else bias.double()
    if y is not None and gain is not None:
        y = y * gain.double()
    if shift is None:
        return y
    return shift.double() if y is None else y + shift.double()


def inputs_scaled(weight: Tensor, gain: Tensor, groups: int) -> Tensor:
    """The kernel that gives for x what weight gives for gain * x."""
    co, ci, _, _ = weight.shape
    by_group = weight.double().view(groups, co // groups, ci, *weight.shape[2:])
    return (by_group * gain.double().view(groups, 1, ci, 1, 1)).view(weight.shape)


def seen(weight: Tensor, shift: Tensor, groups: int) -> Tensor:
    """What the kernel gives for a picture that holds `shift` at every pixel, (Co,)."""
    co, ci, _, _ = weight.shape
    taps = weight.double().sum((2, 3)).view(groups, co // groups, ci)
    return (taps * shift.double().view(groups, 1, ci)).sum(2).view(co)


@graphs.of_statistics
def norm_gain(var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Batch norm is gain * x + shift: its gain."""
    gain = (var.double() + eps).rsqrt()
    return gain if weight is None else gain * weight.double()


@graphs.of_statistics
def norm_shift(mean: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    """Batch norm's shift."""
    shift = -mean.double() * gain
    return shift if bias is None else shift + bias.double()


def composed(first: Tensor, second: Tensor) -> Tensor:
    """The kernel of second after first, both without padding: W[o, i, t] = sum of second[o, m, b] *
    first[m, i, a] over m and a + b = t."""
    second = second.double().transpose(0, 1)
    return F.conv_transpose2d(first.double().transpose(0, 1), second).transpose(0, 1)


def total(kernels: Sequence[Tensor], places: Sequence[Sequence[int]], signs: Sequence[float]) -> Tensor:
    """The sum of kernels, each enlarged by zeros, (left, right, top, bottom)."""
    terms = [F.pad(k.double(), tuple(p)) * s for k, p, s in zip(kernels, places, signs, strict=True)]
    return torch.stack(terms).sum(0)


def total_bias(biases: Sequence[Tensor | None], signs: Sequence[float]) -> Tensor | None:
    """The sum of biases."""
    terms = [b.double() * s for b, s in zip(biases, signs, strict=True) if b is not None]
    return torch.stack(terms).sum(0) if terms else None


def identity(like: Tensor, gain: Tensor | None = None) -> Tensor:
    """The 1x1 kernel, with as many groups and channels as that of like, that multiplies each channel by its
    gain, or leaves it."""
    co, ci = like.shape[:2]
    own = torch.arange(co, device=like.device) % ci
    kernel = torch.zeros((co, ci), dtype=torch.float64, device=like.device)
    kernel = kernel.scatter(1, own[:, None], 1.0)
    if gain is not None:
        kernel = kernel * gain.double()[:, None]
    return kernel[:, :, None, None]


def subpixel(weight: Tensor, stride: int, padding: Sequence[int]) -> Tensor:
    """The kernel whose pixel-shuffled results are those of a transposed convolution."""
    return _conv_transpose2d.subpixel_weight(weight, stride, padding)


def repeated(x: Tensor, times: int) -> Tensor:
    """Per channel (C,) as per channel before a shuffle (C*times,)."""
    return x.repeat_interleave(times)


# Their nodes.


def exact(node: Any) -> Any:
    """A kernel or bias as it was before it was rounded."""
    return node.args[0] if is_call(node, rounded) else node


def in_dtype_of(graph: fx.Graph, before: fx.Node, node: Any, like: Any) -> Any:
    """node, rounded to the dtype of a kernel."""
    if node is None:
        return None
    like = like.args[1] if is_call(like, rounded) else like
    return insert(graph, before, rounded, node, like)


def behind(
    graph: fx.Graph, conv: fx.Node, end: fx.Node, gain: Any = None, shift: Any = None, *, axis: int = 0
) -> fx.Node:
    """gain * conv + shift, nodes of (C,), in end's place; conv, which end alone read, goes."""
    x, weight, bias = conv.args
    kernel, offset = exact(weight), exact(bias)
    if gain is not None:
        kernel = insert(graph, end, results_scaled, kernel, gain, axis)
        kernel = in_dtype_of(graph, end, kernel, weight)
    else:
        kernel = weight
    if offset is not None or shift is not None:
        offset = in_dtype_of(graph, end, insert(graph, end, shifted, offset, gain, shift), weight)
    new = graphs.replace(graph, end, conv.target, (x, kernel, offset), dict(conv.kwargs))
    graph.erase_node(conv)
    return new


def before(graph: fx.Graph, conv: fx.Node, x: fx.Node, gain: Any = None, shift: Any = None) -> fx.Node:
    """conv of gain * x + shift, in conv's place. With a shift it must have no padding."""
    _, weight, bias = conv.args
    groups = conv.kwargs.get("groups", 1)
    kernel = exact(weight)
    if shift is not None:
        extra = insert(graph, conv, seen, kernel, shift, groups)
        bias = insert(graph, conv, shifted, exact(bias), None, extra)
        bias = in_dtype_of(graph, conv, bias, weight)
    if gain is not None:
        kernel = in_dtype_of(graph, conv, insert(graph, conv, inputs_scaled, kernel, gain, groups), weight)
    else:
        kernel = weight
    return graphs.replace(graph, conv, conv.target, (x, kernel, bias), dict(conv.kwargs))
