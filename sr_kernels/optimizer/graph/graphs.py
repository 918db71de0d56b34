# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Graphs (torch.fx) run node by node, and what rewrites ask of their nodes."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.fx.node import map_aggregate, map_arg
from torch.utils._pytree import tree_leaves

from sr_kernels.optimizer.samples import Sample

F = TypeVar("F", bound=Callable[..., Any])


class Refused(Exception):
    """Why a graph cannot stand for its module."""


class Broken(Exception):
    """A rewrite that failed: its name, and how."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


def lookup(module: nn.Module, path: str) -> Any:
    """The parameter, buffer, attribute or module at a dotted path."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name)
    return found


def table_of(module: nn.Module, path: str) -> tuple[Mapping[str, Any], str]:
    """Where the tensor at a dotted path stands, a table and its name there. Raises AttributeError where there
    is none."""
    owner, _, name = path.rpartition(".")
    holder = module.get_submodule(owner)
    for table in (holder._parameters, holder._buffers, vars(holder)):
        if isinstance(table.get(name), Tensor):
            return table, name
    raise AttributeError(f"{path} is no tensor of {type(module).__name__}")


class Tensors:
    """Those that a graph reads from its module, by dotted path. Where they stand is looked up once for each
    module: a parameter that is replaced stands there too."""

    def __init__(self, graph: fx.Graph) -> None:
        self.paths = list(dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "get_attr"))
        self._places: weakref.WeakKeyDictionary[nn.Module, list[Any]] = weakref.WeakKeyDictionary()

    def of(self, module: nn.Module) -> list[Tensor]:
        """In the order of the paths. Raises AttributeError or KeyError where there is none."""
        places = self._places.get(module)
        if places is None:
            places = self._places[module] = [table_of(module, path) for path in self.paths]
        return [table[name] for table, name in places]


def of_statistics(function: F) -> F:
    """Marks a function whose first argument is a norm's running statistics, which F.batch_norm writes without
    counting a version."""
    function._of_statistics = True  # type: ignore[attr-defined]
    return function


