# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Parallel convolutions of one picture as one, and convolutions one after the other as one.

A sum of convolutions with one stride, dilation and group count is the convolution by the sum of their
kernels, once these are enlarged by zeros to one size, tap upon tap. An output pixel at t reads the input at
t*stride - left + dilation*j: tap j of a kernel padded by `left` lies upon tap j + (L - left)/dilation of one
padded by L, where that is whole. The results have one size for every input if left + right - dilation*(k-1)
is the same; all read zeros beyond the border. The picture itself is the convolution by the 1x1 identity, its
batch norm by the identity times the norm's gain, with its shift for bias (RepVGG, Ding et al. 2021). The
picture alone beside one convolution stays a residual, which costs little and rounds less.

    sum over i of s_i * (W_i * x + b_i) = (sum of s_i * W_i) * x + sum of s_i * b_i

Two convolutions without anything between are one with W[o, i, t] = sum over m, a+b=t of W2[o, m, b] *
W1[m, i, a] and the bias b2 + sum of W2 * b1 (ECBSR, Zhang et al. 2021), where

  - the second is not padded: whatever lies around the picture, the first has seen it; or
  - the first is 1x1, not padded, and has no bias: around its result there would be zeros anyway.

A first one with a bias and a padded second differ at the border: the second's zeros are not b1. Where the
picture is padded before the first, by its own padding or an explicit pad, the second needs none.
Both only where the one kernel takes no more multiplications than what it stands for; 3x3 always counts as
little for sums, since it is what the kernels do best.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from torch import fx

from sr_kernels import ops
from sr_kernels.optimizer.graph.graphs import (
    constant,
    insert,
    is_call,
    operands,
    replace,
    shapes,
    sole_user,
    sweep,
)
from sr_kernels.optimizer.graph.vocabulary import batch_norm
from sr_kernels.optimizer.rewrites import weights
from sr_kernels.optimizer.rewrites.convs import Geometry, geometry, is_bare, is_conv, reads, without_defaults
from sr_kernels.optimizer.rewrites.fold_norm import affine
from sr_kernels.optimizer.rewrites.padding import plain
from sr_kernels.optimizer.rewrites.residual import factor_of

_CHEAP = 9  # taps


def apply(graph: fx.Graph) -> int:
    """Merges what it finds, innermost first, until nothing is left; how many mergers."""
    count = 0
    while True:
        # A sum inside a larger one is no group of its own: its terms are the larger one's.
        done = any(_compose(graph, node) for node in list(graph.nodes) if is_conv(node)) or any(
            _merge(graph, node) for node in list(graph.nodes) if _is_sum(node) and not _is_term(node)
        )
        if not done:
            return count
        count += 1


def _compose(graph: fx.Graph, second: fx.Node) -> bool:
    first = second.args[0]
    if not isinstance(first, fx.Node) or not is_bare(first) or sole_user(first) is not second:
        return False
    if not reads(second, first):
        return False
    a, b = geometry(first), geometry(second)
    if a is None or b is None or not (constant(first.args[2]) and constant(second.args[2])):
        return False
    if a.groups != 1 or b.groups != 1 or b.upsample != 1 or a.stride != (1, 1):
        return False
    if a.dilation != (1, 1) or b.dilation != (1, 1):
        return False
    exact = not any(b.sides) or (a.is_pointwise and first.args[2] is None)
    size = tuple(i + j - 1 for i, j in zip(a.shape[2:], b.shape[2:], strict=True))
    cost = a.shape[0] * (a.taps * a.shape[1] + b.taps * b.shape[0])
    if not exact or size[0] * size[1] * a.shape[1] * b.shape[0] > cost:
        return False
    kernel = weights.exact(second.args[1])
    bias = weights.exact(second.args[2])
    if first.args[2] is not None:
        extra = insert(graph, second, weights.seen, kernel, weights.exact(first.args[2]), 1)
        bias = insert(graph, second, weights.shifted, bias, None, extra)
    bias = weights.in_dtype_of(graph, second, bias, second.args[1])
    kernel = insert(graph, second, weights.composed, weights.exact(first.args[1]), kernel)
    kernel = weights.in_dtype_of(graph, second, kernel, second.args[1])
    left, right, top, bottom = (i + j for i, j in zip(a.sides, b.sides, strict=True))
    kwargs = {**second.kwargs, "padding": plain((left, right, top, bottom)), "upsample": a.upsample}
    replace(graph, second, ops.conv2d, (first.args[0], kernel, bias), without_defaults(kwargs))
    graph.erase_node(first)
    return True


def _is_sum(node: Any) -> bool:
    return is_call(node, operator.add, operator.sub)


def _is_term(node: fx.Node) -> bool:
    return _is_sum(sole_user(node))


@dataclass
class _Term:
    """What is added: a value, times a number."""

    node: Any
    factor: float


def _terms(node: Any, factor: float = 1.0, outermost: bool = True) -> list[_Term]:
    """Of a sum, through the sums and products with numbers that it alone reads."""
    if isinstance(node, fx.Node) and (outermost or sole_user(node) is not None):
        if _is_sum(node):
            first, second = operands(node)
            sign = -1.0 if node.target is operator.sub else 1.0
            return _terms(first, factor, False) + _terms(second, sign * factor, False)
        scaled = factor_of(node)
        if scaled is not None and (is_conv(scaled[0]) or _is_sum(scaled[0])):
            return _terms(scaled[0], factor * scaled[1], False)
    return [_Term(node, factor)]


