# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of weights that every backend packs by: the phases of a nearest upsample, and the order of
channels in which a pixel shuffle stores runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Phase:
    """One of the u*u convolutions that a nearest upsample by u and a kernel come down to; one for u = 1.

    Output pixels (t*u + y, s*u + x) are the convolution of the small input by a kernel (kh, kw), its window
    starting at (t - top, s - left).
    """

    kh: int
    kw: int
    top: int
    left: int
    y: int
    x: int


def channel_order(x: Tensor, shuffle: int) -> Tensor:
    """x (Co, ...) with channels c*s*s + d put at d*C + c: the sub-pixels of a row come together."""
    if shuffle == 1:
        return x
    return x.unflatten(0, (-1, shuffle * shuffle)).transpose(0, 1).flatten(0, 1)


def phases(kh: int, kw: int, upsample: int, top: int, left: int) -> list[Phase]:
    """The phases of a kernel (kh, kw) with this padding of the enlarged input, row by row."""
    rows = [_offsets(kh, upsample, y, top) for y in range(upsample)]
    columns = [_offsets(kw, upsample, x, left) for x in range(upsample)]
    return [
        Phase(dy[-1] - dy[0] + 1, dx[-1] - dx[0] + 1, -dy[0], -dx[0], y, x)
        for y, dy in enumerate(rows)
        for x, dx in enumerate(columns)
    ]


def weights_of_phases(w: Tensor, upsample: int, top: int, left: int) -> list[Tensor]:
    """w (Co, Ci, kh, kw) as the kernels of `phases`: taps that meet on one small pixel summed, in float64,
    and rounded once to w's type."""
    if upsample == 1:
        return [w]
    rows = [_collapse(w.double(), 2, upsample, y, top) for y in range(upsample)]
    return [_collapse(row, 3, upsample, x, left).to(w.dtype) for row in rows for x in range(upsample)]


def _offsets(size: int, upsample: int, phase: int, pad: int) -> list[int]:
    """The small pixel on which each tap of an axis falls, from that of the phase's output pixel."""
    return [(phase + k - pad) // upsample for k in range(size)]


def _collapse(w: Tensor, dim: int, upsample: int, phase: int, pad: int) -> Tensor:
    """w with its taps along dim that fall on the same small pixel summed."""
    offsets = _offsets(w.shape[dim], upsample, phase, pad)
    shape = list(w.shape)
    shape[dim] = offsets[-1] - offsets[0] + 1
    index = torch.tensor([offset - offsets[0] for offset in offsets], device=w.device)
    return w.new_zeros(shape).index_add_(dim, index, w)
