# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Rewritten graphs on a GPU, where launching small pictures takes longer than computing them: CUDA graphs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from sr_kernels.nn.conv import is_hooked
from sr_kernels.nn.replays import Replays
from sr_kernels.optimizer.graph.graphs import is_random, lookup, table_of


def is_replayable(graph: fx.Graph, module: nn.Module) -> bool:
    """Whether a call of the graph is the same launches every time: one tensor comes out, nothing is drawn at
    random, and no module inside decides what to do by what it sees."""
    for node in graph.nodes:
        if node.op == "call_module":
            inner = lookup(module, str(node.target))
            if not type(inner).__module__.startswith("torch.nn") or any(map(is_hooked, inner.modules())):
                return False
        elif node.op == "output":
            return isinstance(node.args[0], fx.Node)
        elif is_random(node):
            return False
    return False


def replays_of(
    graph: fx.Graph,
    module: nn.Module,
    function: Callable[..., Tensor],
    constants: Callable[[Any], Sequence[Tensor]],
) -> Replays:
    """CUDA graphs of function(module, *inputs), which runs the graph with the tensors of module; they do not
    keep the module alive. constants: of a module, what function makes of its tensors."""
    tables = _tables(graph, module)
    reference = weakref.ref(module)

    def run(*inputs: Tensor) -> Tensor:
        return function(reference(), *inputs)

    def read() -> list[Tensor]:
        return [*(table[name] for table, name in tables), *constants(reference())]

    return Replays(run, read)


def _tables(graph: fx.Graph, module: nn.Module) -> list[tuple[Mapping[str, Any], str]]:
    """Where the tensors stand that the graph reads: a parameter that is replaced stands there too."""
    found: list[tuple[Mapping[str, Any], str]] = []
    for node in graph.nodes:
        if node.op == "get_attr":
            found.append(table_of(module, str(node.target)))
        elif node.op == "call_module":
            for inner in lookup(module, str(node.target)).modules():
                found += [
                    (t, name)
                    for t in (inner._parameters, inner._buffers)
                    for name in t
                    if t[name] is not None
                ]
    return found
