# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""act(conv(x)) as one op; also act(scale * conv(x) + residual), and act(shuffle(conv(x))), which is
shuffle(act(conv(x))) where act is the same for every channel."""

from __future__ import annotations

from typing import Any

from torch import fx

from sr_kernels import ops
from sr_kernels.optimizer.graph.graphs import argument, is_call, operands, shapes, sole_user
from sr_kernels.optimizer.graph.vocabulary import activate
from sr_kernels.optimizer.rewrites.convs import grow, is_conv, option


def apply(graph: fx.Graph) -> int:
    """Rewrites every activation that follows a convolution directly; how many."""
    count = 0
    for node in list(graph.nodes):
        if not is_call(node, activate):
            continue
        conv = operands(node)[0]
        if not isinstance(conv, fx.Node) or not sole_user(conv):
            continue
        slopes = argument(node, "prelu_weight")
        found = {"activation": argument(node, "activation"), "prelu_weight": slopes}
        if found["activation"] == "leaky_relu":
            found["negative_slope"] = argument(node, "negative_slope")
        if is_call(conv, ops.conv_transpose2d) and not set(conv.kwargs) & {*found, "backend"}:
            _grow_transposed(graph, conv, node, found)
        elif is_conv(conv) and option(conv, "activation") is None and option(conv, "base") is None:
            one_slope = slopes is None or all(s.numel() == 1 for s in shapes(slopes) or ())
            if option(conv, "pixel_shuffle") > 1 and not one_slope:
                continue
            after = bool(option(conv, "residual")) or option(conv, "scale") != 1.0
            grow(graph, conv, node, activation_after_add=after, **found)
        else:
            continue
        count += 1
    return count


def _grow_transposed(graph: fx.Graph, conv: fx.Node, end: fx.Node, found: dict[str, Any]) -> None:
    with graph.inserting_before(end):
        new = graph.call_function(ops.conv_transpose2d, conv.args, {**conv.kwargs, **found})
    new.meta.update(end.meta)
    end.replace_all_uses_with(new)
    graph.erase_node(end)
    graph.erase_node(conv)
