# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Native steps: what adds them to a program once the constants are known, and recipes for what a size decides
of them, which many steps share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import Node

from sr_kernels.backends import cpu_chain
from sr_kernels.backends.base import dense_strides
from sr_kernels.backends.cpu_plan import ConvPlan
from sr_kernels.backends.cpu_program import NONE, Layer, Operand, Program, Table
from sr_kernels.optimizer.plan.sizes import Shape, Sizes
from sr_kernels.optimizer.plan.steps import Add, Chain, Conv, Copy, Shuffle, Step, Value

Constants = Mapping[Node, Any]
Emit = Callable[[Program, Table, Constants], None]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a picture lies in memory."""

    shape: Shape  # in the sizes of the form
    channels: int = 0  # of a pixel; 0: plane by plane
    node: Node | None = None  # whose value tells, of a tensor from outside

    def strides(self, sizes: Sizes) -> tuple[int, ...]:
        """In elements."""
        if self.node is not None:
            found: tuple[int, ...] = sizes.values[self.node].stride()
            return found
        n, c, h, w = sizes.shape(self.shape)
        if not self.channels:
            return dense_strides((n, c, h, w), torch.contiguous_format)
        pixel = self.channels
        return h * w * pixel, 1, w * pixel, pixel


class Recipe(Protocol):
    """What a size decides of a step, for any size."""

    def add_to(self, table: Table, sizes: Sizes, threads: int) -> None:
        """One more entry."""


@dataclass(frozen=True, slots=True)
class _Conv:
    layer: Layer
    x: Layout
    y: Layout
    residuals: tuple[Layout, ...]
    base: Layout | None

    def plan(self, sizes: Sizes) -> ConvPlan:
        base = None if self.base is None else self.base.strides(sizes)
        residuals = [residual.strides(sizes) for residual in self.residuals]
        return sizes.layer(self.layer).plan(self.x.strides(sizes), self.y.strides(sizes), residuals, base)

    def add_to(self, table: Table, sizes: Sizes, threads: int) -> None:
        table.conv2d(self.plan(sizes))


@dataclass(frozen=True, slots=True)
class _Chain:
    layers: tuple[_Conv, ...]

    def add_to(self, table: Table, sizes: Sizes, threads: int) -> None:
        plans = [conv.plan(sizes) for conv in self.layers]
        args = [sizes.layer(conv.layer).chain_args() for conv in self.layers]
        table.chain(plans, cpu_chain.strips([a for a in args if a is not None], threads))


@dataclass(frozen=True, slots=True)
class _Shuffle:
    coarse: Layout
    fine: Layout
    factor: int
    size: int
    inverse: bool

    def add_to(self, table: Table, sizes: Sizes, threads: int) -> None:
        shape, strides = sizes.shape(self.fine.shape), (self.coarse.strides(sizes), self.fine.strides(sizes))
        table.shuffle(shape, *strides, self.factor, self.size, self.inverse)


@dataclass(frozen=True, slots=True)
class _Add:
    shape: Shape
    dtype: torch.dtype
    numbers: tuple[float, ...]

    def add_to(self, table: Table, sizes: Sizes, threads: int) -> None:
        table.add(math.prod(sizes.shape(self.shape)), self.dtype, self.numbers)


@dataclass(frozen=True, slots=True)
class _Copy:
    x: Layout
    y: Layout
    size: int

    def add_to(self, table: Table, sizes: Sizes, threads: int) -> None:
        table.copy(sizes.shape(self.x.shape), self.x.strides(sizes), self.y.strides(sizes), self.size)


class Recipes(dict[Recipe, int]):
    """Recipes, and the numbers of their entries in a table."""

    def number(self, recipe: Recipe) -> int:
        """The same for equal ones."""
        return self.setdefault(recipe, len(self))


def emitted(step: Step, recipes: Recipes) -> Emit:
    """What adds a native step to a program; what it needs of a table is noted among the recipes."""
    if isinstance(step, Conv):
        return _conv(step, recipes)
    if isinstance(step, Chain):
        return _chain(step, recipes)
    if isinstance(step, Shuffle):
        coarse, fine = (step.y, step.x) if step.inverse else (step.x, step.y)
        size = step.y.dtype.itemsize
        recipe: Recipe = _Shuffle(_layout(coarse), _layout(fine), step.factor, size, step.inverse)
        return _plain(recipes.number(recipe), [coarse, fine])
    if isinstance(step, Add):
        first, *others = step.terms
        recipe = _Add(step.y.shape, step.y.dtype, tuple(step.numbers))
        return _plain(recipes.number(recipe), [first, step.y, *others])
    assert isinstance(step, Copy)
    recipe = _Copy(_layout(step.x), _layout(step.y), step.y.dtype.itemsize)
    return _plain(recipes.number(recipe), [step.x, step.y])


def _layout(value: Value) -> Layout:
    if value.buffer is None:
        return Layout(value.shape, node=value.node)
    return Layout(value.shape, 0 if value.planar else value.buffer.channels)


def operand_of(value: Value) -> Operand:
    """Where the first element lies."""
    if value.buffer is None:
        return value.slot, 0
    return value.buffer.slot, value.channel * value.dtype.itemsize


def _plain(entry: int, values: Sequence[Value]) -> Emit:
    operands = [operand_of(value) for value in values]

    def emit(program: Program, table: Table, constants: Constants) -> None:
        program.step(table.entries[entry], operands)

    return emit


def _recipe(step: Conv, x: Layout, y: Layout) -> _Conv:
    residuals = tuple([_layout(residual) for residual in step.residuals])
    return _Conv(step.layer, x, y, residuals, None if step.base is None else _layout(step.base))


def _operands(step: Conv, x: Operand, y: Operand) -> list[Operand]:
    residuals = [operand_of(residual) for residual in step.residuals]
    base = NONE if step.base is None else operand_of(step.base)
    return [x, y, *residuals, *[NONE] * (2 - len(residuals)), base]


def _packed(step: Conv, plan: ConvPlan, constants: Constants) -> list[list[Tensor]]:
    weight = constants[step.weight]
    bias = None if step.bias is None else constants[step.bias]
    prelu = None if step.prelu is None else constants[step.prelu]
    if step.rearrange is not None:
        weight, bias, prelu = step.rearrange(weight, bias, prelu)
    return step.layer.packed(plan, weight, bias, prelu)


def _conv(step: Conv, recipes: Recipes) -> Emit:
    entry = recipes.number(_recipe(step, _layout(step.x), _layout(step.y)))
    operands = _operands(step, operand_of(step.x), operand_of(step.y))

    def emit(program: Program, table: Table, constants: Constants) -> None:
        program.conv2d(table.entries[entry], operands, _packed(step, table.plans[entry][0], constants))

    return emit


def _chain(step: Chain, recipes: Recipes) -> Emit:
    layers, operands = [], []
    for conv in step.layers:
        first, last = conv is step.layers[0], conv is step.layers[-1]
        x = _layout(conv.x) if first else Layout(conv.x.shape, conv.x.shape[1])
        y = _layout(conv.y) if last else Layout(conv.y.shape, conv.y.shape[1])
        layers.append(_recipe(conv, x, y))
        to = operand_of(conv.x) if first else NONE, operand_of(conv.y) if last else NONE
        operands.append(_operands(conv, *to))
    entry = recipes.number(_Chain(tuple(layers)))

    def emit(program: Program, table: Table, constants: Constants) -> None:
        plans = zip(step.layers, table.plans[entry], strict=True)
        packed = [_packed(conv, plan, constants) for conv, plan in plans]
        program.chain(table.entries[entry], operands, packed)

    return emit
