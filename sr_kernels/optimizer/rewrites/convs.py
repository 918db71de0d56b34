# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Calls of ops.conv2d in a graph: their epilogue, and how it grows."""

from __future__ import annotations

from typing import Any

from torch import fx

from sr_kernels import ops
from sr_kernels.optimizer.graphs import is_call, sole_user

DEFAULTS: dict[str, Any] = {
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
    "upsample": 1,
    "activation": None,
    "negative_slope": 0.01,
    "prelu_weight": None,
    "residual": (),
    "scale": 1.0,
    "activation_after_add": False,
    "pixel_shuffle": 1,
    "base": None,
    "base_mode": None,
}


def is_conv(node: Any) -> bool:
    """Whether a node calls ops.conv2d with arguments that rewrites know."""
    return is_call(node, ops.conv2d) and not set(node.kwargs) - {*DEFAULTS, "input", "weight", "bias"}


def option(node: fx.Node, name: str) -> Any:
    """A keyword argument of a call of ops.conv2d; residual as a list of (tensor, number)."""
    value = node.kwargs.get(name, DEFAULTS[name])
    if name != "residual":
        return value
    if value is None:
        return []
    return [(value, 1.0)] if isinstance(value, fx.Node) else [tuple(pair) for pair in value]


def is_free(node: Any) -> bool:
    """A convolution whose result one node reads."""
    return is_conv(node) and sole_user(node) is not None


def grow(graph: fx.Graph, conv: fx.Node, end: fx.Node, **options: Any) -> fx.Node:
    """A convolution that gives what `end` gave, in end's place; `conv`, which end alone read, goes."""
    kwargs = {**conv.kwargs, **options}
    kwargs = {
        name: value for name, value in kwargs.items() if name not in DEFAULTS or value != DEFAULTS[name]
    }
    if kwargs.get("residual") == []:
        del kwargs["residual"]
    with graph.inserting_before(end):
        new = graph.call_function(ops.conv2d, conv.args, kwargs)
    new.meta.update(end.meta)
    end.replace_all_uses_with(new)
    graph.erase_node(end)
    graph.erase_node(conv)
    return new
