# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Rewrites of canonical graphs, each exact in real arithmetic, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from sr_kernels.optimizer.rewrites import activation, layout, residual, shuffle, upsample


@dataclass(frozen=True)
class Rewrite:
    """A rule that changes a graph, in place, and gives how often it applied."""

    name: str  # as a report calls it
    apply: Callable[[fx.Graph], int]


ALL: tuple[Rewrite, ...] = (
    Rewrite("upsample + conv", upsample.apply),
    Rewrite("conv + activation", activation.apply),
    Rewrite("conv + scale + residual", residual.apply),
    Rewrite("conv + pixel shuffle", shuffle.apply),
    Rewrite("activation after residual or shuffle", activation.apply),
    Rewrite("pixel shuffle + base", residual.apply),
)
# What every graph goes through in the end; it changes no value.
FINAL = layout.apply
