# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Rewrites of canonical graphs, each exact in real arithmetic, in the order in which they are tried.

Kernels first: padding and norms become part of the convolutions that `branches` then sees bare, and it
needs them so, without activation, residual or shuffle. Constants go before residuals are looked for, since
conv * gamma + x is a residual once gamma is in the kernel, and once more behind shuffles. What convolutions
absorb goes from the inside out: activation, scale and residuals, shuffle, then activation again, for one
that follows those, and base. Transposed convolutions keep their own name until the activation behind them
is theirs, whose slopes are for each channel of the result. Dense blocks are made of finished
convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from sr_kernels.optimizer.rewrites import (
    activation,
    branches,
    constants,
    dense,
    fold_norm,
    layout,
    padding,
    residual,
    shuffle,
    transposed,
    upsample,
)


@dataclass(frozen=True)
class Rewrite:
    """A rule that changes a graph, in place, and gives how often it applied."""

    name: str  # as a report calls it
    apply: Callable[[fx.Graph], int]


ALL: tuple[Rewrite, ...] = (
    Rewrite("pad + conv", padding.apply),
    Rewrite("conv + batch norm", fold_norm.apply),
    Rewrite("convs into one", branches.apply),
    Rewrite("upsample + conv", upsample.apply),
    Rewrite("constants into conv", constants.apply),
    Rewrite("conv + activation", activation.apply),
    Rewrite("conv + scale + residual", residual.apply),
    Rewrite("conv + pixel shuffle", shuffle.apply),
    Rewrite("constants into conv", constants.apply),
    Rewrite("activation after residual or shuffle", activation.apply),
    Rewrite("transposed conv", transposed.apply),
    Rewrite("pixel shuffle + base", residual.apply),
    Rewrite("dense block", dense.apply),
)
# What every graph goes through in the end; it changes no value.
FINAL = layout.apply
