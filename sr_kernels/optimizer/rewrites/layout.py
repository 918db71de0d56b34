# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""channels_last throughout: pictures are converted where they enter, results, back, where they leave."""

from __future__ import annotations

from torch import fx
from torch.fx.node import map_arg

from sr_kernels.optimizer.graph.graphs import insert, is_image, placeholders
from sr_kernels.optimizer.graph.vocabulary import channels_last, formatted


def apply(graph: fx.Graph) -> int:
    """Inserts the conversions; how many pictures enter."""
    pictures = [node for node in placeholders(graph) if is_image(node) and node.users]
    if not pictures:
        return 0
    output = next(iter(reversed(graph.nodes)))

    def leave(node: fx.Node) -> fx.Node:
        return insert(graph, output, formatted, node, pictures[0]) if is_image(node) else node

    output.args = map_arg(output.args, leave)
    first = next(node for node in graph.nodes if node.op != "placeholder")
    for node in pictures:
        inside = insert(graph, first, channels_last, node)
        node.replace_all_uses_with(inside, lambda user: user.op != "output" and user.target is not formatted)
        inside.args = (node,)
    return len(pictures)
