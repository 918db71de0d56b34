# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A graph for inputs of one signature: native programs, and what Python runs between them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.utils._pytree import tree_map_only

from sr_kernels.backends import registry
from sr_kernels.backends.cpu import current_isa
from sr_kernels.optimizer import buffers
from sr_kernels.optimizer.arena import Arena, Pool
from sr_kernels.optimizer.binding import Binding
from sr_kernels.optimizer.chains import chained
from sr_kernels.optimizer.lowering import Lowering, same_layout
from sr_kernels.optimizer.programs import place
from sr_kernels.optimizer.schedule import Schedule, Segment, filled
from sr_kernels.optimizer.steps import ARENA, Value


class Session:
    """Runs a graph on the CPU for inputs like those that it was recorded with, in the precision and by the
    instruction set and backend that were in force then.

    Several threads may run one session at once. What passes between layers lies in an arena of the call's own
    (arena.py); what is returned is the caller's.
    """

    def __init__(
        self, graph: Graph, module: nn.Module, values: Mapping[Node, Any], inputs: Sequence[Any]
    ) -> None:
        """graph: nodes of sr_kernels.ops, torch.cat, and anything else, which Python runs; no operation in
        place. values: what each node gave in one run of the module on `inputs`, of which shapes, strides and
        dtypes count, and numbers, which are taken to follow from the shapes."""
        lowered = Lowering(graph, values).result()
        lowered.steps = chained(lowered.steps)
        buffers.number(lowered)
        placing, size = buffers.placed(lowered)
        self._pool = Pool(size)
        self._schedule = Schedule(lowered, placing, values)
        self._isa = current_isa()
        self._constants = lowered.constants
        self._fixed = lowered.fixed
        self._kinds = {
            node: (values[node].shape, values[node].dtype)
            for node in lowered.constants
            if isinstance(values[node], Tensor)
        }
        self._given = [_kind(inputs[i]) for i in range(len(lowered.inputs))]
        self._bindings: weakref.WeakKeyDictionary[nn.Module, Binding] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    @property
    def arena_bytes(self) -> int:
        """Of what passes between layers, during one call."""
        return self._pool.size

    def run(self, module: nn.Module, inputs: Sequence[Any]) -> Any:
        """The graph's output for these inputs, with the parameters and buffers of `module`: the one recorded,
        a copy, a replica. Raises ValueError for inputs or parameters of other shapes or dtypes."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.run(module, inputs)
        if [_kind(x) for x in inputs] != self._given:
            raise ValueError(f"the graph was planned for {self._given}, got {[_kind(x) for x in inputs]}")
        binding = self._bound(module)
        arena = self._pool.take()
        try:
            return _Call(self._schedule, module, binding, arena).run(inputs)
        finally:
            self._pool.give(arena)

    def _bound(self, module: nn.Module) -> Binding:
        binding = self._bindings.get(module)
        if binding is None or not binding.is_current():
            with self._lock:
                binding = self._bindings.get(module)
                if binding is None or not binding.is_current():
                    schedule = self._schedule
                    held = [node for _, node in schedule.constants]
                    binding = Binding(
                        module, self._constants, self._fixed, self._kinds, self._isa, schedule.programs, held
                    )
                    self._bindings[module] = binding
        return binding


def _kind(x: Any) -> Any:
    """What inputs of one session have in common."""
    return (x.shape, x.dtype) if isinstance(x, Tensor) else type(x)


class _Call:
    """One call of a session."""

    def __init__(self, schedule: Schedule, module: nn.Module, binding: Binding, arena: Arena) -> None:
        self.schedule = schedule
        self.module = module
        self.binding = binding
        self.arena = arena
        self.held: list[Any] = [None] * schedule.held
        self.bases = [0] * schedule.slots
        self.bases[ARENA] = arena.address

    def run(self, inputs: Sequence[Any]) -> Any:
        schedule, held = self.schedule, self.held
        if schedule.views:
            if not self.arena.views:
                self.arena.views = [self._view(value) for value in schedule.views.values()]
            for index, view in zip(schedule.views, self.arena.views, strict=True):
                held[index] = view
        for index, x in zip(schedule.inputs, inputs, strict=True):
            self._hold(index, x)
        for index, node in schedule.constants:
            self._hold(index, self.binding.constants[node])
        threads = torch.get_num_threads()
        for segment in schedule.segments:
            if segment.call is None:
                self._run_native(segment, threads)
            else:
                self._call(segment, segment.call)
            for index in segment.drops:
                held[index] = None
        return filled(schedule.output, held)

    def _hold(self, index: int, x: Any) -> None:
        """x from outside, and its address where native steps read it."""
        known = self.schedule.outside.get(index)
        if known is not None:
            slot, value = known
            if tuple(x.shape) != value.shape or x.dtype != value.dtype:
                raise ValueError(
                    f"a tensor is {tuple(x.shape)}, {x.dtype} that was {value.shape}, {value.dtype} when the "
                    "graph was recorded"
                )
            if not same_layout(value.shape, x.stride(), value.strides):
                x = torch.empty_strided(value.shape, value.strides, dtype=value.dtype).copy_(x)
            self.bases[slot] = x.data_ptr()
        self.held[index] = x

    def _view(self, value: Value) -> Tensor:
        _, (_, offset) = place(value)
        return self.arena.view(offset, value.shape, value.strides, value.dtype)

    def _run_native(self, segment: Segment, threads: int) -> None:
        for index, slot, value in segment.fresh:
            x = torch.empty_strided(value.shape, value.strides, dtype=value.dtype)
            self.bases[slot] = x.data_ptr()
            self.held[index] = x
        program = self.binding.programs[segment.program]
        registry.record_all(program.names)
        program.run(self.bases, threads)

    def _call(self, segment: Segment, node: Node) -> None:
        args, kwargs = filled(segment.args, self.held), filled(segment.kwargs, self.held)
        if node.op == "call_module":
            result = self.module.get_submodule(str(node.target))(*args, **kwargs)
        elif node.op == "call_method":
            result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            assert callable(node.target)
            result = node.target(*args, **kwargs)
        if segment.sees_arena:
            result = tree_map_only(Tensor, self._own, result)
        self._hold(segment.index, result)

    def _own(self, x: Tensor) -> Tensor:
        """x, or a copy where it lies in the arena without having been foreseen to."""
        ours = x.untyped_storage()._cdata == self.arena.memory.untyped_storage()._cdata
        return x.clone() if ours else x
