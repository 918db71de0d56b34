# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Gradients of what a session has computed: the backward runs the graph again, operation by operation, and
differentiates that (Chen et al. 2016, with one segment). So a call that records gradients takes no longer
than one that does not, and keeps nothing but its inputs; a backward takes the time of one more forward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from sr_kernels import config
from sr_kernels.backends import registry
from sr_kernels.nn.conv import is_hooked
from sr_kernels.optimizer.graph.graphs import Tensors, is_random, lookup

Function = Callable[..., Any]  # of (module, *placeholders)

_MOST = 64  # patterns, and kinds of input, that are remembered
# What a result may hold beside tensors; others could hide some.
_PLAIN = (Tensor, int, float, complex, str, type(None), torch.Size, torch.dtype, torch.device)


class Recorder:
    """Records the calls of one graph.

    Before the first call with gradients asked of the same tensors the graph runs op by op once more: that
    tells which results have a gradient, and whether a second run gives what the first one gave.
    """

    def __init__(
        self, graph: fx.Graph, read: Tensors, function: Function, check: Callable[[nn.Module], None]
    ) -> None:
        """read: the graph's tensors; function: runs it; check: raises where it was not made for a module."""
        self._read, self._function, self._check = read, function, check
        self._layers = list(dict.fromkeys(str(n.target) for n in graph.nodes if n.op == "call_module"))
        self._draws = any(map(is_random, graph.nodes))
        self._known: dict[Hashable, Sequence[bool] | None] = {}  # by what asks for a gradient
        self._refused: dict[Hashable, None] = {}  # kinds of input

    def run(self, module: nn.Module, values: Sequence[Any], key: Hashable, session: Callable[[], Any]) -> Any:
        """`function(module, *values)` with gradients, the result that of session() where that may be. key: of
        the kind of the values."""
        inputs, form = tree_flatten(list(values))
        tensors = self._tensors(module, inputs)
        if tensors is None or key in self._refused:
            return self._plain(module, *values)
        pattern = tuple([x.requires_grad for x in tensors])
        if pattern in self._known:
            differentiable = self._known[pattern]
        else:
            differentiable = self._learned(module, values)
            _remember(self._known, pattern, differentiable)
        if differentiable is None:
            return self._plain(module, *values)
        with torch.no_grad():
            leaves, structure = tree_flatten(session())
        if _share_memory(leaves, inputs):
            _remember(self._refused, key, None)
            return self._plain(module, *values)
        again = self._again(module, inputs, form)
        results = _Recorded.apply(again, [_unviewed(y) for y in leaves], differentiable, *tensors)
        return tree_unflatten(list(results), structure)

    def _plain(self, module: nn.Module, *values: Any) -> Any:
        self._check(module)
        return self._function(module, *values)

    def _learned(self, module: nn.Module, values: Sequence[Any]) -> list[bool] | None:
        """Which results have a gradient; None where that cannot be told, or a second run gives others."""
        before = torch.get_rng_state()
        # nothing is kept for a backward, and a caller's hooks see nothing
        with torch.autograd.graph.saved_tensors_hooks(_nothing, _nothing):  # type: ignore[arg-type]
            leaves = tree_leaves(self._plain(module, *values))
        draws = self._draws or not torch.equal(before, torch.get_rng_state())
        if draws:
            torch.set_rng_state(before)
        if draws or not all(isinstance(y, _PLAIN) for y in leaves):
            return None
        return [isinstance(y, Tensor) and y.requires_grad for y in leaves]

    def _tensors(self, module: nn.Module, inputs: Sequence[Any]) -> list[Tensor] | None:
        """All that the graph reads: of the inputs, the module's, those of layers inside; None where that
        cannot be told."""
        found = [x for x in inputs if isinstance(x, Tensor)]
        found += self._read.of(module)
        for path in self._layers:
            layer = lookup(module, path)
            if not _is_replaceable(layer):
                return None
            found += [x for table in _tables(layer) for x in table.values() if x is not None]
        return found

    def _again(self, module: nn.Module, inputs: Sequence[Any], form: Any) -> Callable[..., list[Any]]:
        """The graph as a function of `_tensors`, with what is in force now. Tensors are autograd's to
        hold."""
        layers = [_emptied(lookup(module, path)) for path in self._layers]  # in the mode of the forward
        backend, precision = registry.chosen(), config.get_precision()
        given = [_TENSOR if isinstance(x, Tensor) else x for x in inputs]

        def again(tensors: Sequence[Tensor]) -> list[Any]:
            left = iter(tensors)
            values = tree_unflatten([next(left) if x is _TENSOR else x for x in given], form)
            holder = _holding({path: next(left) for path in self._read.paths})
            for path, layer in zip(self._layers, layers, strict=True):
                _put(holder, path, _filled(layer, left))
            with (
                registry.use_backend(backend),
                config.precision(precision),
                torch.autocast("cpu", enabled=False),  # the forward's dtypes are the inputs'
            ):
                return tree_leaves(self._function(holder, *values))

        return again


