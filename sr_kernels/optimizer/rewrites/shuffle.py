# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""pixel_shuffle(conv(x)) as one op, whatever else the convolution does before."""

from __future__ import annotations

from torch import fx

from sr_kernels import ops
from sr_kernels.optimizer.graph.graphs import is_call
from sr_kernels.optimizer.rewrites.convs import grow, is_free, option


def apply(graph: fx.Graph) -> int:
    """Rewrites every shuffle that follows a convolution directly; how many."""
    count = 0
    for node in list(graph.nodes):
        if not is_call(node, ops.pixel_shuffle):
            continue
        conv, factor = node.args
        if is_free(conv) and option(conv, "pixel_shuffle") == 1 and option(conv, "base") is None:
            grow(graph, conv, node, pixel_shuffle=factor)
            count += 1
    return count
