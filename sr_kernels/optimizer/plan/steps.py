# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a graph comes down to: values, and the steps that make them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from sr_kernels.backends.cpu_program import Layer, Layers
from sr_kernels.optimizer.plan.sizes import Decisions, Shape


@dataclass(slots=True, eq=False)
class Value:
    """A tensor. Made by a native step it lies in a buffer, pixel by pixel (`planar`: plane by plane), from
    `channel` on; else it is the tensor that the caller, a Python call or the module gives, in a slot."""

    shape: Shape  # in the sizes of the form, as all shapes here
    dtype: torch.dtype
    is_made: bool = True
    planar: bool = False
    is_whole: bool = False  # not to lie among other values' channels
    is_fresh: bool = False  # in memory that is the caller's when the call is over
    node: Node | None = None  # that tells the strides of a tensor from outside, or as Python is to see one
    slot: int = 0  # of a tensor from outside
    buffer: Buffer | None = None
    channel: int = 0
    begin: int = 1 << 30  # the step that makes it
    end: int = -1  # the last that reads it

    def is_between(self) -> bool:
        """Whether native steps alone see it."""
        return self.is_made and not (self.is_whole or self.is_fresh)

    def bytes(self) -> int:
        """Of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(slots=True, eq=False)
class Buffer:
    """Memory of an arena, or of a new tensor at every call; while steps [begin, end] run, it is in use."""

    whole: Value  # that fills it
    in_arena: bool
    slot: int = 0
    begin: int = 1 << 30
    end: int = -1

    @property
    def channels(self) -> int:
        """Of a pixel."""
        return self.whole.shape[1]


@dataclass(slots=True, eq=False)
class Step:
    """Reads values, makes one."""

    def reads(self) -> Sequence[Value]:
        """The values that must have been made."""
        raise NotImplementedError

    def makes(self) -> Value | None:
        """What it writes."""
        return self.y  # type: ignore[attr-defined]


# (weight, bias, PReLU weights) of the graph -> those of the convolution
Rearrange = Callable[[Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor | None, Tensor | None]]


@dataclass(slots=True, eq=False)
class Conv(Step):
    """A native convolution; its weights are constants of the graph."""

    layer: Layer
    x: Value
    y: Value
    weight: Node
    bias: Node | None = None
    prelu: Node | None = None
    residuals: Sequence[Value] = ()
    base: Value | None = None
    rearrange: Rearrange | None = None

    def reads(self) -> Sequence[Value]:
        return [self.x, *self.residuals, *([] if self.base is None else [self.base])]


@dataclass(slots=True, eq=False)
class Chain(Step):
    """Convolutions strip by strip; what passes between them is in no buffer."""

    layers: list[Conv]

    def reads(self) -> Sequence[Value]:
        between = [layer.y for layer in self.layers[:-1]]
        return [value for layer in self.layers for value in layer.reads() if value not in between]

    def makes(self) -> Value:
        return self.layers[-1].y


@dataclass(slots=True, eq=False)
class Shuffle(Step):
    """Pixel shuffle, or its inverse."""

    x: Value
    y: Value
    factor: int
    inverse: bool

    def reads(self) -> Sequence[Value]:
        return [self.x]


@dataclass(slots=True, eq=False)
class Add(Step):
    """A weighted sum of two or three values."""

    terms: Sequence[Value]
    numbers: Sequence[float]
    y: Value

    def reads(self) -> Sequence[Value]:
        return self.terms


@dataclass(slots=True, eq=False)
class Copy(Step):
    """The same values in another layout, or among another value's channels."""

    x: Value
    y: Value

    def reads(self) -> Sequence[Value]:
        return [self.x]


@dataclass(slots=True, eq=False)
class Cat(Step):
    """Values side by side, channel after channel; what lies there already needs no copy."""

    parts: Sequence[Value]
    y: Value

    def reads(self) -> Sequence[Value]:
        return self.parts


@dataclass(slots=True, eq=False)
class Call(Step):
    """A node that Python runs."""

    node: Node
    seen: Sequence[Value]  # native values among its arguments
    aliases: list[Node] = field(default_factory=list)  # arguments whose memory the result shares

    def reads(self) -> Sequence[Value]:
        return self.seen

    def makes(self) -> Value | None:
        return None


@dataclass(slots=True, eq=False)
class Lowered:
    """A graph's steps."""

    steps: list[Step]
    inputs: list[Node]
    output: Any  # a tree of nodes
    constants: list[Node]  # in their order
    fixed: dict[Node, Any]  # what shapes alone decide
    made: dict[Node, Value]  # as Python is to see them
    outside: dict[Node, Value]  # tensors from outside that native steps read
    layers: Layers
    decisions: Decisions
