# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Batch norm by running statistics as part of a convolution's kernel and bias.

Batch norm is g*x + s for each channel, g = weight / sqrt(var + eps), s = bias - mean*g.

    norm(W*x + b) = (g*W)*x + (g*b + s)                                 behind any convolution
    W*norm(x) + b = (W*g)*x + (b + sum over taps and channels of W*s)   before one without padding

With padding the second is wrong: a convolution pads with zeros what the norm gives, and the norm of a zero
is s. What would have to be padded is -s/g, another number for each channel.
"""

from __future__ import annotations

from torch import fx

from sr_kernels import ops
from sr_kernels.optimizer.graph.graphs import constant, insert, is_call, sole_user
from sr_kernels.optimizer.graph.vocabulary import batch_norm
from sr_kernels.optimizer.rewrites import weights
from sr_kernels.optimizer.rewrites.convs import TRANSPOSED, geometry, is_bare, reads


def apply(graph: fx.Graph) -> int:
    """Rewrites norms that follow a convolution, or that one convolution alone reads; how many."""
    return sum(_fold(graph, node) for node in list(graph.nodes) if is_call(node, batch_norm))


def _fold(graph: fx.Graph, node: fx.Node) -> bool:
    x = node.args[0]
    if not isinstance(x, fx.Node) or not all(constant(arg) for arg in node.args[1:]):
        return False
    transposed = is_call(x, ops.conv_transpose2d) and not set(x.kwargs) - set(TRANSPOSED)
    if (transposed or is_bare(x)) and sole_user(x) is node and constant(x.args[1]) and constant(x.args[2]):
        gain, shift = affine(graph, node, node)
        weights.behind(graph, x, node, gain, shift, axis=int(transposed))
        return True
    conv = sole_user(node)
    if conv is None or not reads(conv, node) or not constant(conv.args[2]):
        return False
    place = geometry(conv)
    if place is None or any(place.sides):
        return False
    gain, shift = affine(graph, node, conv)
    weights.before(graph, conv, x, gain, shift)
    graph.erase_node(node)
    return True


def affine(graph: fx.Graph, norm: fx.Node, before: fx.Node) -> tuple[fx.Node, fx.Node]:
    """A norm's gain and shift, new nodes."""
    _, mean, var, weight, bias, eps = norm.args
    gain = insert(graph, before, weights.norm_gain, var, weight, eps)
    return gain, insert(graph, before, weights.norm_shift, mean, gain, bias)
