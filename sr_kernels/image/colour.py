# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Luma and chroma, and the bicubic enlargement of what a network does not see; on (N, C, H, W) floats."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_kernels.image.bt601 import OFFSET, TO_YCBCR

BICUBIC_RADIUS = 2  # input pixels that an enlarged one depends on, to either side


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] to luma in [16, 235]/255 and chroma in [16, 240]/255."""
    return _mix(rgb, torch.tensor(TO_YCBCR, dtype=torch.float64) / 255.0, [v / 255.0 for v in OFFSET])


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """The inverse of rgb_to_ycbcr; not clamped."""
    inverse = torch.linalg.inv(torch.tensor(TO_YCBCR, dtype=torch.float64) / 255.0)
    shift = -(inverse @ (torch.tensor(OFFSET, dtype=torch.float64) / 255.0))
    return _mix(ycbcr, inverse, shift.tolist())


def bicubic_enlarge(x: Tensor, scale: int) -> Tensor:
    """(N, C, H, W) to (N, C, H*scale, W*scale), pixel centres aligned, edges replicated.

    Every output pixel is the same sum in the same order wherever it lies, so that tiles agree bit for bit.
    Source: R. G. Keys, "Cubic convolution interpolation for digital image processing", 1981, a = -0.5.
    """
    wide = _enlarge_columns(x, scale)
    return _enlarge_columns(wide.transpose(2, 3), scale).transpose(2, 3)


def _mix(x: Tensor, matrix: Tensor, offset: list[float]) -> Tensor:
    # Sums of planes rather than a matrix product, whose order of summation varies with the size.
    planes = []
    for row, constant in zip(matrix.tolist(), offset, strict=True):
        plane = x[:, 0] * row[0]
        plane = plane + x[:, 1] * row[1]
        plane = plane + x[:, 2] * row[2]
        planes.append(plane + constant)
    return torch.stack(planes, dim=1)


def _enlarge_columns(x: Tensor, scale: int) -> Tensor:
    width = x.shape[3]
    padded = F.pad(x, (BICUBIC_RADIUS, BICUBIC_RADIUS, 0, 0), mode="replicate")
    phases = []
    for phase in range(scale):
        position = (phase + 0.5) / scale - 0.5
        first = math.floor(position) - 1
        y = torch.zeros_like(x)
        for tap in range(first, first + 4):
            begin = BICUBIC_RADIUS + tap
            y = y + padded[..., begin : begin + width] * _keys(position - tap)
        phases.append(y)
    return torch.stack(phases, dim=4).flatten(3)


def _keys(distance: float) -> float:
    d = abs(distance)
    if d <= 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0