def _picture(term: _Term) -> Any:
    """What a term is a convolution of; the value itself where it is none."""
    node = term.node
    if is_bare(node) and sole_user(node) is not None and geometry(node) is not None:
        return node.args[0] if constant(node.args[2]) else node
    norm = is_call(node, batch_norm) and sole_user(node) is not None
    return node.args[0] if norm and all(constant(arg) for arg in node.args[1:]) else node


def _merge(graph: fx.Graph, node: fx.Node) -> bool:
    terms = _terms(node)
    if any(shapes(term.node) is None or shapes(term.node) != shapes(node) for term in terms):
        return False
    for picture in dict.fromkeys(_picture(term) for term in terms):
        of_it = [term for term in terms if _picture(term) is picture]
        convs = [term for term in of_it if is_conv(term.node) and term.node is not picture]
        for leader in convs:
            group = _group(leader, of_it, picture)
            if group is not None:
                _replace(graph, node, terms, group, picture)
                return True
    return False


@dataclass
class _Group:
    terms: list[_Term]
    places: list[tuple[int, int, int, int]]  # by how much each kernel is enlarged: left, right, top, bottom
    geometry: Geometry  # of the kernel that stands for all


def _group(leader: _Term, terms: list[_Term], picture: fx.Node) -> _Group | None:
    """The terms that lie upon the leader's kernel, the largest of them; None where that is the leader alone,
    or not worth it."""
    big = geometry(leader.node)
    assert big is not None
    found = _Group([], [], big)
    taps, others = 0, 0
    for term in terms:
        small = geometry(term.node) if is_conv(term.node) and term.node is not picture else _point(big)
        place = None if small is None else _place(big, small)
        if place is None:
            continue
        found.terms.append(term)
        found.places.append(place)
        assert small is not None
        taps += small.taps
        others += term.node is not picture
    return found if others > 1 and big.taps <= max(taps, _CHEAP) else None


def _point(big: Geometry) -> Geometry | None:
    """The picture itself as a convolution."""
    shape = (big.shape[0], big.shape[1], 1, 1)
    if big.stride != (1, 1) or big.shape[0] != big.shape[1] * big.groups or big.upsample != 1:
        return None
    return Geometry(shape, (0, 0, 0, 0), big.stride, big.dilation, big.groups, 1)


def _place(big: Geometry, small: Geometry) -> tuple[int, int, int, int] | None:
    """By how many taps the small kernel is enlarged to lie upon the big one; None where it does not."""
    same = ("stride", "groups", "upsample")
    if any(getattr(big, name) != getattr(small, name) for name in same) or big.shape[:2] != small.shape[:2]:
        return None
    found = []
    for axis in (1, 0):  # columns, rows
        k, d = big.shape[2 + axis], big.dilation[axis]
        j = small.shape[2 + axis]
        if j > 1 and small.dilation[axis] != d:
            return None
        before, after = (big.sides[2 * (1 - axis) + i] - small.sides[2 * (1 - axis) + i] for i in (0, 1))
        if before % d or after % d or before < 0 or after < 0 or (before + after) // d != k - j:
            return None
        found += [before // d, after // d]
    left, right, top, bottom = found
    return left, right, top, bottom


def _replace(graph: fx.Graph, node: fx.Node, terms: list[_Term], group: _Group, picture: fx.Node) -> None:
    """The sum anew: one convolution, and the terms that are not its."""
    leader = next(t.node for t in group.terms if is_conv(t.node) and geometry(t.node) == group.geometry)
    like = leader.args[1]
    kernels: list[Any] = []
    biases: list[Any] = []
    for term in group.terms:
        if is_call(term.node, batch_norm) and term.node is not picture:
            gain, shift = affine(graph, term.node, node)
            kernels.append(insert(graph, node, weights.identity, weights.exact(like), gain))
            biases.append(shift)
        elif term.node is picture:
            kernels.append(insert(graph, node, weights.identity, weights.exact(like)))
            biases.append(None)
        else:
            kernels.append(weights.exact(term.node.args[1]))
            biases.append(weights.exact(term.node.args[2]))
    factors = [term.factor for term in group.terms]
    kernel = insert(graph, node, weights.total, kernels, group.places, factors)
    kernel = weights.in_dtype_of(graph, node, kernel, like)
    bias = None
    if any(b is not None for b in biases):
        bias = insert(graph, node, weights.total_bias, biases, factors)
        bias = weights.in_dtype_of(graph, node, bias, like)
    with graph.inserting_before(node):
        new = graph.call_function(ops.conv2d, (picture, kernel, bias), dict(leader.kwargs))
    new.meta.update(node.meta)
    for term in terms:
        if any(term is merged for merged in group.terms):
            continue
        addend = term.node
        if abs(term.factor) != 1.0:
            addend = insert(graph, node, operator.mul, addend, abs(term.factor))
        new = insert(graph, node, operator.sub if term.factor < 0 else operator.add, new, addend)
    node.replace_all_uses_with(new)
    sweep(graph)
