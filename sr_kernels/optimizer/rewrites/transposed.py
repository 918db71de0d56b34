# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Transposed convolutions as convolutions and pixel shuffles, whose kernels are then constants of the graph.

Output pixel t*stride + phase takes tap k from input t + (phase + padding - k)/stride where that is whole, so
each phase is a convolution of its own and all of them one with stride**2 times the channels ("Is the
deconvolution layer the same as a convolutional layer?", Shi et al. 2016). Where the result's size,
(n-1)*stride - 2*padding + k + output_padding, is a multiple of the stride for every n, nothing is cropped
and the padding follows from these numbers alone. Elsewhere ops.conv_transpose2d stays, which does the same
for the size that it is called with. Slopes of a PReLU are repeated for the channels of the shuffle.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from sr_kernels import ops
from sr_kernels.ops import _arguments
from sr_kernels.ops._conv_transpose2d import as_convolution
from sr_kernels.optimizer.graph.graphs import constant, insert, is_call, operands, replace, shapes
from sr_kernels.optimizer.rewrites import weights
from sr_kernels.optimizer.rewrites.convs import TRANSPOSED, without_defaults
from sr_kernels.optimizer.rewrites.padding import plain

_KNOWN = {"stride", "padding", "output_padding", "activation", "negative_slope", "prelu_weight"}


def apply(graph: fx.Graph) -> int:
    """Rewrites those of one stride and such sizes; how many."""
    return sum(_rewrite(graph, node) for node in list(graph.nodes) if is_call(node, ops.conv_transpose2d))


def _rewrite(graph: fx.Graph, node: fx.Node) -> bool:
    x, weight, bias = operands(node)
    found, slopes = shapes(weight), node.kwargs.get("prelu_weight")
    if set(node.kwargs) - _KNOWN or not found or not all(constant(n) for n in (weight, bias, slopes)):
        return False
    numbers: list[Any] = [node.kwargs.get(name, default) for name, default in TRANSPOSED.items()]
    stride, padding, extra = (
        _arguments.pair("conv_transpose2d", name, value)
        for name, value in zip(TRANSPOSED, numbers, strict=True)
    )
    s, taps = stride[0], found[0][2:]
    longer = [taps[i] + extra[i] - 2 * padding[i] for i in (0, 1)]
    if stride[1] != s or any(n < s or n % s for n in longer):
        return False
    size = [(_SIDE - 1) * s + n for n in longer]
    meta = torch.empty(found[0], device="meta")
    _, _, sides = as_convolution((_SIDE, _SIDE), size, meta, None, s, padding)
    if min(sides) < 0:
        return False
    kernel = insert(graph, node, weights.subpixel, weights.exact(weight), s, padding)
    kernel = weights.in_dtype_of(graph, node, kernel, weight)
    if bias is not None:
        bias = insert(graph, node, weights.repeated, weights.exact(bias), s * s)
        bias = weights.in_dtype_of(graph, node, bias, weight)
    options: dict[str, Any] = {
        n: node.kwargs[n] for n in ("activation", "negative_slope") if n in node.kwargs
    }
    if slopes is not None:
        several = any(shape[0] > 1 for shape in shapes(slopes) or ())
        options["prelu_weight"] = insert(graph, node, weights.repeated, slopes, s * s) if several else slopes
    if s > 1:
        options["pixel_shuffle"] = s
    left, right, top, bottom = sides
    options["padding"] = plain((left, right, top, bottom))
    replace(graph, node, ops.conv2d, (x, kernel, bias), without_defaults(options))
    return True


_SIDE = 64  # of some input: the padding does not depend on it
