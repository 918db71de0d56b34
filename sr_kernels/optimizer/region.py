# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A rewritten graph and how it runs: as a Python function, which gradients, torch.compile and torch.export
see through, or as sessions of native programs, one for each kind of input."""

from __future__ import annotations

import copy
import inspect
import itertools
import operator
import pickle
import threading
import warnings
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import checkpoint
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from sr_kernels import config, ops
from sr_kernels.backends import registry
from sr_kernels.backends.base import BackendError
from sr_kernels.backends.kept import stamp_of
from sr_kernels.nn.replays import CaptureError, Replays
from sr_kernels.ops._signature import is_plain, is_watched
from sr_kernels.optimizer.graph import graphs
from sr_kernels.optimizer.graph.structure import Bound, Structure, are_all_hooked, names
from sr_kernels.optimizer.graph.vocabulary import activate, channels_last, formatted
from sr_kernels.optimizer.plan.replayed import is_replayable, replays_of
from sr_kernels.optimizer.recorded import Recorder
from sr_kernels.optimizer.rewrites import ALL, FINAL
from sr_kernels.optimizer.rewrites.canonical import canonicalise
from sr_kernels.optimizer.rewrites.inplace import functionalise
from sr_kernels.optimizer.rewrites.reparametrised import is_spectral

if TYPE_CHECKING:
    from sr_kernels.optimizer.plan.planning import Planner
    from sr_kernels.optimizer.plan.session import Session


class Rewritten:
    """A graph after its rewrites; not written to any more, and free of tensors."""

    def __init__(
        self,
        captured: fx.Graph,
        module: nn.Module,
        inputs: Sequence[Sequence[Any]],
        disabled: frozenset[str] = frozenset(),
    ) -> None:
        """inputs: values of the placeholders, more than one set where shapes shall be told from numbers.

        Raises Refused where the graph cannot stand for the module, Broken where a rewrite fails.
        """
        self.graph = copy.deepcopy(captured)
        self.counts: dict[str, int] = {}
        self.disabled = disabled
        functionalise(self.graph, module, inputs)
        graphs.infer(self.graph, module, inputs)
        self.trained = _trained(self.graph, module)
        canonicalise(self.graph, module)
        for rewrite in ALL:
            if rewrite.name in disabled:
                continue
            try:
                count = rewrite.apply(self.graph)
            except Exception as error:
                raise graphs.Broken(rewrite.name, f"{type(error).__name__}: {error}") from error
            self.counts[rewrite.name] = self.counts.get(rewrite.name, 0) + count
        FINAL(self.graph)
        graphs.sweep(self.graph)
        self.graph.lint()
        self.names = [str(node.target) for node in graphs.placeholders(self.graph)]
        # the constants that rewrites have made are for parameters of these shapes
        self.shapes = [x.shape for x in graphs.Tensors(self.graph).of(module)]
        self.order, self.defaults = _signature(type(module).forward)
        # what values must be for the graph to stand for the module
        self.kinds = [_kind(node.meta.get("values")) for node in graphs.placeholders(self.graph)]
        self.group_norms = any(_is_group_norm(node, module) for node in self.graph.nodes)
        called = [str(node.target) for node in self.graph.nodes if node.op == "call_module"]
        self.calls = bool(called)
        self.structure = Structure(module, called)
        for node in self.graph.nodes:
            node.meta = {"path": node.meta.get("path", "")}
        self._compile()

    def _compile(self) -> None:
        self.function = _compiled(self.graph)
        self.constants, self.variable = _divided(self.graph)

    def __getstate__(self) -> dict[str, Any]:
        """Functions made of the graph are made again, and the graph itself is written as a list."""
        left_out = ("graph", "function", "constants", "variable")
        state = {name: value for name, value in vars(self).items() if name not in left_out}
        return {**state, "nodes": graphs.packed(self.graph)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.graph = graphs.unpacked(vars(self).pop("nodes"))
        self._compile()

    def __deepcopy__(self, memo: dict[int, Any]) -> Rewritten:
        return self

    def ours(self) -> int:
        """How many operations the kernels of the library compute."""
        return sum(_layers(node) for node in self.graph.nodes if _is_ours(node))

    def others(self) -> Counter[str]:
        """Operations that PyTorch computes, by name and how many."""
        return Counter(
            _name(node)
            for node in self.graph.nodes
            if node.op.startswith("call")
            and not (_is_ours(node) or graphs.constant(node) or node.target in _PLUMBING)
        )


# What hands values on or tells their sizes.
_PLUMBING = (channels_last, formatted, getattr, operator.getitem, "size", "dim")


def _is_ours(node: fx.Node) -> bool:
    owner = getattr(node.target, "__module__", None) or ""
    return node.op == "call_function" and owner.startswith("sr_kernels.ops")


def _name(node: fx.Node) -> str:
    """What a user calls the operation."""
    if node.target is activate:
        return str(node.args[1])
    return str(getattr(node.target, "__name__", node.target)).rpartition(".")[2]


def _layers(node: fx.Node) -> int:
    """The convolutions of a chain or block; 1 for another node."""
    if graphs.is_call(node, ops.conv2d_chain, ops.dense_block):
        return len(graphs.operands(node)[1])
    return 1


def _kind(values: Any) -> Hashable:
    """What tensors have in common with those that a graph was made with: dimensions, channels, floating or
    not; None for other things."""
    if not values or not all(isinstance(value, Tensor) for value in values):
        return None
    found = {_kind_of(value) for value in values}
    return found.pop() if len(found) == 1 else None


def _kind_of(value: Any) -> Hashable:
    if not isinstance(value, Tensor):
        return None
    return value.dim(), value.shape[1] if value.dim() == 4 else 0, value.is_floating_point()


def _trained(graph: fx.Graph, module: nn.Module) -> list[str]:
    """The layers with a spectral norm, whose hook asks for their training flag."""
    paths = {str(n.target) for n in graph.nodes if n.op == "call_module"}
    return [path for path in paths if is_spectral(graphs.lookup(module, path))]


def _is_group_norm(node: fx.Node, module: nn.Module) -> bool:
    """Whether a group norm runs there, by what a called module's class names if it is none of torch's."""
    if node.op != "call_module":
        return graphs.is_call(node, *_GROUP_NORMS)
    inside = graphs.lookup(module, str(node.target)).modules()
    return any(isinstance(m, nn.GroupNorm) or names(type(m), *_NAMES) for m in inside)


_GROUP_NORMS = (F.group_norm, torch.group_norm, torch.native_group_norm)
_NAMES = ("group_norm", "native_group_norm", "GroupNorm")
_NONE = object()


def _signature(forward: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    """The arguments of a forward, self apart, that may be given by position, and the defaults of all."""
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = list(inspect.signature(forward).parameters.values())
    order = [p.name for p in parameters if p.kind in kinds][1:]
    return order, {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _compiled(graph: fx.Graph) -> Callable[..., Any]:
    """The graph as a function of (module, *placeholders)."""
    code = graph.python_code("self")
    scope: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, "<sr_kernels.optimize>", "exec"), scope)
    function: Callable[..., Any] = scope["forward"]
    return function


def _divided(graph: fx.Graph) -> tuple[Constants | None, Callable[..., Any]]:
    """What of a graph follows from parameters alone, and the rest as a function of (module, *constants,
    *placeholders)."""
    known = [n for n in graph.nodes if n.op != "get_attr" and graphs.constant(n)]
    ends = [n for n in known if any(not graphs.constant(user) for user in n.users)]
    if not ends:
        return None, _compiled(graph)
    names = [node.name for node in ends]
    made, rest = copy.deepcopy(graph), copy.deepcopy(graph)
    by_name = {node.name: node for node in made.nodes}
    output = by_name["output"] if "output" in by_name else next(iter(reversed(made.nodes)))
    output.args = (tuple(by_name[name] for name in names),)
    graphs.sweep(made, modules=True)
    for node in graphs.placeholders(made):
        made.erase_node(node)
    by_name = {node.name: node for node in rest.nodes}
    first = next(iter(rest.nodes))
    for i, name in enumerate(names):
        with rest.inserting_before(first):
            value = rest.placeholder(f"constant{i}")
        by_name[name].replace_all_uses_with(value)
    graphs.sweep(rest)
    return Constants(made), _compiled(rest)


class Constants:
    """Tensors that follow from a module's parameters, made again where these have changed."""

    def __init__(self, graph: fx.Graph) -> None:
        self.sources = sorted({str(node.target) for node in graph.nodes if node.op == "get_attr"})
        self.statistics = [str(node.target) for node in graphs.statistics(graph.nodes)]
        self.make = _compiled(graph)

    def stamp(self, module: nn.Module) -> Hashable | None:
        """Equal as long as the sources are; None where that cannot be told."""
        tensors = [graphs.lookup(module, path) for path in self.sources]
        if any(t.is_inference() for t in tensors):
            return None
        return tuple((id(t), t.device, *stamp_of(t)) for t in tensors), self._stamp_of_statistics(module)

    def _stamp_of_statistics(self, module: nn.Module) -> Hashable:
        found = [graphs.lookup(module, path) for path in self.statistics]
        if all(x.device.type == "cpu" for x in found):
            return graphs.bytes_of(found)
        # to ask for a GPU's values is to wait for it; training counts its batches
        holders = [module.get_submodule(path.rpartition(".")[0]) for path in self.statistics]
        counts = [getattr(holder, "num_batches_tracked", None) for holder in holders]
        return tuple(count._version for count in counts if isinstance(count, Tensor))


