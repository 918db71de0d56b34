# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Small modules to enlarge with, whose sums are exact in float32, and pictures to go with them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Exact(nn.Module):
    """Two 3x3 convolutions and a shuffle in plain PyTorch.

    The weights are multiples of 1/8 below 1, so that on inputs that are multiples of 1/256 every sum is
    exact in float32: whatever kernel PyTorch picks by size, equal windows give equal bits.
    """

    def __init__(self, scale: int = 2, channels: int = 3, features: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, features, 3, padding=1)
        self.last = nn.Conv2d(features, channels * scale * scale, 3, padding=1)
        self.factor = scale
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randint(-7, 8, p.shape, generator=generator) / 8)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.last(F.relu(self.first(x))), self.factor)
        return y / 64 + F.interpolate(x, scale_factor=self.factor, mode="nearest")


class Described(Exact):
    """Exact, with what the project's own models say of themselves."""

    def __init__(self, scale: int = 2, channels: int = 3) -> None:
        super().__init__(scale, channels)
        self.scale, self.in_channels, self.out_channels, self.input_multiple = scale, channels, channels, 1

    def receptive_radius(self) -> int:
        return 2


class Nearest(nn.Module):
    """Enlarges by repetition, remembers the shapes that it was called with."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale, self.in_channels, self.out_channels, self.input_multiple = scale, 3, 3, 1
        self.seen: list[tuple[int, ...]] = []

    def receptive_radius(self) -> int:
        return 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return F.interpolate(x, scale_factor=self.scale, mode="nearest")


def grid(*shape: int, seed: int = 0) -> Tensor:
    """Random multiples of 1/256 in [0, 1)."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)) / 256


def noise(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    """Random pixels over the whole range of the dtype; floats in [0, 1)."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
