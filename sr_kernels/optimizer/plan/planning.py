# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Sessions for inputs of a new kind, of a form that was made before where one fits: from shapes alone where
these follow without computing, else from what a run of the graph, node by node, has seen."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from sr_kernels import config
from sr_kernels.backends.cpu import current_isa
from sr_kernels.backends.registry import chosen
from sr_kernels.optimizer.graph import graphs
from sr_kernels.optimizer.plan.form import Form
from sr_kernels.optimizer.plan.rules import RULES
from sr_kernels.optimizer.plan.session import Session

_MOST_FORMS = 8  # of one graph that are remembered
_shape, _dtype = operator.attrgetter("shape"), operator.attrgetter("dtype")


class Planner:
    """Makes the sessions of one graph."""

    def __init__(self, graph: fx.Graph, tensors: graphs.Tensors | None = None) -> None:
        """tensors: the graph's, where somebody else asks for them too."""
        self._graph = graph
        self._tensors = tensors or graphs.Tensors(graph)
        self._needs_run = any(node.op == "call_module" for node in graph.nodes)
        self._constants = [node for node in graph.nodes if graphs.constant(node)]
        self._others = [node for node in graph.nodes if not graphs.constant(node)]
        self._calls = _calls(graph)
        self._known: dict[Any, _Known] = {}

    @staticmethod
    def in_force() -> tuple[Any, ...]:
        """What sessions depend on beside their inputs and the parameters."""
        return config.get_precision(), chosen(), current_isa()

    def session_for(self, module: nn.Module, inputs: Sequence[Any]) -> tuple[Session, Any]:
        """A session, and the graph's result for these inputs."""
        known = self._known_of(module)
        values = None if self._needs_run else self._inferred(known, inputs)
        if values is not None:
            session = self._session(known, values, inputs)
            return session, session.run(module, inputs)
        values, result = _recorded(self._graph, module, inputs)
        return self._session(known, values, inputs), result

    def _known_of(self, module: nn.Module) -> _Known:
        """What goes for parameters of the module's shapes and dtypes, and for what is in force."""
        tensors = self._tensors.of(module)
        kinds = tuple(map(_shape, tensors)), tuple(map(_dtype, tensors))
        key = *self.in_force(), *kinds
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_FORMS:
                self._known.clear()
            by_path = dict(zip(self._tensors.paths, tensors, strict=True))
            known = self._known[key] = _Known(
                [by_path[str(node.target)] for node in self._constants if node.op == "get_attr"]
            )
        return known

    def _session(self, known: _Known, values: Mapping[fx.Node, Any], inputs: Sequence[Any]) -> Session:
        for form in known.forms:
            sizes = form.fitted(values)
            if sizes is not None:
                return Session(form, sizes, inputs)
        form = Form(self._graph, values)
        known.forms = [form, *known.forms[: _MOST_FORMS - 1]]
        sizes = form.fitted(values)
        assert sizes is not None, "a form fits the sizes that it was made with"
        return Session(form, sizes, inputs)

    def _inferred(self, known: _Known, inputs: Sequence[Any]) -> dict[fx.Node, Any] | None:
        """What each node gives, as tensors of the meta device; None where a node must be run to tell."""
        try:
            with torch.no_grad():
                if known.constants is None:
                    constants = Inferred(self._calls)
                    constants.add(self._constants, iter(known.parameters))
                    known.constants = constants
                found = known.constants.copy()
                found.add(self._others, (_without_memory(x) if isinstance(x, Tensor) else x for x in inputs))
                return found.values
        except Exception:  # control by values, an operation without a rule for shapes, or what an op refuses
            return None


class _Known:
    """What is known of a graph for parameters of certain shapes and dtypes."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = [_without_memory(x) for x in parameters]
        self.constants: Inferred | None = None
        self.forms: list[Form] = []  # the newest first


@dataclass(frozen=True)
class _Input:
    """Stands for one of a node's inputs."""

    index: int


def _calls(graph: fx.Graph) -> dict[fx.Node, str]:
    """Of the nodes that a rule is about what they call and how: where two say the same and are given tensors
    of the same kinds, the results are of one kind, as those of a network's equal blocks are."""
    calls = {}
    for node in graph.nodes:
        if node.target in RULES:
            inputs: Any = {n: _Input(i) for i, n in enumerate(node.all_input_nodes)}
            calls[node] = repr((RULES[node.target], map_arg((node.args, node.kwargs), inputs.__getitem__)))
    return calls


class Inferred:
    """What nodes give, as tensors of the meta device, each node's its own."""

    def __init__(self, calls: Mapping[fx.Node, str]) -> None:
        self.values: dict[fx.Node, Any] = {}
        self._calls = calls
        self._alike: dict[Hashable, Tensor] = {}  # by kind, and by calls with what they were given
        self._stands: dict[fx.Node, Tensor] = {}  # for all that are of one kind

    def copy(self) -> Inferred:
        twin = Inferred(self._calls)
        twin.values, twin._stands, twin._alike = dict(self.values), dict(self._stands), dict(self._alike)
        return twin

    def add(self, nodes: Sequence[fx.Node], given: Iterator[Any]) -> None:
        """given: values of parameters or placeholders, in their order."""
        for node in nodes:
            if node.op == "output":
                continue
            if node in self._calls:
                self._add_alike(node)
                continue
            value = next(given) if node.op in ("get_attr", "placeholder") else self._called(node)
            self.values[node] = value
            if isinstance(value, Tensor):
                self._stands[node] = self._alike.setdefault(_kind(value), value)

    def _add_alike(self, node: fx.Node) -> None:
        key = self._calls[node], *[id(self._stands.get(n, n)) for n in node.all_input_nodes]
        found = self._alike.get(key)
        if found is None:
            y = RULES[node.target](*self._of(node.args), **self._of(node.kwargs))
            found = self._alike[key] = self._alike.setdefault(_kind(y), y)
        self.values[node], self._stands[node] = _without_memory(found), found

    def _called(self, node: fx.Node) -> Any:
        args, kwargs = self._of(node.args), self._of(node.kwargs)
        if node.op == "call_method":
            value = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            assert callable(node.target)
            value = node.target(*args, **kwargs)
        if isinstance(value, torch.device) or (node.target is getattr and str(node.args[1])[:3] == "is_"):
            raise TypeError("the device of a stand-in is not that of the value")
        return value

    def _of(self, args: Any) -> Any:
        return map_arg(args, self.values.__getitem__)


def _kind(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.stride(), x.dtype


def _without_memory(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _recorded(graph: fx.Graph, module: nn.Module, inputs: Sequence[Any]) -> tuple[dict[fx.Node, Any], Any]:
    """What each node gives in a run, and the graph's result. What the ops have made is freed as soon as
    nobody reads it, or large pictures would not fit: shapes, strides and shared memory are what counts."""
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
        result = graphs.execute(graph, module, inputs, keep, release)
    return values, result


def _is_new(node: fx.Node) -> bool:
    """Whether the value is a tensor of memory of its own: an op's, or a concatenation."""
    owner = getattr(node.target, "__module__", "") or ""
    return node.op == "call_function" and (owner.startswith("sr_kernels.ops") or node.target is torch.cat)


def _storages(value: Any) -> set[int]:
    return {x.untyped_storage()._cdata for x in tree_leaves(value) if isinstance(x, Tensor)}
