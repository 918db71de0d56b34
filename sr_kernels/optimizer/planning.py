# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Sessions for inputs of a new kind: planned from shapes alone where these follow without computing, else
from what a run of the graph, node by node, has seen."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from sr_kernels import ops
from sr_kernels.backends.base import dense_strides, memory_format_of, shuffled, unshuffled
from sr_kernels.ops import _arguments
from sr_kernels.optimizer.graphs import execute, table_of
from sr_kernels.optimizer.session import Session


class Planner:
    """Makes the sessions of one graph."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._needs_run = any(node.op == "call_module" for node in graph.nodes)
        self._parameters: weakref.WeakKeyDictionary[nn.Module, _Parameters] = weakref.WeakKeyDictionary()

    def session_for(self, module: nn.Module, inputs: Sequence[Any]) -> tuple[Session, Any]:
        """A session, and the graph's result for these inputs."""
        values = None if self._needs_run else self._inferred(module, inputs)
        if values is None:
            return _recorded(self._graph, module, inputs)
        session = Session(self._graph, module, values, inputs)
        return session, session.run(module, inputs)

    def _inferred(self, module: nn.Module, inputs: Sequence[Any]) -> dict[fx.Node, Any] | None:
        """What each node gives, as tensors of the meta device; None where a node must be run to tell."""
        values: dict[fx.Node, Any] = {}

        def keep(node: fx.Node, value: Any) -> None:
            if isinstance(value, torch.device) or (node.target is getattr and str(node.args[1])[:3] == "is_"):
                raise TypeError("the device of a stand-in is not that of the value")
            values[node] = value

        stand_ins = [_without_memory(x) if isinstance(x, Tensor) else x for x in inputs]
        try:
            if module not in self._parameters:
                self._parameters[module] = _Parameters(self._graph, module)
            known = self._parameters[module].stand_ins()
            with torch.no_grad():
                execute(self._graph, module, stand_ins, keep, known=known, rules=_RULES)
        except Exception:  # control by values, or an operation without a rule for shapes
            return None
        return values


class _Parameters:
    """Stand-ins of the tensors that a graph reads, made once and again where one is of another kind."""

    def __init__(self, graph: fx.Graph, module: nn.Module) -> None:
        nodes = [node for node in graph.nodes if node.op == "get_attr"]
        self._places = {node: table_of(module, str(node.target)) for node in nodes}
        self._made: dict[fx.Node, Tensor] = {}

    def stand_ins(self) -> dict[fx.Node, Any]:
        for node, (table, name) in self._places.items():
            x, made = table[name], self._made.get(node)
            if made is None or made.dtype is not x.dtype or made.shape != x.shape:
                self._made[node] = _without_memory(x)
        return dict(self._made)


def _without_memory(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _like(x: Tensor, shape: Sequence[int]) -> Tensor:
    strides = dense_strides(shape, memory_format_of(x))
    return torch.empty_strided(shape, strides, dtype=x.dtype, device="meta")


def _joined(shapes: Sequence[Sequence[int]], dim: int) -> list[int]:
    joined = list(shapes[0])
    joined[dim] = sum(shape[dim] for shape in shapes)
    return joined


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    upsample: int = 1,
    pixel_shuffle: int = 1,
    **others: Any,
) -> Tensor:
    n, _, h, w = input.shape
    co, _, kh, kw = weight.shape
    sy, sx = _arguments.pair("conv2d", "stride", stride)
    dy, dx = _arguments.pair("conv2d", "dilation", dilation)
    left, right, top, bottom = _arguments.padding("conv2d", padding, (kh, kw), (sy, sx), (dy, dx))
    oh = (h * upsample + top + bottom - dy * (kh - 1) - 1) // sy + 1
    ow = (w * upsample + left + right - dx * (kw - 1) - 1) // sx + 1
    r = pixel_shuffle
    return _like(input, (n, co // (r * r), oh * r, ow * r))


# The ops of the library, whose own way to tell a shape goes through the dispatcher.
_RULES: dict[Any, Callable[..., Tensor]] = {
    ops.conv2d: _conv2d,
    ops.dense_block: lambda input, *others, **options: _like(input, input.shape),
    ops.residual_add: lambda input, *others, **options: _like(input, input.shape),
    torch.cat: lambda tensors, dim: _like(tensors[0], _joined([x.shape for x in tensors], dim)),
    ops.pixel_shuffle: lambda input, upscale_factor, **_: _like(input, shuffled(input.shape, upscale_factor)),
    ops.pixel_unshuffle: lambda input, downscale_factor, **_: _like(
        input, unshuffled(input.shape, downscale_factor)
    ),
}


def _recorded(graph: fx.Graph, module: nn.Module, inputs: Sequence[Any]) -> tuple[Session, Any]:
    """By running the graph. What the ops have made is freed as soon as nobody reads it, or large pictures
    would not fit: a session asks for shapes, strides and which values share memory."""
    values: dict[fx.Node, Any] = {}
    lent: set[int] = set()  # storages that others may hold too

    def keep(node: fx.Node, value: Any) -> None:
        values[node] = value
        if not _is_new(node):
            lent.update(_storages(value))
        if node.op == "call_module":  # which may keep what it is shown
            lent.update(*(_storages(values[n]) for n in node.all_input_nodes))

    def release(node: fx.Node, value: Any) -> None:
        if _is_new(node) and not _storages(value) & lent:
            value.untyped_storage().resize_(0)

    with torch.no_grad():
        result = execute(graph, module, inputs, keep, release)
    return Session(graph, module, values, inputs), result


def _is_new(node: fx.Node) -> bool:
    """Whether the value is a tensor of memory of its own: an op's, or a concatenation."""
    owner = getattr(node.target, "__module__", "") or ""
    return node.op == "call_function" and (owner.startswith("sr_kernels.ops") or node.target is torch.cat)


def _storages(value: Any) -> set[int]:
    return {x.untyped_storage()._cdata for x in tree_leaves(value) if isinstance(x, Tensor)}
