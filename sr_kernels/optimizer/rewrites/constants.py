# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers, and constants with one value for each channel, as part of a convolution's kernel and bias.

With scale s and pixel shuffle, which takes a value for each of its channels r*r times, and no activation:

    (s*(W*x + b) + rest) + c = s*(W*x + (b + c/s)) + rest
    k*(s*(W*x + b))          = s*((k*W)*x + k*b)                 without rest: residuals, base
    conv(k*x)                = (W*k)*x + b                       padded or not: k times zero is zero
    conv(x + c)              = W*x + (b + sum of W*c)            without padding, whose zeros are not c
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from sr_kernels.optimizer.graph.graphs import constant, insert, is_call, number, operands, shapes, sole_user
from sr_kernels.optimizer.rewrites import residual, weights
from sr_kernels.optimizer.rewrites.convs import geometry, is_conv, is_free, option, reads

_OPERATORS = operator.mul, operator.truediv, operator.add, operator.sub


def apply(graph: fx.Graph) -> int:
    """Rewrites products and sums with constants behind convolutions, then before them; how many."""
    _resolve_casts(graph)
    count = sum(_behind(graph, node) for node in list(graph.nodes) if is_call(node, *_OPERATORS))
    # from the last to the first: (x - c) * k is read by the convolution once its product is gone
    return count + sum(_before(graph, n) for n in reversed(list(graph.nodes)) if is_call(n, *_OPERATORS))


def _resolve_casts(graph: fx.Graph) -> None:
    """A constant in the dtype of a picture, as one in the dtype of a kernel: each convolution insists that
    its picture's and its kernel's are one."""
    for node in list(graph.nodes):
        if node.op != "call_method" or node.target not in ("to", "type_as") or node.kwargs:
            continue
        x, *rest = node.args
        if len(rest) != 1 or not constant(x) or not _has_dtype(rest[0]) or constant(node):
            continue
        values = node.meta.get("values") or [None]
        like = next((n.args[1] for n in graph.nodes if is_conv(n) and _alike(n.args[1], values[0])), None)
        if like is None:
            continue
        like = like.args[1] if is_call(like, weights.rounded) else like
        if like.op != "get_attr":
            continue
        with graph.inserting_before(node):
            copy = graph.get_attr(str(like.target))
        copy.meta.update(like.meta)
        new = insert(graph, node, weights.rounded, x, copy)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        for n in graph.nodes:  # more of them are constant now
            n.meta.pop("constant", None)


def _has_dtype(node: Any) -> bool:
    """A picture, or its dtype."""
    if is_call(node, getattr) and len(node.args) == 2 and node.args[1] == "dtype":
        node = node.args[0]
    return isinstance(node, fx.Node) and shapes(node) is not None


def _alike(weight: Any, value: Any) -> bool:
    return value is not None and constant(weight) and weight.meta["values"][0].dtype == value.dtype


@dataclass(frozen=True)
class _Part:
    """One way to see a node: gain * x, or x + shift."""

    x: fx.Node
    kind: str  # "gain" or "shift"
    value: Any  # a number or a constant node
    turned: Any = None  # what makes the gain or shift of it

    def node(self, graph: fx.Graph, before: fx.Node, weight: Any, count: int, times: int = 1) -> fx.Node:
        """The gain or shift as (count,), each value `times` times."""
        value = self.value if isinstance(self.value, fx.Node) else float(self.value)
        found = insert(graph, before, weights.per_channel, value, weight, count, times)
        return found if self.turned is None else insert(graph, before, self.turned, found)


def _as(part: _Part, factor: fx.Node) -> dict[str, Any]:
    return {part.kind: factor}


def _parts(node: fx.Node) -> list[_Part]:
    a, b = operands(node)
    if is_call(node, operator.mul):
        found = [_Part(a, "gain", b), _Part(b, "gain", a)]
    elif is_call(node, operator.truediv):
        found = [_Part(a, "gain", b, torch.reciprocal)]
    elif is_call(node, operator.add):
        found = [_Part(a, "shift", b), _Part(b, "shift", a)]
    else:
        found = [_Part(a, "shift", b, operator.neg)]
    return [p for p in found if isinstance(p.x, fx.Node) and not constant(p.x) and _fits(p.value, p.x)]


def _fits(value: Any, x: fx.Node) -> bool:
    """A number but 0, or a constant of x's dtype with one value, or one for each channel of x."""
    if not isinstance(value, fx.Node):
        return number(value) not in (None, 0.0)
    found, pictures = shapes(value), shapes(x)
    if not constant(value) or not found or not pictures or any(len(s) != 4 for s in pictures):
        return False
    shape, channels = tuple(found[0]), {s[1] for s in pictures}
    if len(set(found)) > 1 or len(channels) > 1 or len(shape) > 4:
        return False
    if shape and value.meta["values"][0].dtype != x.meta["values"][0].dtype:
        return False
    count = shape[-3] if len(shape) >= 3 else 1
    ones = [n for i, n in enumerate(shape) if i != len(shape) - 3]
    return all(n == 1 for n in ones) and count in (1, *channels)


def _behind(graph: fx.Graph, node: fx.Node) -> bool:
    for part in _parts(node):
        conv = part.x
        if not is_free(conv) or option(conv, "activation") is not None or not constant(conv.args[2]):
            continue
        place = geometry(conv)
        if place is None:
            continue
        if part.kind == "gain" and number(part.value) is not None:
            # a plain product is `residual`'s, unless a constant follows, for which it would be in the way
            after = sole_user(node)
            if after is not None and is_call(after, *_OPERATORS) and _parts(after):
                return residual.scale(graph, node)
            continue
        before = option(conv, "scale")
        alone = not option(conv, "residual") and option(conv, "base") is None
        if not alone if part.kind == "gain" else before == 0.0:
            continue
        times = option(conv, "pixel_shuffle") ** 2
        factor = part.node(graph, node, weights.exact(conv.args[1]), place.shape[0], times)
        if part.kind == "shift" and before != 1.0:
            factor = insert(graph, node, operator.truediv, factor, before)
        weights.behind(graph, conv, node, **_as(part, factor))
        return True
    return False


def _before(graph: fx.Graph, node: fx.Node) -> bool:
    conv = sole_user(node)
    if conv is None or not reads(conv, node):
        return False
    place = geometry(conv)
    if place is None or not constant(conv.args[2]):
        return False
    for part in _parts(node):
        if part.kind == "shift" and any(place.sides):
            continue
        channels = place.shape[1] * place.groups
        factor = part.node(graph, conv, weights.exact(conv.args[1]), channels)
        weights.before(graph, conv, part.x, **_as(part, factor))
        graph.erase_node(node)
        return True
    return False
