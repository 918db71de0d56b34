# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights in the order in which the native kernels read them, made once and kept while they are unchanged."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_kernels import _C

T = TypeVar("T")


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


# (tensor, its address, version and layout, its storage, what was made)
_cache: dict[Hashable, tuple[weakref.ref[Tensor], tuple[Any, ...], Tensor, Any]] = {}


def _forget(cache: dict[Hashable, Any], slot: Hashable, _: object) -> None:
    """Bound to the cache itself: at the interpreter's end the module has lost its names."""
    cache.pop(slot, None)


def cached(tensor: Tensor, key: Hashable, make: Callable[[], T]) -> T:
    """make(), kept under key for as long as tensor lives with the same storage and version.

    The entry holds the storage: `.data = ...` leaves the version alone, and a freed address may be given out
    again, so that an address alone would prove nothing. An inference tensor counts no versions, so nothing
    made from one is kept. Of a tensor that has changed since, as in training, a second use is waited for:
    what is made once can take the memory of the layer before, while it is in the caches.
    """
    if tensor.is_inference():
        return make()
    slot = (id(tensor), key)
    entry = _cache.get(slot)
    stamp = tensor.data_ptr(), tensor._version, tensor.shape, tensor.stride(), tensor.dtype
    same = entry is not None and entry[0]() is tensor
    if entry is not None and same and entry[1] == stamp and entry[3] is not _USED_ONCE:
        value: T = entry[3]
        return value
    reference = weakref.ref(tensor, functools.partial(_forget, _cache, slot))
    if entry is not None and same and entry[1] != stamp:
        _cache[slot] = (reference, stamp, tensor.detach(), _USED_ONCE)
        del entry
        return make()
    value = make()
    _cache[slot] = (reference, stamp, tensor.detach(), value)
    return value


_USED_ONCE = object()


def _channel_order(x: Tensor, shuffle: int) -> Tensor:
    """x (Co, ...) with channels c*s*s + d put at d*C + c: the sub-pixels of a row come together."""
    if shuffle == 1:
        return x
    return x.unflatten(0, (-1, shuffle * shuffle)).transpose(0, 1).flatten(0, 1)


def _pad_channels(x: Tensor, multiple: int) -> Tensor:
    """x (Co, ...) padded with zeros to a multiple of channels."""
    return F.pad(x, (0, 0) * (x.dim() - 1) + (0, -x.shape[0] % multiple))


def vector(x: Tensor | None, co: int, kernel: Kernel, shuffle: int) -> Tensor:
    """Bias or PReLU weights (Co,) or (1,), in the packed order, padded with zeros to whole blocks."""
    block = kernel.block
    if x is None:
        return _zeros(co + -co % block)
    if (
        shuffle == 1
        and co % block == 0
        and x.shape[0] == co
        and x.is_contiguous()
        and x.dtype == torch.float32
    ):
        return x

    def make() -> Tensor:
        return _pad_channels(_channel_order(x.detach().float().expand(co), shuffle), block).contiguous()

    return cached(x, ("vector", co, block, shuffle), make)


_zero_vectors: dict[int, Tensor] = {}


def _zeros(count: int) -> Tensor:
    found = _zero_vectors.get(count)
    if found is None:
        found = _zero_vectors[count] = torch.zeros(count)
    return found


def phases(kh: int, kw: int, upsample: int, top: int, left: int) -> list[Phase]:
    """The phases of a kernel (kh, kw) with this padding of the enlarged input, row by row."""
    rows = [_offsets(kh, upsample, y, top) for y in range(upsample)]
    columns = [_offsets(kw, upsample, x, left) for x in range(upsample)]
    return [
        Phase(dy[-1] - dy[0] + 1, dx[-1] - dx[0] + 1, -dy[0], -dx[0], y, x)
        for y, dy in enumerate(rows)
        for x, dx in enumerate(columns)
    ]


def weights(weight: Tensor, kernel: Kernel, shuffle: int, upsample: int, top: int, left: int) -> list[Tensor]:
    """The packed weights of each phase, float32; weight (Co, Ci, kh, kw)."""

    def make() -> list[Tensor]:
        w = weight.detach().float()
        if upsample == 1:
            return [_pack(w, kernel, shuffle)]
        rows = [_collapse(w.double(), 2, upsample, y, top) for y in range(upsample)]
        return [
            _pack(_collapse(row, 3, upsample, x, left).float(), kernel, shuffle)
            for row in rows
            for x in range(upsample)
        ]

    return cached(weight, ("weights", kernel, shuffle, upsample, top, left), make)


def enlarging(
    weight: Tensor, bias: Tensor | None, prelu: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(weight (4*Co, Ci, 3, 3), bias, PReLU weights) whose convolution, shuffled by 2, is that of weight (Co,
    Ci, 3, 3) with padding 1 after a nearest upsample by 2: taps that meet on one small pixel are summed."""

    def make() -> Tensor:
        # taps[phase][offset -1, 0, 1 of the small pixel][tap]
        taps = weight.new_tensor(
            [[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]], dtype=torch.float64
        )
        return (
            torch.einsum("yik,xjl,ockl->oyxcij", taps, taps, weight.detach().double()).flatten(0, 2).float()
        )

    def repeated(x: Tensor | None) -> Tensor | None:
        if x is None or x.shape[0] == 1:
            return x
        return cached(x, "enlarging", lambda: x.detach().repeat_interleave(4))

    return cached(weight, "enlarging", make), repeated(bias), repeated(prelu)


def _offsets(size: int, upsample: int, phase: int, pad: int) -> list[int]:
    """The small pixel on which each tap of an axis falls, from that of the phase's output pixel."""
    return [(phase + k - pad) // upsample for k in range(size)]


def _collapse(w: Tensor, dim: int, upsample: int, phase: int, pad: int) -> Tensor:
    """w with its taps along dim that fall on the same small pixel summed."""
    offsets = _offsets(w.shape[dim], upsample, phase, pad)
    shape = list(w.shape)
    shape[dim] = offsets[-1] - offsets[0] + 1
    index = torch.tensor([offset - offsets[0] for offset in offsets])
    return w.new_zeros(shape).index_add_(dim, index, w)


def _pack(w: Tensor, kernel: Kernel, shuffle: int) -> Tensor:
    """w (Co, Ci, kh, kw) in the order of the kernel's kind, see csrc/cpu/kernels/conv_kernels.inl."""
    w, lanes = _channel_order(w, shuffle), kernel.lanes
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
