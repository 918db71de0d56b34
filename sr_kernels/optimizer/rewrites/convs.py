# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Calls of ops.conv2d in a graph: their epilogue, and how it grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.utils._pytree import tree_leaves

from sr_kernels import ops
from sr_kernels.ops import _arguments
from sr_kernels.optimizer.graph.graphs import constant, is_call, shapes, sole_user, static

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


# Where a transposed convolution lies: arguments of ops.conv_transpose2d beside its epilogue.
TRANSPOSED: dict[str, Any] = {"stride": 1, "padding": 0, "output_padding": 0}
_EPILOGUE = set(DEFAULTS) - {"stride", "padding", "dilation", "groups", "upsample"}


@dataclass(frozen=True)
class Geometry:
    """A convolution's kernel (Co, Ci/groups, kh, kw) and its place, numbers alone."""

    shape: tuple[int, ...]
    sides: tuple[int, int, int, int]  # of padding: left, right, top, bottom
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    upsample: int

    @property
    def taps(self) -> int:
        return self.shape[2] * self.shape[3]

    @property
    def is_pointwise(self) -> bool:
        """1x1 without padding or stride."""
        return self.taps == 1 and not any(self.sides) and self.stride == (1, 1)


def is_conv(node: Any) -> bool:
    """Whether a node calls ops.conv2d with arguments that rewrites know."""
    return is_call(node, ops.conv2d) and not set(node.kwargs) - {*DEFAULTS, "input", "weight", "bias"}


def reads(conv: Any, x: Any) -> bool:
    """Whether a convolution is one of x, and reads x as nothing else beside (a residual, a base)."""
    if not is_conv(conv) or conv.args[0] is not x:
        return False
    return all(leaf is not x for leaf in tree_leaves((conv.args[1:], dict(conv.kwargs))))


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


def is_bare(node: Any) -> bool:
    """A convolution without anything behind its bias."""
    return is_conv(node) and not set(node.kwargs) & _EPILOGUE


def geometry(conv: fx.Node) -> Geometry | None:
    """Where a convolution's kernel lies; None where its kernel follows from an input, or its shape varies."""
    weight = conv.args[1]
    found = shapes(weight)
    numbers = tuple(option(conv, name) for name in ("stride", "dilation", "padding"))
    if not found or len(set(found)) > 1 or not constant(weight) or not static(numbers):
        return None
    stride = _arguments.pair("conv2d", "stride", numbers[0])
    dilation = _arguments.pair("conv2d", "dilation", numbers[1])
    shape = tuple(found[0])
    sides = _arguments.padding("conv2d", numbers[2], shape[2:], stride, dilation)
    return Geometry(shape, sides, stride, dilation, option(conv, "groups"), option(conv, "upsample"))


def grow(graph: fx.Graph, conv: fx.Node, end: fx.Node, **options: Any) -> fx.Node:
    """A convolution that gives what `end` gave, in end's place; `conv`, which end alone read, goes."""
    kwargs = without_defaults({**conv.kwargs, **options})
    with graph.inserting_before(end):
        new = graph.call_function(ops.conv2d, conv.args, kwargs)
    new.meta.update(end.meta)
    end.replace_all_uses_with(new)
    graph.erase_node(end)
    graph.erase_node(conv)
    return new


def without_defaults(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ops.conv2d without those that say nothing."""
    kept = {name: v for name, v in kwargs.items() if name not in DEFAULTS or v != DEFAULTS[name]}
    if kept.get("residual") == []:
        del kept["residual"]
    return kept
