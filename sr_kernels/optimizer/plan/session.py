# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A form for inputs of one signature: native programs, and what Python runs between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_map_only

from sr_kernels.backends import registry
from sr_kernels.backends.cpu_program import Operand, Table
from sr_kernels.optimizer.plan.arena import Arena
from sr_kernels.optimizer.plan.binding import Binding
from sr_kernels.optimizer.plan.buffers import arrange
from sr_kernels.optimizer.plan.form import Form
from sr_kernels.optimizer.plan.lowering import same_layout
from sr_kernels.optimizer.plan.programs import operand_of
from sr_kernels.optimizer.plan.schedule import Segment, filled
from sr_kernels.optimizer.plan.sizes import Sizes
from sr_kernels.optimizer.plan.steps import Value


class _Kind(NamedTuple):
    """Of a tensor."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, value: Value, sizes: Sizes) -> _Kind:
        """A value that Python sees."""
        assert value.node is not None
        x = sizes.values[value.node]
        return cls(tuple(x.shape), x.stride(), x.dtype)


class Session:
    """Runs a graph on the CPU for inputs like those that it was made with.

    Several threads may run one session at once. What passes between layers lies in an arena of the call's own
    (arena.py); what is returned is the caller's.
    """

    def __init__(self, form: Form, sizes: Sizes, inputs: Sequence[Any]) -> None:
        """sizes: as the form was fitted to."""
        schedule = form.schedule
        self.form = form
        self.schedule = schedule
        of_buffers = [sizes.bytes(buffer.whole.shape, buffer.whole.dtype) for buffer in form.in_arena]
        self.offsets, self.arena_bytes = arrange(form.in_arena, of_buffers)
        self.table = Table(form.isa)
        threads = torch.get_num_threads()
        for recipe in schedule.recipes:
            recipe.add_to(self.table, sizes, threads)
        self._signature = tuple(self.table.entries)
        self.outside = {i: (slot, _Kind.of(x, sizes)) for i, (slot, x) in schedule.outside.items()}
        fresh = [x for segment in schedule.segments for _, _, x in segment.fresh]
        self.fresh = {id(x): _Kind.of(x, sizes) for x in fresh}
        self.views = [(operand_of(x), _Kind.of(x, sizes)) for x in schedule.views.values()]
        self.numbers = [(index, sizes.values[node]) for node, index in schedule.numbers.items()]
        self._given = [_kind(x) for x in inputs[: len(schedule.inputs)]]

    def run(self, module: nn.Module, inputs: Sequence[Any]) -> Any:
        """The graph's output for these inputs, with the parameters and buffers of `module`: the one recorded,
        a copy, a replica. Raises ValueError for inputs or parameters of other shapes or dtypes."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.run(module, inputs)
        if [_kind(x) for x in inputs] != self._given:
            raise ValueError(f"the graph was planned for {self._given}, got {[_kind(x) for x in inputs]}")
        binding = self.form.bound(module, self.table, self._signature)
        arena = self.form.pool.take(self.arena_bytes)
        try:
            return _Call(self, module, binding, arena).run(inputs)
        finally:
            self.form.pool.give(arena)


def _kind(x: Any) -> Any:
    """What inputs of one session have in common."""
    return (x.shape, x.dtype) if isinstance(x, Tensor) else type(x)


class _Call:
    """One call of a session."""

    def __init__(self, session: Session, module: nn.Module, binding: Binding, arena: Arena) -> None:
        self.session = session
        self.module = module
        self.binding = binding
        self.arena = arena
        schedule, address = session.schedule, arena.address
        self.held: list[Any] = [None] * schedule.held
        self.bases = [0, *[address + offset for offset in session.offsets]]
        self.bases += [0] * (schedule.slots - len(self.bases))

    def run(self, inputs: Sequence[Any]) -> Any:
        session, schedule, held, arena = self.session, self.session.schedule, self.held, self.arena
        if session.views:
            if arena.viewer is not session.offsets:
                arena.views = [self._view(*view) for view in session.views]
                arena.viewer = session.offsets  # the session itself would keep the arena's pool
            for index, view in zip(schedule.views, arena.views, strict=True):
                held[index] = view
        for index, number in session.numbers:
            held[index] = number
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
        known = self.session.outside.get(index)
        if known is not None:
            slot, kind = known
            if tuple(x.shape) != kind.shape or x.dtype != kind.dtype:
                raise ValueError(
                    f"a tensor is {tuple(x.shape)}, {x.dtype} that was {kind.shape}, {kind.dtype} when the "
                    "graph was recorded"
                )
            if not same_layout(kind.shape, x.stride(), kind.strides):
                x = torch.empty_strided(kind.shape, kind.strides, dtype=kind.dtype).copy_(x)
            self.bases[slot] = x.data_ptr()
        self.held[index] = x

    def _view(self, operand: Operand, kind: _Kind) -> Tensor:
        slot, offset = operand
        return self.arena.view(self.bases[slot] - self.arena.address + offset, *kind)

    def _run_native(self, segment: Segment, threads: int) -> None:
        for index, slot, value in segment.fresh:
            kind = self.session.fresh[id(value)]
            x = torch.empty_strided(kind.shape, kind.strides, dtype=kind.dtype)
            self.bases[slot] = x.data_ptr()
            self.held[index] = x
        program = self.binding.programs[segment.program]
        registry.record_all(program.names)
        program.run(self.session.table, self.bases, threads)

    def _call(self, segment: Segment, node: Node) -> None:
        held = self.held
        args = filled(segment.args, held)
        kwargs = filled(segment.kwargs, held) if segment.kwargs else {}
        if node.op == "call_module":
            result = self.module.get_submodule(str(node.target))(*args, **kwargs)
        elif node.op == "call_method":
            result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            assert callable(node.target)
            result = node.target(*args, **kwargs)
        if segment.sees_arena:
            result = self._own(result) if type(result) is Tensor else tree_map_only(Tensor, self._own, result)
        self._hold(segment.index, result)

    def _own(self, x: Tensor) -> Tensor:
        """x, or a copy where it lies in the arena without having been foreseen to."""
        return x.clone() if self.arena.holds(x) else x
