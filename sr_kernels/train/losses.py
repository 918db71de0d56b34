# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Pixel losses: (prediction, target) of one shape to a scalar mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (prediction - target).abs().mean()


def charbonnier(prediction: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(d**2 + epsilon**2): L1 that is smooth at zero.

    Source: Lai, Huang, Ahuja, Yang, "Deep Laplacian pyramid networks", 2017.
    """
    return torch.sqrt((prediction - target) ** 2 + epsilon**2).mean()


LOSSES: dict[str, Loss] = {"l1": l1, "charbonnier": charbonnier}
