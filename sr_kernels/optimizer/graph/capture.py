# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Which parts of a module can be written down as graphs: the largest ones, by symbolic tracing (torch.fx)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_unflatten

from sr_kernels import ops
from sr_kernels.backends.base import memory_format_of, with_format
from sr_kernels.nn.checks import check_picture
from sr_kernels.nn.conv import is_hooked
from sr_kernels.optimizer.graph.reasons import why_not_followed


@dataclass(slots=True)
class Capture:
    """What is known of a module: its graph, or why it has none; and the same of modules inside that stay as
    they are, by dotted path from here."""

    graph: fx.Graph | None
    reason: str = ""  # why there is no graph
    fixed: dict[str, Any] = field(default_factory=dict)  # arguments of forward that the graph takes as given
    inner: dict[str, Capture] = field(default_factory=dict)

    def regions(self, prefix: str = "") -> Iterator[tuple[str, Capture]]:
        """(dotted path, capture) of every part that has a graph, outermost first."""
        if self.graph is not None:
            yield prefix, self
        for path, capture in self.inner.items():
            yield from capture.regions(f"{prefix}.{path}" if prefix else path)


class _NoGraph(Exception):
    """What a forward does that no graph can hold."""


def capture(module: nn.Module, given: Mapping[str, Any] | None = None) -> Capture:
    """The largest parts of a module, in eval mode, that have a graph. The module is left as it was. given:
    what arguments with a default are, where it is not that."""
    reason = _obstacle(module)
    if reason:
        return Capture(None, reason, inner=inside(module))
    tracer = _Tracer()
    try:
        fixed = _fixed(module, given or {})
        with unchanged(module) as changes:
            graph = tracer.trace(module, concrete_args=dict(fixed))
        if changes:
            raise _NoGraph(f"its forward changes {changes[0]}")
        graph.owning_module = None
        _drop_fixed(graph, module, fixed)
        _check_placeholders(graph)
        _check_output(graph)
    except Exception as error:
        return Capture(None, _text(error), inner=inside(module))
    inner = {}
    for path, why in tracer.opaque.items():
        found = capture(module.get_submodule(path))
        inner[path] = found if found.graph is not None else Capture(None, why, inner=found.inner)
    return Capture(graph, fixed=fixed, inner=inner)


def inside(module: nn.Module) -> dict[str, Capture]:
    """Captures of the modules inside one that stays as it is; lists and the like are looked through."""
    found: dict[str, Capture] = {}
    for name, child in module.named_children():
        if _is_container(child):
            found |= {f"{name}.{path}": inner for path, inner in inside(child).items()}
        elif not _is_torchs(child) or type(child) is nn.Conv2d:
            inner = capture(child)
            if inner.graph is not None or inner.inner:
                found[name] = inner
    return found


def _obstacle(module: nn.Module) -> str:
    """What forbids to replace a module's forward."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a compiled TorchScript module"
    if "forward" in vars(module):
        return "its forward is an attribute of its own"
    if _is_container(module):
        return "it is a list of modules"
    return ""


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, (nn.ModuleList, nn.ModuleDict))


def _is_torchs(module: nn.Module) -> bool:
    """A layer of torch.nn's, hooks and parametrisations included, as opposed to one made of such."""
    return type(module).__module__.startswith(("torch.nn", "torch.ao.nn")) and not isinstance(
        module, nn.Sequential
    )


