# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Native programs: convolutions, shuffles, sums and copies that run one after the other, no Python between.

A program holds what is the same for every size of input, a table what a size decides. An operand is an
address that only a call knows: the number of a slot and so many bytes behind its address. Slot 0 begins at
address 0, so that an address that is known beforehand is (0, address), and none is NONE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

import sr_kernels._C as _C
from sr_kernels.backends import cpu, cpu_chain, cpu_pack
from sr_kernels.backends.base import ConvArgs, dense_strides
from sr_kernels.backends.cpu_isa import Isa
from sr_kernels.backends.cpu_plan import DTYPES, ConvPlan
from sr_kernels.backends.registry import select

Operand = tuple[int, int]
Strides = tuple[int, ...]
NONE: Operand = (0, 0)
_MOST_LAYERS = 1024


class Settings(NamedTuple):
    """All that tells convolutions apart but their values and where these lie; fields as in ConvArgs."""

    shape: tuple[int, ...]  # of the input
    dtype: torch.dtype
    weight: tuple[int, ...]  # its shape
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0, 0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    upsample: int = 1
    activation: str = "none"
    negative_slope: float = 0.01
    slopes: int = 0  # PReLU weights
    residuals: tuple[float, ...] = ()
    scale: float = 1.0
    activation_after_add: bool = False
    pixel_shuffle: int = 1
    base: tuple[int, ...] | None = None  # its shape
    base_mode: str = "none"
    backend: str = ""  # asked for


class Layer:
    """A convolution of these settings, on one instruction set and in one precision."""

    def __init__(self, settings: Settings) -> None:
        s = self.settings = settings
        self.isa = cpu.current_isa()
        weight = torch.empty(s.weight, dtype=s.dtype, device="meta")
        self._args = ConvArgs(
            _stand_in(s.shape, dense_strides(s.shape, torch.channels_last), s.dtype),
            weight,
            None,
            s.stride,
            s.padding,
            s.dilation,
            s.groups,
            s.upsample,
            s.activation,
            s.negative_slope,
            torch.empty(s.slopes, dtype=s.dtype, device="meta") if s.slopes else None,
            (),
            s.scale,
            s.activation_after_add,
            s.pixel_shuffle,
            None,
            s.base_mode,
        )
        self.output_shape = self._args.output_shape()
        conv_shape = s.shape[0], s.weight[0], *self._args.conv_size()
        self._args.residuals = [(_dense(conv_shape, s.dtype), number) for number in s.residuals]
        self._args.base = None if s.base is None else _dense(s.base, s.dtype)
        self.is_enlarging = cpu.is_enlarging(self._args)  # packed differently; its sizes decide
        self._run = self._args
        if self.is_enlarging:  # as cpu.as_shuffle
            co, *rest = s.weight
            weight = torch.empty(4 * co, *rest, dtype=s.dtype, device="meta")
            self._run = replace(self._args, weight=weight, upsample=1, pixel_shuffle=2)
        self._plans: dict[tuple[Strides | None, ...], ConvPlan] = {}
        self._native: dict[torch.memory_format, bool] = {}

    def is_native(self, memory_format: torch.memory_format = torch.channels_last) -> bool:
        """Whether the CPU backend is the one to run it, given an input of this memory format."""
        known = self._native.get(memory_format)
        if known is None:
            s = self.settings
            x = _stand_in(s.shape, dense_strides(s.shape, memory_format), s.dtype)
            known = select("conv2d", "cpu", replace(self._args, input=x), s.backend).name == "cpu"
            self._native[memory_format] = known
        return known

    def chain_args(self) -> ConvArgs | None:
        """Its arguments but for values and places, if a chain can hold it. One that is not the last must have
        no base."""
        a = self._run
        steps = max(*a.stride, *a.dilation, a.groups, a.upsample)
        return a if steps == 1 and a.base_mode != "bilinear" else None

    def plan(
        self, x: Strides, y: Strides, residuals: Sequence[Strides] = (), base: Strides | None = None
    ) -> ConvPlan:
        """The plan for tensors of these strides, all but x's one of one pixel's channels side by side."""
        key = (x, y, base, *residuals)
        plan = self._plans.get(key)
        if plan is None:
            s, a = self.settings, self._run
            shape = s.shape[0], s.weight[0], *self._args.conv_size()
            pairs = zip(residuals, s.residuals, strict=True)
            bound = replace(
                a,
                input=_stand_in(s.shape, x, s.dtype),
                residuals=[(_stand_in(shape, strides, s.dtype), number) for strides, number in pairs],
                base=None if s.base is None or base is None else _stand_in(s.base, base, s.dtype),
            )
            plan = self._plans[key] = cpu.make_plan(bound, _stand_in(self.output_shape, y, s.dtype))
        return plan

    def packed(
        self, plan: ConvPlan, weight: Tensor, bias: Tensor | None, prelu: Tensor | None
    ) -> list[list[Tensor]]:
        """[weight, bias, PReLU weights, if any] of each step of a plan, in the kernel's order."""
        if self.is_enlarging:
            weight, bias, prelu = cpu_pack.enlarging(weight, bias, prelu)
        return plan.packed(weight, bias, prelu)


