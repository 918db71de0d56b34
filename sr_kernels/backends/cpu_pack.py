# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights in the order in which the native kernels read them."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import sr_kernels._C as _C
from sr_kernels.backends import phases
from sr_kernels.backends.kept import cached, zeros


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A row of an instruction set's kernel table: `channels` outputs by `pixels` of a row at a time."""

    isa: int
    lanes: int
    index: int
    name: str
    unit: str  # the instruction set that it needs
    kind: str  # direct | thin | depthwise | winograd | bf16
    channels: int
    pixels: int
    depth: int  # inputs are padded to a multiple of it

    @property
    def block(self) -> int:
        """Packed channels of a tile: `channels` padded to whole vectors."""
        return self.channels + -self.channels % self.lanes


def _pad_channels(x: Tensor, multiple: int) -> Tensor:
    """x (Co, ...) padded with zeros to a multiple of channels."""
    return F.pad(x, (0, 0) * (x.dim() - 1) + (0, -x.shape[0] % multiple))


def vector(x: Tensor | None, co: int, kernel: Kernel, shuffle: int) -> Tensor:
    """Bias or PReLU weights (Co,) or (1,), in the packed order, padded with zeros to whole blocks."""
    block = kernel.block
    if x is None:
        return zeros(co + -co % block, torch.device("cpu"))
    if (
        shuffle == 1
        and co % block == 0
        and x.shape[0] == co
        and x.is_contiguous()
        and x.dtype == torch.float32
    ):
        return x

    def make() -> Tensor:
        return _pad_channels(phases.channel_order(x.detach().float().expand(co), shuffle), block).contiguous()

    return cached(x, ("vector", co, block, shuffle), make)


def weights(weight: Tensor, kernel: Kernel, shuffle: int, upsample: int, top: int, left: int) -> list[Tensor]:
    """The packed weights of each phase, float32; weight (Co, Ci, kh, kw)."""

    def make() -> list[Tensor]:
        found = phases.weights_of_phases(weight.detach().float(), upsample, top, left)
        return [_pack(w, kernel, shuffle) for w in found]

    return cached(weight, ("weights", kernel, shuffle, upsample, top, left), make)


def enlarging(
    weight: Tensor, bias: Tensor | None, prelu: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(weight, bias, PReLU weights) of phases.enlarging, float32."""

    def make() -> Tensor:
        return phases.enlarging(weight.detach().float())

    def repeated(x: Tensor | None) -> Tensor | None:
        if x is None or x.shape[0] == 1:
            return x
        return cached(x, "enlarging", lambda: x.detach().repeat_interleave(4))

    return cached(weight, "enlarging", make), repeated(bias), repeated(prelu)


def _pack(w: Tensor, kernel: Kernel, shuffle: int) -> Tensor:
    """w (Co, Ci, kh, kw) in the order of the kernel's kind, see csrc/cpu/kernels/conv_kernels.inl."""
    w, lanes = phases.channel_order(w, shuffle), kernel.lanes
    if kernel.kind == "thin":  # [kh][kw][ceil(ci/lanes)][Co][lanes]
        w = F.pad(w, (0, 0, 0, 0, 0, -w.shape[1] % lanes)).unflatten(1, (-1, lanes))
        return w.permute(3, 4, 1, 0, 2).contiguous()
    if kernel.kind == "depthwise":  # [ceil(c/lanes)][kh][kw][lanes]
        w = _pad_channels(w, lanes).squeeze(1).unflatten(0, (-1, lanes))
        return w.permute(0, 2, 3, 1).contiguous()
    if kernel.kind == "winograd":  # see csrc/cpu/kernels/winograd_pack.inl
        co, ci = w.shape[:2]
        u = _memory(len(FILTER_TRANSFORM) ** 2 * (co + -co % kernel.channels) * ci)
        _C.pack_winograd(
            kernel.isa, w.data_ptr(), u.data_ptr(), (co, ci), w.stride(), kernel.channels, FILTER_TRANSFORM
        )
        return u
    if kernel.kind == "bf16":  # [ceil(Co/channels)][kh][kw][ceil(Ci/depth)*depth/2][channels][2]
        w = F.pad(w, (0, 0, 0, 0, 0, -w.shape[1] % kernel.depth)).bfloat16()
        w = _pad_channels(w, kernel.channels).unflatten(0, (-1, kernel.channels)).unflatten(2, (-1, 2))
        return w.permute(0, 4, 5, 2, 1, 3).contiguous()
    # [ceil(Co/channels)][kh][kw][Ci][channels]
    w = _pad_channels(w, kernel.channels).unflatten(0, (-1, kernel.channels))
    return w.permute(0, 3, 4, 2, 1).contiguous()


_spare: dict[int, Tensor] = {}


def _memory(count: int) -> Tensor:
    """`count` floats that are used again after their life: in training weights are packed at every step, and
    new pages would cost more than the packing. One spare of each size is kept."""
    spare = _spare.pop(count, None)
    memory = torch.empty(count) if spare is None else spare
    lent = memory.view(count)
    weakref.finalize(lent, _spare.__setitem__, count, memory)
    return lent


def _filter_transform(points: list[float]) -> list[list[float]]:
    """G of F(len(points) - 1, 3) for these finite points and infinity: row i is (1, p, p^2) / prod(p - q)."""
    rows = [[p**k / math.prod(p - q for q in points if q != p) for k in range(3)] for p in points]
    return [*rows, [0.0, 0.0, 1.0]]


FILTER_TRANSFORM = _filter_transform([0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)])