def _remember(known: dict[Hashable, Any], key: Hashable, value: Any) -> None:
    """As long as not too much is known."""
    if len(known) >= _MOST:
        known.clear()
    known[key] = value


def _nothing(_: Any) -> None:
    return None


_TENSOR = object()


def _share_memory(results: Sequence[Any], inputs: Sequence[Any]) -> bool:
    """Whether writes to a result would change an input or another result."""
    places = [_places(results), _places(inputs)]
    return len({*places[0]}) < len(places[0]) or not {*places[0]}.isdisjoint(places[1])


def _places(values: Sequence[Any]) -> list[int]:
    return [x.untyped_storage().data_ptr() for x in values if isinstance(x, Tensor) and x.numel()]


def _is_replaceable(layer: nn.Module) -> bool:
    """Whether a copy with other tensors in its tables computes the same of them."""
    return (
        type(layer).__module__.startswith("torch.nn.modules")
        and not layer._modules
        and not is_hooked(layer)
        and not isinstance(layer, nn.RNNBase)  # which lists its weights
    )


def _tables(layer: nn.Module) -> list[dict[str, Any]]:
    """Those of a layer's tensors."""
    return [vars(layer)[name] for name in _NAMES]


_NAMES = ("_parameters", "_buffers")


def _replaced(layer: nn.Module, replace: Callable[[], Any]) -> nn.Module:
    """A copy of a layer with something else in the place of each tensor, in the order of its tables."""
    twin = copy.copy(layer)
    for name, table in zip(_NAMES, _tables(layer), strict=True):
        vars(twin)[name] = {key: None if x is None else replace() for key, x in table.items()}
    return twin


def _emptied(layer: nn.Module) -> nn.Module:
    return _replaced(layer, lambda: _TENSOR)


def _filled(layer: nn.Module, tensors: Iterator[Tensor]) -> nn.Module:
    return _replaced(layer, lambda: next(tensors))


def _holding(tensors: Mapping[str, Any]) -> SimpleNamespace:
    """What stands for a module that has these attributes, by dotted path."""
    root = SimpleNamespace()
    for path, x in tensors.items():
        _put(root, path, x)
    return root


def _put(holder: SimpleNamespace, path: str, x: Any) -> None:
    *owners, name = path.split(".")
    for owner in owners:
        holder = vars(holder).setdefault(owner, SimpleNamespace())
    vars(holder)[name] = x


def _unviewed(y: Any) -> Any:
    """The same memory as a tensor that may be written to: autograd takes no writes to views that it did not
    see made."""
    if not isinstance(y, Tensor) or not y._is_view():
        return y
    return y.new_empty(0).set_(y.untyped_storage(), y.storage_offset(), y.shape, y.stride())


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, again: Function, leaves: Sequence[Any], differentiable: Sequence[bool], *tensors: Tensor
    ) -> tuple[Any, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.again = again
        fixed = [
            y for y, has in zip(leaves, differentiable, strict=True) if isinstance(y, Tensor) and not has
        ]
        ctx.mark_non_differentiable(*fixed)
        return tuple(leaves)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        second = torch.is_grad_enabled()
        with torch.enable_grad():
            # Of views: a tensor that comes twice gets each share once, and its hooks are the outer graph's.
            tensors = [t.view_as(t) if t.requires_grad else t for t in ctx.saved_tensors]
            results = ctx.again(tensors)
        pairs = [
            (y, dy) for y, dy in zip(results, gradients, strict=True) if dy is not None and y.requires_grad
        ]
        asked = zip(tensors, ctx.needs_input_grad[3:], strict=True)
        wanted = [i for i, (t, needed) in enumerate(asked) if needed and t.requires_grad]
        found: list[Tensor | None] = [None] * len(tensors)
        if pairs and wanted:
            ys, dys = zip(*pairs, strict=True)
            inputs = [tensors[i] for i in wanted]
            of_inputs = torch.autograd.grad(ys, inputs, dys, create_graph=second, allow_unused=True)
            for i, gradient in zip(wanted, of_inputs, strict=True):
                found[i] = gradient
        return None, None, None, *found
