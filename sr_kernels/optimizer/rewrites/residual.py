# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""scale * conv(x) + b * residual, either order, up to twice, as one op; behind a pixel shuffle the one addend
is a base, which may be enlarged on the way.

Linear in the result r of a convolution without an activation after its sum:

    k * (scale*act + b1*res1)        = (k*scale)*act + (k*b1)*res1
    (scale*act + b1*res1) + b2*res2,   the op's own form
    shuffle(r) + base                  the op's own form
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from sr_kernels.optimizer.graph.graphs import constant, is_call, number, operands, shapes, sole_user
from sr_kernels.optimizer.graph.vocabulary import enlarge
from sr_kernels.optimizer.rewrites.convs import grow, is_free, option

_MOST = 2  # residuals of the op


def apply(graph: fx.Graph) -> int:
    """Rewrites products with numbers and sums of convolutions; how many."""
    count = 0
    for node in list(graph.nodes):
        if is_call(node, operator.mul, operator.truediv):
            count += scale(graph, node)
        elif is_call(node, operator.add, operator.sub):
            count += _add(graph, node)
    return count


def factor_of(node: Any) -> tuple[Any, float] | None:
    """(x, k) where a node is x * k, k * x or x / k of a plain number k."""
    if is_call(node, operator.mul):
        for x, k in (operands(node), operands(node)[::-1]):
            if number(k) is not None and isinstance(x, fx.Node):
                return x, float(k)
    if is_call(node, operator.truediv) and number(node.args[1]):
        x, k = operands(node)
        return (x, 1.0 / float(k)) if isinstance(x, fx.Node) else None
    return None


def scale(graph: fx.Graph, node: fx.Node) -> bool:
    """Rewrites a product of a convolution with a number; whether it was one."""
    found = factor_of(node)
    if found is None:
        return False
    conv, factor = found
    if not is_free(conv) or option(conv, "activation_after_add") or option(conv, "base") is not None:
        return False
    residuals = [(x, weight * factor) for x, weight in option(conv, "residual")]
    grow(graph, conv, node, scale=option(conv, "scale") * factor, residual=residuals)
    return True


def _add(graph: fx.Graph, node: fx.Node) -> bool:
    first, second = operands(node)
    sign = -1.0 if node.target is operator.sub else 1.0
    # of two convolutions the later one absorbs the other's result
    order = {n: i for i, n in enumerate(graph.nodes)}
    choices = [(first, second, 1.0, sign), (second, first, sign, 1.0)]
    choices = [c for c in choices if is_free(c[0]) and isinstance(c[1], fx.Node) and c[1] is not c[0]]
    # what follows from parameters has the batch and size of one input and is spread over others
    choices = [c for c in choices if not constant(c[1])]
    for conv, other, conv_sign, other_sign in sorted(choices, key=lambda c: -order[c[0]]):
        if shapes(conv) is None or option(conv, "activation_after_add") or option(conv, "base") is not None:
            continue
        if option(conv, "pixel_shuffle") > 1 or is_call(other, enlarge):
            if conv_sign == other_sign == 1.0 and _base(graph, conv, other, node):
                return True
        elif shapes(other) == shapes(conv) and len(option(conv, "residual")) < _MOST:
            scaled = factor_of(other)
            addend, weight = scaled if scaled is not None and sole_user(other) is node else (other, 1.0)
            residuals = [(x, w * conv_sign) for x, w in option(conv, "residual")]
            residuals.append((addend, weight * other_sign))
            grow(graph, conv, node, scale=option(conv, "scale") * conv_sign, residual=residuals)
            return True
    return False


def _base(graph: fx.Graph, conv: fx.Node, other: fx.Node, node: fx.Node) -> bool:
    if shapes(other) != shapes(conv):
        return False
    if is_call(other, enlarge):
        small, _, mode = operands(other)
        grow(graph, conv, node, base=small, base_mode=mode)
    else:
        grow(graph, conv, node, base=other)
    return True
