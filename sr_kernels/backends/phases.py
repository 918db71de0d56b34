# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of weights that every backend packs by: the phases of a nearest upsample, or the one kernel
of all of them, and the order of channels in which a pixel shuffle stores runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sr_kernels.backends.base import ConvArgs


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


def is_enlarging(a: ConvArgs) -> bool:
    """Whether a is a nearest upsample by 2 and a 3x3 kernel, without what a pixel shuffle would move."""
    return (
        a.upsample == 2
        and a.pixel_shuffle == 1
        and not a.residuals
        and tuple(a.weight.shape[2:]) == (3, 3)
        and tuple(a.padding) == (1, 1, 1, 1)
    )


def enlarging(w: Tensor) -> Tensor:
    """w (4*Co, Ci, 3, 3) whose convolution, shuffled by 2, is that of w (Co, Ci, 3, 3) with padding 1 after a
    nearest upsample by 2: taps that meet on one small pixel summed, in float64, and rounded once to w's type.
    """
    # taps[phase][offset -1, 0, 1 of the small pixel][tap]
    taps = w.new_tensor(
        [[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]], dtype=torch.float64
    )
    return torch.einsum("yik,xjl,ockl->oyxcij", taps, taps, w.double()).flatten(0, 2).to(w.dtype)


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
