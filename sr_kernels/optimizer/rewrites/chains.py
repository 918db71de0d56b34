# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of thin convolutions as one op, which may keep what passes between them in caches.

ops.conv2d_chain is by definition its layers one after the other, and that is how it runs wherever nothing
is gained: only the size of the picture tells. A run is stride 1 throughout and ends where a convolution's
result is read twice, where one has more than an activation behind it (the last may have all that conv2d
has), or where the layers have too many operations for a chain of any size (backends/cpu_chain.py).
"""

from __future__ import annotations

from typing import Any

from torch import fx

from sr_kernels import ops
from sr_kernels.backends import cpu_chain
from sr_kernels.optimizer.graphs import reads, replace, shapes, sole_user
from sr_kernels.optimizer.rewrites.convs import geometry, is_conv

_EACH = {"padding", "activation", "negative_slope", "prelu_weight"}
_LAST = {"residual", "scale", "activation_after_add", "pixel_shuffle", "base", "base_mode"}


def apply(graph: fx.Graph) -> int:
    """Rewrites the longest runs from the first convolution on; how many."""
    count, done = 0, set[fx.Node]()
    for node in list(graph.nodes):
        if node in done or not is_conv(node):
            continue
        run = _run(node)
        done.update(run)
        if len(run) > 1:
            layers = [_layer(conv) for conv in run]
            replace(graph, run[-1], ops.conv2d_chain, (node.args[0], layers), {})
            for conv in reversed(run[:-1]):
                graph.erase_node(conv)
            count += 1
    return count


def _run(conv: fx.Node) -> list[fx.Node]:
    """The convolutions from this one on that are a chain."""
    found: list[fx.Node] = []
    kernels: list[tuple[int, ...]] = []
    best = 0
    node: fx.Node | None = conv
    while node is not None and is_conv(node) and not set(node.kwargs) - (_EACH | _LAST):
        place = geometry(node)
        if place is None or (found and node.args[0] is not found[-1]) or _is_vector(node):
            break
        if found and reads(node, found[-1]) != 1:
            break
        found.append(node)
        kernels.append(place.shape)
        if cpu_chain.is_thin(kernels):
            best = len(found)
        if set(node.kwargs) & _LAST or len(found) == cpu_chain.MOST_LAYERS:
            break
        node = sole_user(node)
    return found[: max(best, 1)] if found else [conv]


def _is_vector(conv: fx.Node) -> bool:
    """Whether the picture always was one pixel: a mean of another, as channel attention has it."""
    return all(shape[2] * shape[3] == 1 for shape in shapes(conv) or ())


def _layer(conv: fx.Node) -> dict[str, Any]:
    layer = {"weight": conv.args[1], **conv.kwargs}
    if conv.args[2] is not None:
        layer["bias"] = conv.args[2]
    return layer
