# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The first call for inputs of a kind runs the graph node by node; a session is planned by what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from sr_kernels.optimizer.graphs import execute
from sr_kernels.optimizer.session import Session


def recorded(graph: fx.Graph, module: nn.Module, inputs: Sequence[Any]) -> tuple[Session, Any]:
    """A session for such inputs, and the graph's result for these.

    A session asks for the shapes and strides of all values, and which of them share memory; what the ops of
    the library have made is freed as soon as nobody reads it, or large pictures would not fit.
    """
    values: dict[fx.Node, Any] = {}
    lent: set[int] = set()  # storages that others may hold too

    def keep(node: fx.Node, value: Any) -> None:
        values[node] = value
        if not _is_new(node):
            lent.update(_storages(value))

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
    tensors = value if isinstance(value, (list, tuple)) else [value]
    return {x.untyped_storage()._cdata for x in tensors if isinstance(x, Tensor)}