def _fixed(module: nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of forward that have a default and hold no tensor: the graph is made for their values."""
    parameters = inspect.signature(type(module).forward).parameters.values()
    values = {
        p.name: given.get(p.name, p.default) for p in parameters if p.default is not inspect.Parameter.empty
    }
    return {name: value for name, value in values.items() if not isinstance(value, Tensor)}


def _drop_fixed(graph: fx.Graph, module: nn.Module, fixed: dict[str, Any]) -> None:
    """Erases the placeholders of fixed arguments (name_1, name_2 ..., one for each item of a tuple) with
    torch.fx's checks of them."""
    taken = inspect.signature(type(module).forward).parameters
    for node in list(graph.nodes):
        target = str(node.target)
        if node.op != "placeholder" or target in taken or target.rpartition("_")[0] not in fixed:
            continue
        for user in list(node.users):
            for check in list(user.users):
                graph.erase_node(check)
            graph.erase_node(user)
        graph.erase_node(node)
    spec = getattr(getattr(graph._codegen, "pytree_info", None), "out_spec", None)
    if spec is not None:  # with a tuple among them the result has been flattened
        output = next(iter(reversed(graph.nodes)))
        output.args = (tree_unflatten(list(output.args[0]), spec),)
    graph.set_codegen(fx.graph.CodeGen())


def _check_placeholders(graph: fx.Graph) -> None:
    """A graph has no place for as many arguments as a call may give; where none is read it needs none."""
    for node in list(graph.nodes):
        if node.op == "placeholder" and str(node.target).startswith("*"):
            if node.users:
                raise _NoGraph(f"its forward reads {node.target}")
            graph.erase_node(node)


def _check_output(graph: fx.Graph) -> None:
    """A graph is worth having where something is computed from a placeholder."""
    if not any(node.op in ("call_function", "call_module", "call_method") for node in graph.nodes):
        raise _NoGraph("it computes nothing")


def _text(error: Exception) -> str:
    """Why there is no graph, for a report."""
    return str(error) if isinstance(error, _NoGraph) else why_not_followed(error)


# Functions that ask pictures for what a graph does not know; each becomes a node.
_WHOLE = (check_picture, memory_format_of, with_format)

Rule = Callable[[nn.Module], bool]
_LEAVES: list[Rule] = []


def leaf(rule: Rule) -> Rule:
    """Registers modules that tracing does not look into: `canonical` knows what they compute."""
    _LEAVES.append(rule)
    return rule


class _Value(fx.Proxy):
    """A value of a graph. An attribute that a forward gives it (`p.data = ...`) would be lost."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):
            raise _NoGraph(f"its forward assigns the {name} of a tensor")
        super().__setattr__(name, value)


class _Tracer(fx.Tracer):
    """Follows forward into every module; one that cannot be followed becomes a call of that module."""

    proxy_buffer_attributes = True  # buffers are read when the graph runs

    def __init__(self) -> None:
        super().__init__(autowrap_modules=(math, ops), autowrap_functions=_WHOLE)  # type: ignore[arg-type]
        self.opaque: dict[str, str] = {}
        self._path = [""]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_torchs(m) or is_hooked(m) or any(rule(m) for rule in _LEAVES)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            if is_hooked(m) and not _is_torchs(m):
                self.opaque[path] = "it has hooks"
            return self.create_proxy("call_module", path, args, kwargs)
        if _obstacle(m):
            return self._left(m, path, args, kwargs, _obstacle(m))
        last = next(reversed(self.graph.nodes), None)
        known = dict(self.opaque)
        self._path.append(path)
        try:
            with unchanged(m) as changes:
                result = super().call_module(m, forward, args, kwargs)
            if changes:
                raise _NoGraph(f"its forward changes {changes[0]}")
            return result
        except Exception as error:
            for node in reversed(self.graph.nodes):
                if node is last:
                    break
                self.graph.erase_node(node)
            self.opaque = known
            return self._left(m, path, args, kwargs, _text(error))
        finally:
            self._path.pop()

    def _left(self, m: nn.Module, path: str, args: Any, kwargs: Any, reason: str) -> Any:
        self.opaque[path] = reason
        return self.create_proxy("call_module", path, args, kwargs)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["path"] = self._path[-1]
        return node

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and a not in self.tensor_attrs:
            raise _NoGraph("its forward makes a tensor that follows from no input")
        return super().create_arg(a)


@contextmanager
def unchanged(module: nn.Module) -> Iterator[list[str]]:
    """Puts right, afterwards, what happened to the attributes and tensors of a module and of those inside;
    gives the names of what had changed."""
    found: list[str] = []
    before = {name: _state(m) for name, m in module.named_modules()}
    try:
        yield found
    finally:
        for name, m in module.named_modules():
            if name in before:
                casts = {what for what, value in vars(m).items() if _is_own_cast(value, what)}
                changed = set(_restore(m, before[name])) - casts
                found += [f"{name}.{what}".lstrip(".") for what in sorted(changed)]


def _is_own_cast(value: Any, name: str) -> bool:
    """Whether an attribute was set to itself in a picture's dtype, which nobody can tell afterwards."""
    node = value.node if isinstance(value, fx.Proxy) else None
    if node is None or node.op != "call_method" or node.target not in ("to", "type_as"):
        return False
    source = node.args[0]
    return (
        isinstance(source, fx.Node)
        and source.op == "get_attr"
        and str(source.target).rpartition(".")[2] == name
    )


_State = tuple[dict[str, Any], list[tuple[dict[str, Any], dict[str, Any]]], dict[str, tuple[Tensor, Any]]]


def _state(m: nn.Module) -> _State:
    attributes = dict(vars(m))
    tables = [(table, dict(table)) for table in (m._parameters, m._buffers, m._modules)]
    tensors = {
        name: (t, (t.data_ptr(), t._version) if not t.is_meta and not t.is_inference() else None)
        for name, t in {**m._parameters, **m._buffers}.items()
        if t is not None
    }
    return attributes, tables, {name: (t.detach(), stamp) for name, (t, stamp) in tensors.items()}


def _restore(m: nn.Module, state: _State) -> list[str]:
    attributes, tables, tensors = state
    changed = []
    now = vars(m)
    changed += [name for name in {*now, *attributes} if now.get(name, m) is not attributes.get(name, m)]
    if changed:
        now.clear()
        now.update(attributes)
    for table, entries in tables:
        names = [name for name in {*table, *entries} if table.get(name) is not entries.get(name)]
        if names:
            changed += names
            table.clear()
            table.update(entries)
    for name, (detached, stamp) in tensors.items():
        t = m._parameters.get(name, m._buffers.get(name))
        if t is not None and stamp is not None and (t.data_ptr(), t._version) != stamp:
            changed.append(name)
            t.data = detached
    return changed