def statistics(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Of a graph's nodes those that read such statistics from the module."""
    waiting = [node.args[0] for node in nodes if getattr(node.target, "_of_statistics", False)]
    found: dict[fx.Node, None] = {}
    while waiting:
        node = waiting.pop()
        if isinstance(node, fx.Node):
            if node.op == "get_attr":
                found[node] = None
            waiting += node.all_input_nodes
    return list(found)


def bytes_of(tensors: Sequence[Tensor]) -> bytes:
    """All that the tensors hold."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for x in tensors:
        by_dtype.setdefault(x.dtype, []).append(x.detach().reshape(-1))
    return b"".join(torch.cat(found).view(torch.uint8).numpy().tobytes() for found in by_dtype.values())


def placeholders(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that stand for forward's arguments, in their order."""
    return [node for node in graph.nodes if node.op == "placeholder"]


def bind(graph: fx.Graph, forward: Callable[..., Any], sample: Sample) -> list[Any]:
    """The values of the graph's placeholders in a call of forward with the sample's arguments."""
    bound = inspect.signature(forward).bind(*sample.args, **sample.kwargs)
    bound.apply_defaults()
    return [bound.arguments[str(node.target)] for node in placeholders(graph)]


def execute(
    graph: fx.Graph,
    module: nn.Module,
    inputs: Sequence[Any],
    keep: Callable[[fx.Node, Any], None] | None = None,
    release: Callable[[fx.Node, Any], None] | None = None,
) -> Any:
    """Runs the graph on the values of its placeholders. Names are resolved in module. keep sees each node's
    value as it comes, release as it is read for the last time."""
    values: dict[fx.Node, Any] = dict(zip(placeholders(graph), inputs, strict=True))
    last_uses = _last_uses(graph)
    for node in graph.nodes:
        if node.op == "output":
            return plain(map_arg(node.args[0], values.__getitem__))
        if node.op == "get_attr":
            values[node] = lookup(module, str(node.target))
        elif node.op != "placeholder":
            args = map_arg(node.args, values.__getitem__)
            kwargs = map_arg(node.kwargs, values.__getitem__)
            if node.op == "call_function":
                values[node] = node.target(*args, **kwargs)
            elif node.op == "call_module":
                values[node] = lookup(module, str(node.target))(*args, **kwargs)
            else:
                values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            del args, kwargs
        if keep is not None:
            keep(node, values[node])
        for used in last_uses.get(node, ()):
            value = values.pop(used)
            if release is not None:
                release(used, value)
            del value
    raise Refused("the graph has no output")


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node, those whose values no later node reads."""
    found: dict[fx.Node, list[fx.Node]] = {}
    seen: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for used in node.all_input_nodes:
            if used not in seen:
                seen.add(used)
                found.setdefault(node, []).append(used)
    return found


def infer(graph: fx.Graph, module: nn.Module, inputs: Sequence[Sequence[Any]]) -> None:
    """Leaves in each node's meta, under "values", what its value was for each of several inputs: a tensor as
    one of the meta device, other things as they are."""
    for node in graph.nodes:
        node.meta["values"] = []
    for one in inputs:
        execute(graph, module, one, _keep_description)


def _keep_description(node: fx.Node, value: Any) -> None:
    node.meta["values"].append(_described(value))


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
        return [_described(item) for item in value]
    return value


def shapes(node: Any) -> list[torch.Size] | None:
    """The shapes of a node's value for each inferred input; None where it is no tensor or not inferred."""
    if not isinstance(node, fx.Node):
        return None
    values = node.meta.get("values")
    if not values or not all(isinstance(value, Tensor) for value in values):
        return None
    return [value.shape for value in values]


def is_tensor(node: Any) -> bool:
    """Whether the value was always a tensor."""
    return shapes(node) is not None


def is_image(node: Any) -> bool:
    """Whether the value was always a floating tensor (N, C, H, W)."""
    found = shapes(node)
    return (
        found is not None
        and all(len(s) == 4 for s in found)
        and all(value.is_floating_point() for value in node.meta["values"])
    )


def number(value: Any) -> float | None:
    """A plain number, or None."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def is_call(node: Any, *targets: Any) -> bool:
    """Whether a node calls one of these functions."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def operands(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments of a node."""
    return node.args


def argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """A call's argument by its name in the target's signature, wherever it stands."""
    if name in node.kwargs:
        return node.kwargs[name]
    names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    position = names.index(name)
    return node.args[position] if position < len(node.args) else default


def sole_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads this one's value; None where several, or the output, do."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op != "output" else None


def replace(
    graph: fx.Graph, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> fx.Node:
    """A call of target in the place of node, for all that read its value; both compute the same."""
    with graph.inserting_before(node):
        new = graph.call_function(target, args, kwargs)
    new.meta.update(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return new


def insert(graph: fx.Graph, before: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A new call before a node, its values inferred from those of its arguments where these are known."""
    with graph.inserting_before(before):
        new = graph.call_function(target, args, kwargs)
    new.meta["path"] = before.meta.get("path", "")
    describe(new)
    return new


def insert_here(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    """A new call where the graph's insertion point is."""
    new = graph.call_function(target, args)
    describe(new)
    return new


def plain(value: Any) -> Any:
    """Lists and dicts of the caller's own, where torch.fx has made ones that cannot be changed of them."""
    if isinstance(value, immutable_list):
        return [plain(item) for item in value]
    if isinstance(value, immutable_dict):
        return {key: plain(item) for key, item in value.items()}
    if type(value) is tuple:
        return tuple(plain(item) for item in value)
    return value


def sweep(graph: fx.Graph, *, modules: bool = False) -> None:
    """Erases what nobody reads, from the last node on; calls of modules, which may do more than they return,
    where asked to."""
    for node in reversed(graph.nodes):
        if node.users or node.op in ("placeholder", "output"):
            continue
        if modules if node.op == "call_module" else not node.is_impure():
            graph.erase_node(node)


def static(value: Any) -> bool:
    """Whether an argument holds no value of the graph."""
    return not any(isinstance(leaf, fx.Node) for leaf in tree_leaves(value))


def describe(node: fx.Node) -> None:
    """Infers the values of a call_function node from those that its arguments have in their meta."""
    count = max((len(arg.meta.get("values", ())) for arg in node.all_input_nodes), default=0)
    values = []
    try:
        for i in range(count):
            args, kwargs = map_arg((node.args, dict(node.kwargs)), _value_of(i))
            values.append(node.target(*args, **kwargs))  # type: ignore[operator]
    except Exception:  # no rule tells the shape without memory: such a node is fused with nothing
        values = []
    node.meta["values"] = values


def _value_of(i: int) -> Callable[[fx.Node], Any]:
    return lambda node: node.meta["values"][i]


def constant(node: Any) -> bool:
    """Whether a value follows from parameters and buffers alone."""
    if not isinstance(node, fx.Node):
        return node is None or isinstance(node, (int, float, bool, str))
    # a graph may be deeper than Python's stack; what a rewrite puts in a node's place is as constant as that
    if "constant" not in node.meta:
        node.meta["constant"] = all(_may_be_constant(n) for n in _sources(node))
    return bool(node.meta["constant"])


def _sources(node: fx.Node) -> Iterator[fx.Node]:
    """A node and all that it follows from, through what is not known to be constant or not."""
    stack, seen = [node], {node}
    while stack:
        n = stack.pop()
        yield n
        if "constant" not in n.meta:
            stack += [source for source in n.all_input_nodes if source not in seen]
            seen.update(n.all_input_nodes)


def _may_be_constant(node: fx.Node) -> bool:
    if "constant" in node.meta:
        return bool(node.meta["constant"])
    if node.op == "get_attr":
        return True
    calls = node.op in ("call_function", "call_method")
    return calls and bool(node.all_input_nodes) and not is_random(node)


# Nodes of these names give other values at every call.
_RANDOM = ("rand", "dropout", "bernoulli", "normal", "multinomial", "poisson", "exponential", "cauchy")


def is_random(node: fx.Node) -> bool:
    """Whether a node may give other values at the next call with the same arguments."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return any(word in name for word in _RANDOM)


@dataclass(frozen=True)
class _Named:
    """Stands for a node in a packed graph."""

    name: str


def packed(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """A graph as a list that pickle writes whatever the graph's length."""
    named: Any = lambda node: _Named(node.name)  # noqa: E731
    return [
        (n.op, n.name, n.target, *map_arg((n.args, dict(n.kwargs)), named), n.meta.get("path", ""))
        for n in graph.nodes
    ]


def unpacked(nodes: Sequence[tuple[Any, ...]]) -> fx.Graph:
    """The graph that `packed` was given."""
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}

    def find(value: Any) -> Any:
        return made[value.name] if isinstance(value, _Named) else value

    for op, name, target, args, kwargs, path in nodes:
        args, kwargs = map_aggregate((args, kwargs), find)
        made[name] = graph.create_node(op, target, args, kwargs, name)
        made[name].meta["path"] = path
    return graph
