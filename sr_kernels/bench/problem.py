# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A case is a thing to measure, as data; its build() gives a Problem: plain form, ours, and inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

Run = Callable[..., Tensor]


@dataclass
class Problem:
    """A case made real. `plain` and `ours` take `inputs` and share their weights, float32. Where `ours` is
    `plain` itself, what `optimize` makes of it is meant."""

    plain: nn.Module
    ours: Run
    inputs: tuple[Tensor, ...]  # contiguous
    truth: Run | None = None  # in float64; None: plain.double()
    base: Run | None = None  # what a network only adds to: errors are in units of what it adds
    files: dict[str, Path] = field(default_factory=dict)  # the exported forms, by kind


@dataclass(frozen=True)
class Target:
    """Ours is to be `floor` times as fast as the fastest of these contenders, better `aim` times."""

    floor: float
    against: tuple[str, ...]
    aim: float | None = None


@dataclass(frozen=True)
class Case:
    """A named thing to measure at one size.

    checked: a height and width at which eager PyTorch's error is taken, where float64 would take too long at
    the full size; there eager's own result is what everybody is compared with.
    fewest: rounds of timing, where the run's own setting does not suit. without: contenders left out.
    """

    name: str
    height: int
    width: int
    targets: tuple[Target, ...] = field(default=(), kw_only=True)
    checked: tuple[int, int] | None = field(default=None, kw_only=True)
    fewest: int | None = field(default=None, kw_only=True)
    without: tuple[str, ...] = field(default=(), kw_only=True)

    group = ""
    whole = False  # a whole network: the runtimes that take no single layers run it too

    def build(self) -> Problem:
        """The same weights and inputs every time."""
        raise NotImplementedError

    def label(self) -> str:
        """The name with the size, unique among the cases."""
        return f"{self.name} {self.height}x{self.width}"
