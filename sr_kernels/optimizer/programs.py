# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Native steps with their places, as what adds them to a program once the constants are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from sr_kernels.backends import cpu_chain
from sr_kernels.backends.base import dense_strides
from sr_kernels.backends.cpu_plan import ConvPlan
from sr_kernels.backends.cpu_program import NONE, Operand, Program
from sr_kernels.optimizer.steps import ARENA, Add, Chain, Conv, Copy, Shuffle, Step, Value

Constants = Mapping[Node, Any]
Emit = Callable[[Program, Constants], None]


def place(value: Value) -> tuple[tuple[int, ...], Operand]:
    """Strides in elements, and where the first element lies."""
    buffer = value.buffer
    if buffer is None:
        return value.strides, (value.slot, 0)
    if value.planar:
        strides = dense_strides(value.shape, torch.contiguous_format)
    else:
        _, _, h, w = value.shape
        pixel = buffer.channels
        strides = (h * w * pixel, 1, w * pixel, pixel)
    offset = value.channel * value.dtype.itemsize
    return strides, (buffer.slot, offset + buffer.offset if buffer.slot == ARENA else offset)


def emitted(step: Step, threads: int) -> Emit:
    """What adds a native step to a program."""
    if isinstance(step, Conv):
        return _conv(step)
    if isinstance(step, Chain):
        return _chain(step, threads)
    if isinstance(step, Shuffle):
        return _shuffle(step)
    if isinstance(step, Add):
        return _add(step)
    assert isinstance(step, Copy)
    return _copy(step)


def _bound(step: Conv, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[ConvPlan, list[Operand]]:
    """The plan for x and y of these strides, and the operands of two residuals and base."""
    places = [place(residual) for residual in step.residuals]
    base = None if step.base is None else place(step.base)
    plan = step.layer.plan(x, y, [strides for strides, _ in places], None if base is None else base[0])
    operands = [operand for _, operand in places]
    return plan, [*operands, *[NONE] * (2 - len(operands)), NONE if base is None else base[1]]


def _packed(step: Conv, plan: ConvPlan, constants: Constants) -> list[list[Tensor]]:
    weight = constants[step.weight]
    bias = None if step.bias is None else constants[step.bias]
    prelu = None if step.prelu is None else constants[step.prelu]
    if step.rearrange is not None:
        weight, bias, prelu = step.rearrange(weight, bias, prelu)
    return step.layer.packed(plan, weight, bias, prelu)


def _conv(step: Conv) -> Emit:
    x_strides, x = place(step.x)
    y_strides, y = place(step.y)
    plan, rest = _bound(step, x_strides, y_strides)
    operands = [x, y, *rest]

    def emit(program: Program, constants: Constants) -> None:
        program.conv2d(plan, operands, _packed(step, plan, constants))

    return emit


def _chain(step: Chain, threads: int) -> Emit:
    args = [layer.layer.chain_args() for layer in step.layers]
    strips = cpu_chain.strips([a for a in args if a is not None], threads)
    plans, operands = [], []
    for i, layer in enumerate(step.layers):
        x_strides, x = place(layer.x) if i == 0 else (_dense(layer.x), NONE)
        last = layer is step.layers[-1]
        y_strides, y = place(layer.y) if last else (_dense(layer.y), NONE)
        plan, rest = _bound(layer, x_strides, y_strides)
        plans.append(plan)
        operands.append([x, y, *rest])

    def emit(program: Program, constants: Constants) -> None:
        layers = zip(step.layers, plans, strict=True)
        packed = [_packed(layer, plan, constants) for layer, plan in layers]
        program.chain(plans, operands, packed, strips)

    return emit


def _dense(value: Value) -> tuple[int, ...]:
    return dense_strides(value.shape, torch.channels_last)


def _shuffle(step: Shuffle) -> Emit:
    x, y = place(step.x), place(step.y)
    coarse, fine = (y, x) if step.inverse else (x, y)
    shape = step.x.shape if step.inverse else step.y.shape
    size = step.y.dtype.itemsize

    def emit(program: Program, constants: Constants) -> None:
        program.shuffle(coarse, fine, shape, step.factor, size, step.inverse)

    return emit


def _add(step: Add) -> Emit:
    places = [place(term)[1] for term in step.terms]
    operands = [*places, *[NONE] * (3 - len(places)), place(step.y)[1]]
    count = step.y.bytes() // step.y.dtype.itemsize

    def emit(program: Program, constants: Constants) -> None:
        program.add(count, step.y.dtype, step.numbers, operands)

    return emit


def _copy(step: Copy) -> Emit:
    x, y = place(step.x), place(step.y)

    def emit(program: Program, constants: Constants) -> None:
        program.copy(step.x.shape, x, y, step.y.dtype.itemsize)

    return emit
