# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A case is a thing to measure, as data; its build() gives a Problem: plain form, ours, and inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

Run = Callable[..., Tensor]


@dataclass
class Problem:
    """A case made real. `plain` and `ours` take `inputs` and share their weights, float32."""

    plain: nn.Module
    ours: Run
    inputs: tuple[Tensor, ...]  # contiguous
    truth: Run | None = None  # in float64; None: plain.double()


@dataclass(frozen=True)
class Target:
    """Ours is to be `ratio` times as fast as the fastest of these contenders."""

    ratio: float
    against: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A named thing to measure at one size."""

    name: str
    height: int
    width: int
    targets: tuple[Target, ...] = field(default=(), kw_only=True)

    group = ""

    def build(self) -> Problem:
        """The same weights and inputs every time."""
        raise NotImplementedError

    def label(self) -> str:
        """The name with the size, unique among the cases."""
        return f"{self.name} {self.height}x{self.width}"
