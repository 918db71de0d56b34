# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A module's tensors as programs read them, and whether they are still what they were."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

import sr_kernels._C as _C
from sr_kernels.backends.cpu_program import Program, Table
from sr_kernels.optimizer.graph import graphs
from sr_kernels.optimizer.plan.programs import Emit

_version = operator.attrgetter("_version")


class Binding:
    """The constants of one module, and the programs that hold their addresses.

    Nothing is noticed of a write that leaves address and version alone (`.data.mul_()`, NumPy), see
    backends/kept.py.
    """

    def __init__(
        self,
        module: nn.Module,
        constants: Sequence[Node],
        fixed: Mapping[Node, Any],
        kinds: Mapping[Node, tuple[torch.Size, torch.dtype]],
        programs: Sequence[Sequence[Emit]],
        table: Table,
        held: Collection[Node],
    ) -> None:
        """constants: nodes in their order; fixed: what others give, whatever the module; kinds: shape and
        dtype that the constants' tensors must have; table: what the programs shall run with, or with one that
        is as it; held: constants that calls need beside the programs."""
        self._fixed = fixed
        self._found: list[tuple[Mapping[str, Any], str, Any]] = []  # where each module and tensor stands
        self._seen: dict[str, nn.Module] = {"": module}
        self._is_volatile = False
        self.constants: dict[Node, Any] = {}
        # new tensors even under inference mode: of those that count no versions nothing packed is kept
        with torch.inference_mode(False), torch.no_grad():
            for node in constants:
                value = self._get(str(node.target)) if node.op == "get_attr" else self._evaluated(node)
                if node in kinds and (value.shape, value.dtype) != kinds[node]:
                    raise ValueError(
                        f"{node.target} is {tuple(value.shape)}, {value.dtype}, was {kinds[node]} when the "
                        "graph was planned; plan it again"
                    )
                self.constants[node] = value
            tensors = [x for _, _, x in self._found if isinstance(x, Tensor)]
            self._is_volatile |= any(x.is_inference() for x in tensors)
            self._tensors = tensors
            self._statistics = [self.constants[node] for node in graphs.statistics(constants)]
            self._values = graphs.bytes_of(self._statistics)
            self._storages = [x.detach() for x in tensors]  # a freed address could be given out again
            self._versions = [] if self._is_volatile else list(map(_version, tensors))
            self._addresses = list(map(Tensor.data_ptr, tensors))
            self._layouts = list(map(Tensor.stride, tensors)), list(map(Tensor.numel, tensors))
            self.programs = []
            for emits in programs:
                program = Program()
                for emit in emits:
                    emit(program, table, self.constants)
                self.programs.append(program)
        # the programs keep what they packed; the rest only led to constants
        self.constants = {node: self.constants[node] for node in held}
        self._places = tuple(self._found)
        self._found.clear()
        self._seen.clear()  # a session forgets a module with its last other reference

    def is_current(self) -> bool:
        """Whether the module holds the same tensors, in the same memory, not written to."""
        if self._is_volatile:
            return False
        return (
            _C.are_same(self._places)
            and list(map(_version, self._tensors)) == self._versions
            and list(map(Tensor.data_ptr, self._tensors)) == self._addresses
            and list(map(Tensor.stride, self._tensors)) == self._layouts[0]
            and list(map(Tensor.numel, self._tensors)) == self._layouts[1]
            and (not self._statistics or graphs.bytes_of(self._statistics) == self._values)
        )

    def _note(self, table: Mapping[str, Any], name: str) -> Any:
        self._found.append((table, name, table[name]))
        return table[name]

    def _module(self, path: str) -> nn.Module:
        module = self._seen.get(path)
        if module is None:
            owner, _, name = path.rpartition(".")
            module = self._seen[path] = self._note(self._module(owner)._modules, name)
        return module

    def _get(self, path: str) -> Any:
        owner, _, name = path.rpartition(".")
        module = self._module(owner)
        for table in (module._parameters, module._buffers, vars(module)):
            x = table.get(name)
            if isinstance(x, Tensor) and x.grad_fn is not None:
                # computed for this call (torch.func.functional_call): not ours to keep, with its history
                self._is_volatile = True
                return x.detach()
            if isinstance(x, Tensor):
                return self._note(table, name)
        self._is_volatile = True  # made anew each time it is asked for, as by a parametrisation
        return getattr(module, name)

    def _evaluated(self, node: Node) -> Any:
        def given(read: Node) -> Any:
            return self._fixed[read] if read in self._fixed else self.constants[read]

        args, kwargs = map_arg((node.args, node.kwargs), given)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)
