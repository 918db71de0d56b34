# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Inputs of another size: what has become of each shape that a form was made with, and whether all that sizes
decide there would be decided alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import Node

from sr_kernels.backends.cpu_program import Layer, Layers

Shape = tuple[int, ...]
Extent = tuple[int, int, int]
T = TypeVar("T")


class Misfit(Exception):
    """A form does not fit these sizes."""


def kind_of(value: Any) -> Any:
    """What all sizes of a form have in common at a node, but for a picture's batch, height and width."""
    return (value.shape, value.dtype) if isinstance(value, Tensor) else type(value)


class Sizes:
    """The values of one recorded or inferred run, and shapes of the form in their sizes."""

    def __init__(
        self,
        values: Mapping[Node, Any],
        layers: Layers,
        kinds: Mapping[Node, Any] | None = None,
        constants: Iterable[Extent] = (),
    ) -> None:
        """kinds: of the nodes' values in the form, those of constants apart; None for the form's own sizes.
        constants: batch, height and width of these, which stay. Raises Misfit where two pictures of one size
        there have two here."""
        self.values = values
        self._layers = layers
        self._is_own = kinds is None
        self._extents: dict[Extent, Extent] = {extent: extent for extent in constants}
        self._known: dict[Layer, Layer] = {}
        for node, kind in (kinds or {}).items():
            found = kind_of(values[node])
            if type(kind) is not tuple or type(found) is not tuple:
                if kind is not found:
                    raise Misfit
                continue
            (shape, dtype), (now, other) = kind, found
            if dtype is not other or len(shape) != len(now):
                raise Misfit
            if len(shape) == 4:
                self._note(shape, now)

    def _note(self, shape: Shape, now: Shape) -> None:
        n, c, h, w = shape
        size = now[0], now[2], now[3]
        if c != now[1] or self._extents.setdefault((n, h, w), size) != size:
            raise Misfit

    def shape(self, shape: Shape) -> Shape:
        """A picture's shape in the form, in these sizes."""
        if self._is_own:
            return shape
        n, c, h, w = shape
        n, h, w = self._extents[n, h, w]
        return n, c, h, w

    def bytes(self, shape: Shape, dtype: torch.dtype) -> int:
        """Of the elements of a picture that has this shape in the form."""
        n, c, h, w = self.shape(shape)
        return n * c * h * w * dtype.itemsize

    def layer(self, layer: Layer) -> Layer:
        """A layer of the form in these sizes. Raises Misfit as above, for its result."""
        if self._is_own:
            return layer
        found = self._known.get(layer)
        if found is None:
            s = layer.settings
            base = None if s.base is None else self.shape(s.base)
            found = self._layers.find(s._replace(shape=self.shape(s.shape), base=base))
            self._note(layer.output_shape, found.output_shape)
            self._known[layer] = found
        return found


class Decisions:
    """What the sizes of a form have decided, as questions about any sizes, and the answers."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes: Sizes | None = sizes
        self._known: dict[Hashable, tuple[Callable[[Sizes], Any], Any]] = {}

    def ask(self, question: Callable[[Sizes], T], *key: Hashable) -> T:
        """The answer for the form's own sizes. key: of questions that always have one answer."""
        known = self._known.get(key) if key else None
        if known is None:
            assert self._sizes is not None
            known = self._known[key or question] = question, question(self._sizes)
        answer: T = known[1]
        return answer

    def at_least(self, shape: Shape, dtype: torch.dtype, size: int) -> bool:
        """Whether a picture takes so many bytes."""
        return self.ask(lambda sizes: sizes.bytes(shape, dtype) >= size, shape, dtype, size)

    def close(self) -> None:
        """No more questions: what was asked holds no values."""
        self._sizes = None

    def hold(self, sizes: Sizes) -> bool:
        """Whether all answers are the same for other sizes."""
        return all(question(sizes) == answer for question, answer in self._known.values())
