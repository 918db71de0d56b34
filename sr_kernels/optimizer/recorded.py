# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Gradients of what a session has computed: the backward runs the graph again, operation by operation, and
differentiates that (Chen et al. 2016, with one segment). So a call that records gradients takes no longer
than one that does not, and keeps nothing but its inputs; a backward takes the time of one more forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from sr_kernels import config
from sr_kernels.backends import registry
from sr_kernels.optimizer.graph.graphs import is_random, lookup

Function = Callable[..., Any]  # of (module, *placeholders)


def is_recordable(graph: fx.Graph) -> bool:
    """Whether a second run gives what the first one gave, of the same tensors: nothing is drawn at random,
    and no module inside has a forward that may do otherwise."""
    return not any(node.op == "call_module" or is_random(node) for node in graph.nodes)


def recorded(
    result: Any, graph: fx.Graph, function: Function, module: nn.Module, values: Sequence[Any]
) -> Any | None:
    """result, of `function(module, *values)`, which runs the graph, with gradients; None where a part of it
    lies in the memory of an input."""
    leaves, structure = tree_flatten(result)
    inputs, form = tree_flatten(list(values))
    lent = {x.untyped_storage().data_ptr() for x in inputs if isinstance(x, Tensor) and x.numel()}
    if any(isinstance(y, Tensor) and y.untyped_storage().data_ptr() in lent for y in leaves):
        return None
    paths = list(dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "get_attr"))
    known = [*inputs, *(lookup(module, path) for path in paths)]
    places = [i for i, x in enumerate(known) if isinstance(x, Tensor)]
    count, in_force = len(inputs), (registry.chosen(), config.get_precision())

    fixed = [None if isinstance(x, Tensor) else x for x in known]  # autograd holds tensors, and frees them

    def again(tensors: Sequence[Tensor]) -> list[Any]:
        given = list(fixed)
        for i, x in zip(places, tensors, strict=True):
            given[i] = x
        holder = _holding(dict(zip(paths, given[count:], strict=True)))
        backend, precision = in_force
        with (
            registry.use_backend(backend),
            config.precision(precision),
            torch.autocast("cpu", enabled=False),  # the forward's dtypes are the inputs'
        ):
            return tree_leaves(function(holder, *tree_unflatten(given[:count], form)))

    tensors = [known[i] for i in places]
    return tree_unflatten(list(_Recorded.apply(again, [_unviewed(y) for y in leaves], *tensors)), structure)


def _holding(tensors: Mapping[str, Any]) -> SimpleNamespace:
    """What stands for a module that has these attributes, by dotted path."""
    root = SimpleNamespace()
    for path, x in tensors.items():
        *owners, name = path.split(".")
        holder = root
        for owner in owners:
            holder = vars(holder).setdefault(owner, SimpleNamespace())
        vars(holder)[name] = x
    return root


def _unviewed(y: Any) -> Any:
    """The same memory as a tensor that may be written to: autograd takes no writes to views that it did not
    see made."""
    if not isinstance(y, Tensor) or not y._is_view():
        return y
    return y.new_empty(0).set_(y.untyped_storage(), y.storage_offset(), y.shape, y.stride())


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, again: Function, leaves: Sequence[Any], *tensors: Tensor) -> tuple[Any, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.again = again
        return tuple(leaves)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        second, tensors = torch.is_grad_enabled(), ctx.saved_tensors
        with torch.enable_grad():
            results = ctx.again(tensors)
        pairs = [
            (y, dy) for y, dy in zip(results, gradients, strict=True) if dy is not None and y.requires_grad
        ]
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        found: list[Tensor | None] = [None] * len(tensors)
        if pairs:
            ys, dys = zip(*pairs, strict=True)
            inputs = [tensors[i] for i in wanted]
            of_inputs = torch.autograd.grad(ys, inputs, dys, create_graph=second, allow_unused=True)
            for i, gradient in zip(wanted, of_inputs, strict=True):
                found[i] = gradient
        return None, None, *found
