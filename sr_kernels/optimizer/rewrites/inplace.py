# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""In-place operations turned into ones that return their result, where nobody can tell the difference.

A node that changes a tensor is followed, in the graph, by readers of what it has changed: those that name
the tensor are given the node instead. Readers that see the same memory by another name (a view, the caller's
input, a parameter) forbid it. What shares memory with what is seen on the inputs that the graph is tried on.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from sr_kernels.optimizer.graph.graphs import Refused, execute, lookup, placeholders

_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ipow: operator.pow,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
}
# The functions with an argument `inplace`, and its position.
_FLAGGED: dict[Any, int] = {
    F.relu: 1,
    F.leaky_relu: 2,
    F.silu: 1,
    F.elu: 2,
    F.selu: 1,
    F.celu: 2,
    F.hardtanh: 3,
    F.relu6: 1,
    F.hardswish: 1,
    F.hardsigmoid: 1,
    F.mish: 1,
    F.threshold: 3,
    F.dropout: 3,
}
# Those in place by name that are no functions of torch's own, and what takes the same arguments.
_NAMED: dict[Any, Any] = {F.leaky_relu_: F.leaky_relu, F.elu_: F.elu, F.hardtanh_: F.hardtanh}


# Modules with a flag `inplace`: function and the attributes that it takes.
_FUNCTIONS: dict[type[nn.Module], tuple[Any, ...]] = {
    nn.ReLU: (F.relu,),
    nn.ReLU6: (F.relu6,),
    nn.LeakyReLU: (F.leaky_relu, "negative_slope"),
    nn.SiLU: (F.silu,),
    nn.ELU: (F.elu, "alpha"),
    nn.CELU: (F.celu, "alpha"),
    nn.SELU: (F.selu,),
    nn.Mish: (F.mish,),
    nn.Hardswish: (F.hardswish,),
    nn.Hardsigmoid: (F.hardsigmoid,),
    nn.Hardtanh: (F.hardtanh, "min_val", "max_val"),
}


def functionalise(graph: fx.Graph, module: nn.Module, inputs: Sequence[Sequence[Any]]) -> None:
    """Rewrites the graph. Raises Refused where an in-place operation cannot be told from outside."""
    nodes = [node for node in graph.nodes if _changes(node, module)]
    if not nodes:
        return
    memory: dict[fx.Node, set[int]] = {node: set() for node in graph.nodes}
    kept = []
    for one in inputs:
        copies = [x.clone() if isinstance(x, Tensor) else x for x in one]

        def keep(node: fx.Node, value: Any) -> None:
            kept.append(value)  # no address is given out twice
            memory[node].update(
                x.untyped_storage().data_ptr() for x in tree_leaves(value) if isinstance(x, Tensor)
            )

        execute(graph, module, copies, keep)
    order = {node: i for i, node in enumerate(graph.nodes)}
    outside = {address for node in (*placeholders(graph), *_named(graph)) for address in memory[node]}
    for node in nodes:
        changed = _changed(node)
        if not memory[changed]:  # numbers
            _out_of_place(graph, node, module, changed)
            continue
        if memory[changed] & outside:
            raise Refused(f"{_what(node)} changes an input or a parameter in place")
        for other, addresses in memory.items():
            if other in (changed, node) or order[other] > order[node] or not addresses & memory[changed]:
                continue
            if any(order[user] > order[node] for user in other.users):
                raise Refused(f"{_what(node)} changes in place what is read later by another name")
        _out_of_place(graph, node, module, changed)
        for user in [user for user in changed.users if order[user] > order[node]]:
            user.replace_input_with(changed, node)


def _named(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "get_attr"]


def _changes(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node may write to its first argument."""
    target: Any = node.target
    if node.op == "call_method":
        return target.endswith("_") and not target.endswith("__")
    if node.op == "call_module":
        return bool(getattr(lookup(module, target), "inplace", False))
    if node.op != "call_function":
        return False
    if node.kwargs.get("out") is not None or target is operator.setitem:
        raise Refused(f"{_what(node)} writes into a tensor of its caller's")
    name = getattr(target, "__name__", "")
    named = name.endswith("_") and not name.endswith("__")
    return target in _OPERATORS or named or bool(_flag(node))


def _flag(node: fx.Node) -> Any:
    position = _FLAGGED.get(node.target)
    if position is None:
        return False
    return node.args[position] if len(node.args) > position else node.kwargs.get("inplace", False)


def _changed(node: fx.Node) -> fx.Node:
    first = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(first, fx.Node):
        raise Refused(f"{_what(node)} changes something that is no value of the graph")
    return first


def _out_of_place(graph: fx.Graph, node: fx.Node, module: nn.Module, changed: fx.Node) -> None:
    """Makes node return what it wrote before."""
    target: Any = node.target
    if node.op == "call_method":
        node.target = target[:-1]
        if not hasattr(Tensor, target[:-1]):
            raise Refused(f"{_what(node)} has no form that returns its result")
    elif node.op == "call_module":
        inner = lookup(module, target)
        function, *names = _FUNCTIONS.get(type(inner), (None,))
        if function is None:
            raise Refused(f"{_what(node)} works in place")
        node.op, node.target = "call_function", function
        node.args = (changed, *(getattr(inner, str(name)) for name in names))
        node.kwargs = {}
    elif target in _OPERATORS:
        node.target = _OPERATORS[target]
    elif target in _FLAGGED:
        position = _FLAGGED[target]
        node.args = node.args[:position] + (False,) * (len(node.args) > position) + node.args[position + 1 :]
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "inplace"}
    else:
        name = target.__name__
        plain = _NAMED.get(target)
        if plain is None and getattr(torch, name, None) is target:
            plain = getattr(torch, name[:-1], None)
        # what is more than the flag's place allows (elu's scales) has no place in the other
        if plain is None or len(node.args) > _FLAGGED.get(plain, len(node.args)):
            raise Refused(f"{_what(node)} has no form that returns its result")
        node.target = plain


def _what(node: fx.Node) -> str:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    path = node.meta.get("path", "")
    return f"{name} in {path}" if path else str(name)
