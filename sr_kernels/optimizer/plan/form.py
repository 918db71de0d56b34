# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a graph comes down to for inputs of many sizes: steps, buffers, their order, packed weights."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, Node

from sr_kernels.backends.cpu import current_isa
from sr_kernels.backends.cpu_program import Table
from sr_kernels.optimizer.plan import buffers
from sr_kernels.optimizer.plan.arena import Pool
from sr_kernels.optimizer.plan.binding import Binding
from sr_kernels.optimizer.plan.chains import chained
from sr_kernels.optimizer.plan.lowering import Lowering
from sr_kernels.optimizer.plan.schedule import Schedule
from sr_kernels.optimizer.plan.sizes import Misfit, Sizes, kind_of

_MOST_BINDINGS = 8  # of one module that are remembered, with weights packed for its kernels


class Form:
    """A graph in the precision and by the instruction set and backend that were in force when it was made.

    It is made with the values of one run and holds none of them. It serves all sizes for which everything
    that is decided by size is decided alike; a session (session.py) adds the sizes.
    """

    def __init__(self, graph: Graph, values: Mapping[Node, Any]) -> None:
        """graph: nodes of sr_kernels.ops, torch.cat, and anything else, which Python runs; no operation in
        place. values: what each node gave in one run of a module, of which shapes, strides and dtypes count,
        and numbers, which are taken to follow from the shapes."""
        lowered = Lowering(graph, values).result()
        lowered.steps = chained(lowered.steps, lowered.decisions)
        buffers.number(lowered)
        placing = buffers.placed(lowered)
        lowered.decisions.close()
        self.schedule = Schedule(lowered, placing)
        self.in_arena = placing.in_arena
        self.isa = current_isa()
        self.pool = Pool()
        self._layers, self._decisions = lowered.layers, lowered.decisions
        self._constants, self._fixed = lowered.constants, lowered.fixed
        constants = set(lowered.constants)
        self._kinds = {node: kind_of(value) for node, value in values.items() if node not in constants}
        shapes = (values[node].shape for node in constants if isinstance(values[node], Tensor))
        self._constant_extents = [(n, h, w) for n, _, h, w in filter(lambda s: len(s) == 4, shapes)]
        self._constant_kinds = {
            node: kind_of(values[node]) for node in lowered.constants if isinstance(values[node], Tensor)
        }
        self._bindings: weakref.WeakKeyDictionary[nn.Module, dict[Any, Binding]] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def fitted(self, values: Mapping[Node, Any]) -> Sizes | None:
        """The sizes of a run of the graph with constants of the same shapes and dtypes; None where the form
        is not for these."""
        try:
            sizes = Sizes(values, self._layers, self._kinds, self._constant_extents)
            return sizes if self._decisions.hold(sizes) else None
        except Misfit:
            return None

    def bound(self, module: nn.Module, table: Table, signature: Any) -> Binding:
        """The module's constants and the programs that hold them, for tables of this signature. Raises
        ValueError where constants are of other shapes or dtypes."""
        binding = self._bindings.get(module, {}).get(signature)
        if binding is None or not binding.is_current():
            with self._lock:
                known = self._bindings.get(module, {})
                binding = known.get(signature)
                if binding is None or not binding.is_current():
                    held = [node for _, node in self.schedule.constants]
                    kinds, programs = self._constant_kinds, self.schedule.programs
                    binding = Binding(module, self._constants, self._fixed, kinds, programs, table, held)
                    current = {key: other for key, other in known.items() if other.is_current()}
                    for oldest in list(current)[: len(current) - _MOST_BINDINGS + 1]:
                        del current[oldest]
                    self._bindings[module] = {**current, signature: binding}
        return binding