def _stand_in(shape: Sequence[int], strides: Strides, dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


def _dense(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return _stand_in(shape, dense_strides(shape, torch.channels_last), dtype)


class Layers:
    """Layers by their settings, for the instruction set, precision and backend in force when it is made."""

    _known: dict[tuple[object, ...], Layer] = {}  # noqa: RUF012  (shared by all)

    def __init__(self, precision: str, backend: str) -> None:
        self.isa = cpu.current_isa()
        self._force = self.isa, precision, backend

    def find(self, settings: Settings) -> Layer:
        """The layer of these settings."""
        key = (self._force, settings)
        layer = self._known.get(key)
        if layer is None:
            if len(self._known) >= _MOST_LAYERS:
                self._known.clear()
            layer = self._known[key] = Layer(settings)
        return layer


class Entry(NamedTuple):
    """What a table says of one step or of several alike."""

    names: tuple[str, ...]  # of its kernels
    kernels: tuple[object, ...]  # which order weights are packed in
    params: range  # in the native table


class Table:
    """What the size of the input decides of steps: entries in the order in which they were added. Programs
    made for one table run with any of equal entries."""

    def __init__(self, isa: Isa) -> None:
        self.native = _C.Table(isa.index)
        self._unit = isa.unit
        self.entries: list[Entry] = []
        self.plans: list[Sequence[ConvPlan]] = []  # of each entry

    def _note(self, *names: str, plans: Sequence[ConvPlan] = ()) -> None:
        first = self.entries[-1].params.stop if self.entries else 0
        kernels = tuple([plan.kernel for plan in plans])
        self.entries.append(Entry(names, kernels, range(first, len(self.native))))
        self.plans.append(plans)

    def conv2d(self, plan: ConvPlan) -> None:
        """A convolution; params for each phase of it, none for an empty batch."""
        for step in plan.steps:
            self.native.conv2d(step)
        self._note(plan.name, plans=[plan])

    def chain(self, plans: Sequence[ConvPlan], strips: cpu_chain.Strips) -> None:
        """Layers whose windows lie in the caches."""
        if all(plan.steps for plan in plans):
            self.native.strips(strips.rows, strips.height, strips.columns)
            for plan in plans:
                self.native.conv2d(plan.steps[0])
        self._note(f"cpu/chain/{self._unit}", *(plan.name for plan in plans), plans=plans)

    def shuffle(
        self, shape: Sequence[int], coarse: Strides, fine: Strides, factor: int, size: int, inverse: bool
    ) -> None:
        """shape: (N, C, H, W) of the fine side; size: bytes of an element."""
        n, c, h, w = shape
        self.native.shuffle((n, h // factor, w // factor, c), coarse, fine, factor, size, inverse)
        self._note(f"cpu/{'pixel_unshuffle' if inverse else 'pixel_shuffle'}/{self._unit}")

    def add(self, count: int, dtype: torch.dtype, numbers: Sequence[float]) -> None:
        """numbers: of x and one or two terms."""
        scale, first, second = numbers if len(numbers) == 3 else (*numbers, 0.0)
        self.native.add(count, scale, first, second, DTYPES[dtype])
        self._note(f"cpu/residual_add/{self._unit}")

    def copy(self, shape: Sequence[int], x: Strides, y: Strides, size: int) -> None:
        """Values (N, C, H, W) from one layout into another."""
        self.native.copy(shape, x, y, size)
        self._note("cpu/copy")


class Program:
    """Steps in the order in which they were added, each by an entry of a table, and their kernels' names."""

    def __init__(self) -> None:
        self._native = _C.Program()
        self.names: list[str] = []
        self._kept: list[object] = []

    def run(self, table: Table, bases: Sequence[int], threads: int) -> None:
        """With the addresses of the slots."""
        self._native.run(table.native, bases, threads)

    def step(self, entry: Entry, operands: Sequence[Operand]) -> None:
        """A shuffle, sum or copy; operands: x, y, and a sum's other terms."""
        self.names += entry.names
        self._native.step(entry.params[0], [*operands, *[NONE] * (8 - len(operands))])

    def conv2d(self, entry: Entry, operands: Sequence[Operand], packed: Sequence[Sequence[Tensor]]) -> None:
        """operands: those of x, y, two residuals and base. The packed weights are kept."""
        self.names += entry.names
        self._kept.append(packed)
        for params, tensors in zip(entry.params, packed, strict=False):  # an empty batch has no params
            self._native.step(params, _with_weights(operands, tensors))

    def chain(
        self,
        entry: Entry,
        operands: Sequence[Sequence[Operand]],
        packed: Sequence[Sequence[Sequence[Tensor]]],
    ) -> None:
        """operands and packed as of conv2d, layer by layer."""
        self.names += entry.names
        self._kept.append(packed)
        if entry.params:
            strips, *layers = entry.params
            bound = [_with_weights(to, tensors[0]) for to, tensors in zip(operands, packed, strict=True)]
            self._native.chain(strips, list(zip(layers, bound, strict=True)))


def _with_weights(operands: Sequence[Operand], packed: Sequence[Tensor]) -> list[Operand]:
    found = [*operands, *((0, tensor.data_ptr()) for tensor in packed)]
    return found if len(packed) == 3 else [*found, NONE]
