# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Zeros around a picture as a convolution's own padding, which costs nothing.

    conv(pad(x, a), padding=b) = conv(x, padding=a+b),    pad(pad(x, a), b) = pad(x, a+b),    pad(x, 0) = x

of zeros, sides (left, right, top, bottom) that none is negative of: a pad that cuts forgets what it cuts.
A pad that reflects or replicates stays. With an enlargement by u between, the pad counts u-fold.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from sr_kernels.optimizer.graph.graphs import is_call, replace
from sr_kernels.optimizer.graph.vocabulary import pad
from sr_kernels.optimizer.rewrites.convs import geometry, reads

_Sides = tuple[int, int, int, int]


def apply(graph: fx.Graph) -> int:
    """Rewrites pads of nothing, pads of pads, and pads that convolutions alone read; how many."""
    count = 0
    for node in list(graph.nodes):
        sides = _sides(node)
        if sides is None:
            continue
        if not any(sides):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
            count += 1
            continue
        if not _is_zeros(node):
            continue
        inner = _sides(node.args[0])
        if inner is not None and _is_zeros(node.args[0]):
            node.args = (node.args[0].args[0], _sum(sides, inner), "constant")
            count += 1
    for node in list(graph.nodes):
        if _sides(node) is not None and _is_zeros(node) and node.users and _into_readers(graph, node):
            count += 1
    return count


def _sides(node: Any) -> _Sides | None:
    """Of a pad by plain numbers, none negative."""
    if not is_call(node, pad):
        return None
    sides = node.args[1]
    if any(isinstance(side, fx.Node) or side < 0 for side in sides):
        return None
    left, right, top, bottom = map(int, sides)
    return left, right, top, bottom


def _is_zeros(node: fx.Node) -> bool:
    return bool(node.args[2] == "constant")


def _sum(a: _Sides, b: _Sides, times: int = 1) -> _Sides:
    left, right, top, bottom = (i + times * j for i, j in zip(a, b, strict=True))
    return left, right, top, bottom


def _into_readers(graph: fx.Graph, node: fx.Node) -> bool:
    sides = _sides(node)
    places = {conv: geometry(conv) for conv in node.users if reads(conv, node)}
    if sides is None or len(places) < len(node.users) or None in places.values():
        return False
    for conv, place in places.items():
        assert place is not None
        padding = _sum(place.sides, sides, place.upsample)
        kwargs = {**conv.kwargs, "padding": plain(padding)}
        replace(graph, conv, conv.target, (node.args[0], *conv.args[1:]), kwargs)
    graph.erase_node(node)
    return True


def plain(sides: _Sides) -> Any:
    """Four sides as the shortest form of conv2d's argument."""
    left, right, top, bottom = sides
    if left == right and top == bottom:
        return left if left == top else (top, left)
    return sides
