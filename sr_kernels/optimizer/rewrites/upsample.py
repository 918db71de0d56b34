# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""conv(nearest(x, u)) as one op, which never stores the enlarged picture."""

from __future__ import annotations

from torch import fx

from sr_kernels.optimizer.graph.graphs import is_call
from sr_kernels.optimizer.graph.vocabulary import enlarge
from sr_kernels.optimizer.rewrites.convs import option, reads


def apply(graph: fx.Graph) -> int:
    """Rewrites nearest enlargements that plain convolutions alone read; how many."""
    count = 0
    for node in list(graph.nodes):
        if not (is_call(node, enlarge) and node.args[2] == "nearest" and node.users):
            continue
        x, factor, _ = node.args
        if all(_takes(conv, node) for conv in node.users):
            for conv in list(node.users):
                conv.args = (x, *conv.args[1:])
                conv.kwargs = {**conv.kwargs, "upsample": factor}
            graph.erase_node(node)
            count += 1
    return count


def _takes(conv: fx.Node, enlarged: fx.Node) -> bool:
    return reads(conv, enlarged) and all(
        option(conv, name) == 1 for name in ("stride", "dilation", "groups", "upsample")
    )