@dataclass(frozen=True)
class Settings:
    """What a user asked of optimize, beside the module."""

    backend: str | None = None
    precision: str | None = None


# What is the caller's to see: no memory, a backend that was asked for and cannot, the way in which
# torch.utils.checkpoint ends a second forward.
_TOLD = (torch.OutOfMemoryError, MemoryError, BackendError, checkpoint._StopRecomputationError)
_MOST_SESSIONS = 16  # kinds of input that a region remembers


@dataclass
class _Kept:
    """Constants of one module."""

    stamp: Hashable | None = None
    constants: tuple[Tensor, ...] = ()
    sources: list[Any] = field(default_factory=list)  # held, so that no address or id is given out twice


class Region:
    """Runs a rewritten graph in the place of a module's forward. A deep copy begins with nothing kept."""

    def __init__(self, rewritten: Rewritten, settings: Settings, fixed: Mapping[str, Any]) -> None:
        self.rewritten = rewritten
        self.settings = settings
        self._asked = settings != Settings()
        self.fixed = dict(fixed)
        # what a call must give, for the graph was made for something else than the default
        self._given = [
            name for name, value in fixed.items() if not _same(value, rewritten.defaults.get(name, _NONE))
        ]
        self._kept = _Kept()
        self._planner: Planner | None = None
        self._sessions: OrderedDict[Hashable, Session] = OrderedDict()
        self._replays: tuple[weakref.ref[nn.Module], Replays | None] | None = None  # and whose they are
        self._lock = threading.Lock()
        self._bound: Bound | None = None  # the modules that the structure is about
        self._tensors = graphs.Tensors(rewritten.graph)
        self._recorder: Recorder | None = None
        self._warned: set[str] = set()

    def __reduce__(self) -> Any:
        try:
            return _loaded, (pickle.dumps((self.rewritten, self.settings, self.fixed)),)
        except Exception as error:
            warnings.warn(
                f"the optimised form cannot be pickled ({error}): what is loaded runs the original's forward",
                RuntimeWarning,
                stacklevel=2,
            )
            return _loaded, (b"",)

    def __deepcopy__(self, memo: dict[int, Any]) -> Region:
        return Region(self.rewritten, self.settings, self.fixed)

    def run(
        self, module: nn.Module, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The module's forward; original: the one that the graph was made of, for calls outside its reach."""
        if not self.applies(module):
            return original(*args, **kwargs)
        values = self._values(args, kwargs)
        if values is None:
            return original(*args, **kwargs)
        if torch.compiler.is_compiling():
            # what is asked for a traced call could not carry
            if self._asked or (self.rewritten.group_norms and torch.is_grad_enabled()):
                return original(*args, **kwargs)
            return self.rewritten.function(module, *values)
        try:
            # PyTorch's group norm in channels_last on the CPU: a backward that needs no gradient of its input
            # ends the process (2.13)
            if self.rewritten.group_norms and self._may_record(module, values):
                return original(*args, **kwargs)
            if not self._asked:
                return self._fast(module, values)
            backend = registry.use_backend(self.settings.backend or registry.chosen())
            with backend, config.precision(self.settings.precision):
                return self._fast(module, values)
        except _TOLD:
            raise
        except Exception as error:
            result = original(*args, **kwargs)  # an error of the caller's is the original's to tell
            self._warn(
                module,
                f"failed ({type(error).__name__}: {error}); the original ran instead, here and wherever that "
                "happens again",
            )
            return result

    def applies(self, module: nn.Module) -> bool:
        """Whether the module, its tensors apart, is still the one that the graph was made of."""
        structure = self.rewritten.structure
        if module.training or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            return False  # autocast gives each of eager's ops a dtype of its own
        if are_all_hooked():
            self._warn(module, "is not used while hooks of all modules are registered, which see every layer")
            return False
        if torch.compiler.is_compiling():
            paths = (*structure.trained, *self.rewritten.trained)
            return not any(graphs.lookup(module, path).training for path in paths)
        try:
            bound, altered = self._bound_to(module)
        except AttributeError as error:
            bound, altered = None, str(error)
        if bound is None or altered:
            self._forget()
            self._warn(module, f"is not used: {altered} since it was optimised; the original's forward runs")
            return False
        if any(graphs.lookup(module, path).training for path in self.rewritten.trained):
            return False
        return not bound.trains()

    def _bound_to(self, module: nn.Module) -> tuple[Bound, str]:
        """The module as the structure knows it, and what is not as it was."""
        structure, bound = self.rewritten.structure, self._bound
        if is_replica(module):
            bound = structure.bind(module)
            return bound, bound.altered()
        if bound is not None and bound.module is module:
            if not bound.altered():
                return bound, ""
            self._forget()  # what is there now may be of the same kind
        bound = self._bound = structure.bind(module)
        return bound, bound.altered()

    def _forget(self) -> None:
        """All that is about one module."""
        self._bound = self._replays = self._planner = self._recorder = None
        self._tensors = graphs.Tensors(self.rewritten.graph)

    def _warn(self, module: nn.Module, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(f"{type(module).__name__}: the optimised form {text}", RuntimeWarning, stacklevel=4)

    def _values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
        """The placeholders' values; None for a call that the graph was not made for."""
        names, values = self.rewritten.names, list(args)
        if kwargs or len(args) != len(names) or self._given:
            order = self.rewritten.order[: len(args)]
            if len(order) < len(args) or kwargs.keys() & set(order):
                return None
            given = {**dict(zip(order, args, strict=True)), **kwargs}
            if any(name not in given for name in (*names, *self._given)):
                return None
            values = [given.pop(name) for name in names]
            if any(
                name not in self.fixed or not _same(value, self.fixed[name]) for name, value in given.items()
            ):
                return None
        if [_kind_of(value) for value in values] != self.rewritten.kinds:
            return None
        return values

    def _fast(self, module: nn.Module, values: list[Any]) -> Any:
        tensors = _tensors(values)
        if _is_special(module, tensors):
            return self._plain(module, *values)
        records = torch.is_grad_enabled() and self._needs_gradient(module, tensors)
        on_cpu = all(x.device.type == "cpu" for x in tensors)
        key = _key(values) if on_cpu and not registry.unavailable("cpu") else None
        if records:
            return self._recorded(module, values, key)
        if on_cpu:
            return self._op_by_op(module, *values) if key is None else self._by_session(module, values, key)
        replays = self._replays_for(module)
        if replays is None or not replays.takes(values):
            return self._op_by_op(module, *values)
        try:
            return replays(*values)
        except CaptureError as error:
            self._replays = weakref.ref(module), None  # and not tried again
            self._warn(module, f"runs op by op: {error}")
            return self._op_by_op(module, *values)

    def _needs_gradient(self, module: nn.Module, tensors: Sequence[Tensor]) -> bool:
        read: Iterable[Tensor] = self._tensors.of(module)
        if self.rewritten.calls:  # a module that is called, or a hook of it, may read any other
            read = itertools.chain(module.parameters(), module.buffers())
        return any(x.requires_grad for x in itertools.chain(tensors, read))

    def _may_record(self, module: nn.Module, values: list[Any]) -> bool:
        """Whether somebody may ask for gradients of a call."""
        tensors = _tensors(values)
        return torch.is_grad_enabled() and (
            _is_special(module, tensors) or self._needs_gradient(module, tensors)
        )

    def _recorded(self, module: nn.Module, values: list[Any], key: Hashable | None) -> Any:
        if key is None:
            return self._plain(module, *values)
        recorder = self._recorder
        if recorder is None:
            rewritten = self.rewritten
            recorder = Recorder(rewritten.graph, self._tensors, rewritten.function, self._check)
            self._recorder = recorder
        return recorder.run(module, values, key, lambda: self._by_session(module, values, key))

    def _plain(self, module: nn.Module, *values: Any) -> Any:
        self._check(module)
        return self.rewritten.function(module, *values)

    def _check(self, module: nn.Module) -> None:
        """Raises ValueError where a tensor of the module has another shape than the graph was made for."""
        now: list[Any] = [getattr(x, "shape", None) for x in self._tensors.of(module)]
        expected = self.rewritten.shapes
        if now == expected:
            return
        for path, shape, made_for in zip(self._tensors.paths, now, expected, strict=True):
            if shape != made_for:
                found = shape and tuple(shape)
                raise ValueError(f"{path} is {found}, was {tuple(made_for)} when it was optimised")

    def _op_by_op(self, module: nn.Module, *values: Any) -> Any:
        self._check(module)
        constants = self._constants(module)
        kept = {x.untyped_storage()._cdata for x in constants}

        def own(x: Tensor) -> Tensor:
            return x.clone() if x.untyped_storage()._cdata in kept else x  # a constant is no caller's

        result = self.rewritten.variable(module, *constants, *values)
        return tree_map_only(Tensor, own, result) if kept else result

    def _replays_for(self, module: nn.Module) -> Replays | None:
        """CUDA graphs of that module; None where there can be none."""
        known = self._replays
        if known is None or known[0]() is not module:
            graph = self.rewritten.graph
            found = (
                replays_of(graph, module, self._op_by_op, self._constants)
                if is_replayable(graph, module)
                else None
            )
            known = self._replays = weakref.ref(module), found
        return known[1]

    def _by_session(self, module: nn.Module, values: list[Any], key: Hashable) -> Any:
        planner = self._planner
        if planner is None:
            # it needs the extension, which need not be there
            from sr_kernels.optimizer.plan.planning import Planner

            planner = self._planner = Planner(self.rewritten.graph, self._tensors)
        key = planner.in_force(), key
        with self._lock:
            session = self._sessions.get(key)
            if session is not None:
                self._sessions.move_to_end(key)
        if session is not None:
            return session.run(module, values)
        self._check(module)
        session, result = planner.session_for(module, values)
        with self._lock:
            self._sessions[key] = session
            while len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return result

    def _constants(self, module: nn.Module) -> tuple[Tensor, ...]:
        constants = self.rewritten.constants
        if constants is None:
            return ()
        stamp = constants.stamp(module)
        kept = self._kept
        if stamp is not None and stamp == kept.stamp:
            return kept.constants
        with self._lock, torch.no_grad():
            found: tuple[Tensor, ...] = constants.make(module)
            if stamp is not None:
                sources = [(t, t.detach()) for t in (graphs.lookup(module, p) for p in constants.sources)]
                self._kept = _Kept(stamp, found, sources)
        return found


def _is_special(module: nn.Module, tensors: Sequence[Tensor]) -> bool:
    """Whether a call is to run as PyTorch's dispatcher sees it."""
    return is_replica(module) or is_watched() or not all(map(is_plain, tensors))


def _are_tensors(values: Sequence[Any]) -> bool:
    return all(isinstance(x, Tensor) for x in values)


def _tensors(values: list[Any]) -> list[Tensor]:
    return values if _are_tensors(values) else [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def _key(values: Sequence[Any]) -> Hashable | None:
    """What calls of one session have in common; None where arguments cannot tell."""
    if _are_tensors(values):
        return tuple([(x.shape, x.stride(), x.dtype) for x in values])
    leaves, structure = tree_flatten(values)
    found = [(x.shape, x.stride(), x.dtype) if isinstance(x, Tensor) else (type(x), x) for x in leaves]
    key = structure, *found
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _loaded(state: bytes) -> Region | None:
    return Region(*pickle.loads(state)) if state else None


def _same(value: Any, fixed: Any) -> bool:
    if value is fixed:
        return True
    return type(value) is type(fixed) and isinstance(value, (int, float, str, tuple)) and value == fixed


def is_replica(module: nn.Module) -> bool:
    """Whether it is one of DataParallel's, which live for a call and whose weights are no parameters."""
    return vars(module).get("_is_replica", False) is True
