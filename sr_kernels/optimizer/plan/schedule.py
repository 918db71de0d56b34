# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The order of a call: native programs, Python's calls between them, and what each needs of the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_map_only

from sr_kernels.optimizer.plan.buffers import Placing
from sr_kernels.optimizer.plan.programs import Emit, Recipes, emitted
from sr_kernels.optimizer.plan.steps import Buffer, Call, Lowered, Step, Value


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for what Python holds at an index."""

    index: int


@dataclass(frozen=True, slots=True)
class Tree:
    """Stands for a container of such."""

    make: Callable[[list[Any]], Any]
    items: tuple[Any, ...]


def filled(template: Any, held: list[Any]) -> Any:
    """A template with what it stands for in its place."""
    kind = type(template)
    if kind is Ref:
        return held[template.index]
    if kind is Tree:
        return template.make([filled(item, held) for item in template.items])
    return template


@dataclass(slots=True)
class Segment:
    """Native steps in a row, or one call."""

    call: Node | None = None
    emits: list[Emit] = field(default_factory=list)
    program: int = -1  # its number
    fresh: list[tuple[int, int, Value]] = field(default_factory=list)  # index, slot, new tensor to be written
    args: Any = ()
    kwargs: Any = None
    index: int = -1  # where what the call gives is held
    sees_arena: bool = False  # and gives nothing that lies in it
    drops: list[int] = field(default_factory=list)  # what nobody needs any more


class Schedule:
    """The segments of a graph, and the numbers of slots and of what Python holds. The first slot begins at
    address 0, those behind it are the buffers of the arena."""

    def __init__(self, lowered: Lowered, placing: Placing) -> None:
        self._lowered = lowered
        self._placing = placing
        self._indices: dict[Any, int] = {}
        self.inputs = [self._index(node) for node in lowered.inputs]
        self.slots = 1
        for buffer in placing.in_arena:
            buffer.slot = self._new_slot()
        self.outside: dict[int, tuple[int, Value]] = {}  # index -> slot of a tensor that native steps read
        for node, value in lowered.outside.items():
            value.slot = self._new_slot()
            self.outside[self._index(node)] = value.slot, value
        for buffer in placing.buffers:
            if not buffer.in_arena:
                buffer.slot = self._new_slot()
        self.views: dict[int, Value] = {}  # index -> what Python sees of the arena
        self.segments: list[Segment] = []
        self.programs: list[list[Emit]] = []
        self.recipes = Recipes()
        self.numbers: dict[Node, int] = {}  # that sizes decide, and Python is given -> index
        self._last: dict[int, int] = {}  # index -> the last segment that needs it
        self._written: set[int] = set()  # buffers
        self._returned: set[int] = set()
        # what may lie in the memory of constants that are the session's own, not the module's
        self._kept = {node for node in lowered.constants if node.op != "get_attr"}
        for step in placing.steps:
            if isinstance(step, Call):
                self._add_call(step)
            else:
                self._add_native(step)
        needed = dict(self._last)
        self.output = self._template(lowered.output, is_given=True, is_output=True)
        for index, at in needed.items():
            if index not in self._returned:
                self.segments[at].drops.append(index)
        # that Python holds, or native steps read as tensors
        self.constants = [(self._indices[n], n) for n in lowered.constants if n in self._indices]
        self.held = len(self._indices)

    def _index(self, key: Any) -> int:
        return self._indices.setdefault(key, len(self._indices))

    def _new_slot(self) -> int:
        self.slots += 1
        return self.slots - 1

    def _needs(self, index: int) -> None:
        self._last[index] = len(self.segments) - 1

    def _add_native(self, step: Step) -> None:
        if not self.segments or self.segments[-1].call is not None:
            self.segments.append(Segment(program=len(self.programs)))
            self.programs.append(self.segments[-1].emits)
        segment = self.segments[-1]
        made = step.makes()
        assert made is not None
        assert made.buffer is not None
        if not made.buffer.in_arena and id(made.buffer) not in self._written:
            self._written.add(id(made.buffer))
            value = self._whole(made.buffer)
            segment.fresh.append((self._index(value), made.buffer.slot, value))
        segment.emits.append(emitted(step, self.recipes))
        for value in (*step.reads(), made):
            if value.buffer is None:
                self._needs(self._index(value.node))
            elif not value.buffer.in_arena:
                self._needs(self._index(self._whole(value.buffer)))

    def _whole(self, buffer: Buffer) -> Value:
        """The tensor that a buffer of its own is."""
        return next(value for value in self._placing.values[id(buffer)] if value.is_fresh)

    def _add_call(self, step: Call) -> None:
        node = step.node
        segment = Segment(node)
        self.segments.append(segment)
        is_given = node.op == "call_module"  # a module may keep what it is shown
        segment.args = self._template(node.args, is_given)
        segment.kwargs = self._template(node.kwargs, is_given) if node.kwargs else None
        if not is_given and any(n in self._kept for n in step.aliases):
            self._kept.add(node)
        segment.index = self._index(node)
        segment.sees_arena = any(
            value.buffer is not None and value.buffer.in_arena for value in step.seen
        ) and not any(n in self._lowered.made for n in step.aliases)
        self._needs(segment.index)

    def _template(self, arg: Any, is_given: bool, is_output: bool = False) -> Any:
        """An argument, or the output, as `filled` takes it; is_given: it is somebody else's from then on."""

        def of(items: Any) -> tuple[Any, ...]:
            return tuple(self._template(item, is_given, is_output) for item in items)

        if isinstance(arg, Node):
            if arg in self._lowered.fixed:
                self.numbers[arg] = self._index(arg)
                return Ref(self.numbers[arg])
            ref = Ref(self._held(arg))
            if is_output:
                self._returned.add(ref.index)
            if is_given and arg in self._kept:
                return Tree(lambda found: tree_map_only(Tensor, Tensor.clone, found[0]), (ref,))
            return ref
        if isinstance(arg, slice):
            items = of((arg.start, arg.stop, arg.step))
            return Tree(lambda found: slice(*found), items) if _stands(items) else slice(*items)
        if isinstance(arg, tuple):
            items, kind = of(arg), type(arg)
            make: Any = (lambda found: kind(*found)) if hasattr(kind, "_fields") else tuple
            return Tree(make, items) if _stands(items) else make(items)
        if isinstance(arg, list):
            return Tree(list, of(arg))
        if isinstance(arg, dict):
            keys = tuple(arg)
            return Tree(lambda found: dict(zip(keys, found, strict=True)), of(arg.values()))
        return arg

    def _held(self, node: Node) -> int:
        made = self._lowered.made.get(node)
        index = self._index(node if made is None else made)
        if made is not None and made.buffer is not None and made.buffer.in_arena:
            self.views[index] = made
        if self.segments:
            self._needs(index)
        return index


def _stands(items: tuple[Any, ...]) -> bool:
    return any(isinstance(item, (Ref, Tree)) for item in items)
