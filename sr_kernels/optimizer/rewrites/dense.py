# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The residual dense block (ESRGAN, Wang et al. 2018) as one op, which never stores a concatenation.

    f_0 = x,    f_i = leaky_relu(conv_i(cat(f_0 .. f_{i-1})), slope)
    y = scale * conv_k(cat(f_0 .. f_{k-1})) + input_scale * x + sum of w_j * residual_j

is ops.dense_block where the kernels are square, odd and padded by half of their size, the slope is one, and
nothing else reads the f_i. The other residuals are those of the block around (RRDB), which `residual` has
brought into the last convolution: 0.2 * (0.2 * conv + x) + outer = 0.04 * conv + 0.2 * x + outer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from sr_kernels import ops
from sr_kernels.optimizer.graph.graphs import is_call, operands, replace, shapes, sweep
from sr_kernels.optimizer.rewrites.convs import geometry, is_conv, option

_ADDED = 2  # residuals of the op beside its input


def apply(graph: fx.Graph) -> int:
    """Rewrites every such block; how many."""
    count = sum(_rewrite(graph, node) for node in list(graph.nodes) if is_conv(node))
    if count:
        sweep(graph)
    return count


def _features(node: Any) -> list[fx.Node] | None:
    """What is concatenated, through concatenations of concatenations; None for another node."""
    if not is_call(node, torch.cat) or node.args[1] != 1:
        return None
    found: list[fx.Node] = []
    for part in node.args[0]:
        found += _features(part) or [part]
    return found


def _rewrite(graph: fx.Graph, last: fx.Node) -> bool:
    features = _features(last.args[0])
    if features is None or not _is_same(last, {"padding", "scale", "residual"}):
        return False
    x, *grown = features
    residuals = option(last, "residual")
    own = next((i for i, (node, _) in enumerate(residuals) if node is x), None)
    if own is None or len(residuals) - 1 > _ADDED or shapes(last) != shapes(x):
        return False
    slope = option(grown[0], "negative_slope") if is_conv(grown[0]) else None
    for i, conv in enumerate(grown):
        if not is_conv(conv) or not _is_same(conv, {"padding", "activation", "negative_slope"}):
            return False
        if option(conv, "activation") != "leaky_relu" or option(conv, "negative_slope") != slope:
            return False
        before = features[: i + 1]
        if (_features(operands(conv)[0]) or [operands(conv)[0]]) != before:
            return False
    block = {*grown, last}
    if not all(_stays(conv, block) for conv in grown):
        return False
    _, input_scale = residuals.pop(own)
    convs = [*grown, last]
    options: dict[str, Any] = {
        "negative_slope": slope,
        "scale": option(last, "scale"),
        "input_scale": input_scale,
    }
    if residuals:
        options["residual"] = residuals
    lists = [conv.args[1] for conv in convs], [conv.args[2] for conv in convs]
    replace(graph, last, ops.dense_block, (x, *lists), options)
    return True


def _is_same(conv: fx.Node, known: set[str]) -> bool:
    """A convolution with no more than these options, whose result has its input's height and width."""
    place = geometry(conv)
    if place is None or set(conv.kwargs) - known:
        return False
    k = place.shape[2]
    return k == place.shape[3] and k % 2 == 1 and set(place.sides) == {k // 2}


def _stays(node: fx.Node, block: set[fx.Node]) -> bool:
    """Whether only the block's convolutions read a value, concatenated or not."""
    return all(user in block or (is_call(user, torch.cat) and _stays(user, block)) for user in node.users)
