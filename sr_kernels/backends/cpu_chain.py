# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Which consecutive convolutions the CPU runs strip by strip, what passes between them kept in caches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sr_kernels.backends.base import ConvArgs

MOST_LAYERS = 32  # kMaxChain of csrc/cpu/isa.h
# Bytes of a strip's windows, between L2 and a share of L3: narrower strips overlap by more than they save.
_BUDGET = 6 << 20
_ROWS = (16, 8, 4)  # of a step
_NARROWEST = 480  # columns of a strip
# Rows of a strip. What it reads above and below is computed twice: in strips of 56 rows FSRCNN's 270 took 1.3
# times as long as in two of 135. Of many rows, threads that are held up get fewer strips than others.
_TALL, _LOWEST = 256, 32
_SLIMMEST = 64  # columns of a strip, where there are more threads than rows
# Operations for each byte that passes between layers. Below (12 channels, FSRCNN's 1x1 layers) strips take
# 0.83 to 0.93 of the time; from there on the same or up to a tenth more, for the strips overlap.
_LIGHT = 40
# A result so large that the allocator maps it anew each time (glibc: from 32 MB on, whatever it has learnt)
# costs 1.5 to 3 times what layers of so few operations do, in page faults alone.
_MEDIUM, _LARGE = 110, 32 << 20
_SMALLEST = 1 << 20  # bytes between two layers that a cache holds anyway


@dataclass(frozen=True, slots=True)
class Strips:
    """Pieces of the last layer's pixels: height x columns, walked down `rows` at a time."""

    rows: int
    height: int
    columns: int


def reasons(layers: Sequence[ConvArgs]) -> list[str]:
    """Why the native chain cannot run these layers, each of which a kernel takes."""
    found = []
    if len(layers) > MOST_LAYERS:
        found.append(f"{len(layers)} layers are more than {MOST_LAYERS}")
    if layers[-1].base_mode == "bilinear":
        found.append("a chain has no base that is enlarged bilinearly")
    return found


def strips(layers: Sequence[ConvArgs], threads: int) -> Strips:
    """Strips whose windows lie in the caches, and enough of them for all threads."""
    height, width = layers[-1].conv_size()
    for rows in _ROWS:
        pixel = _bytes_of_windows(layers, rows)
        if _BUDGET // pixel >= min(width, _NARROWEST):
            break
    columns = _even(width, max(_BUDGET // pixel, _NARROWEST))
    if threads > 1:
        images = max(layers[0].input.shape[0], 1)
        across = images * -(-width // columns)
        turns = min(max(across * height // (_TALL * threads), 1), 4)  # strips for each thread
        count = min(-(-threads * turns // across), max(height // _LOWEST, 1))
        if count * across < threads:
            columns = _even(width, max(width * count * images // threads, _SLIMMEST))
        height = -(-height // count)
    return Strips(rows, height, columns)


def _bytes_of_windows(layers: Sequence[ConvArgs], rows: int) -> int:
    """For each column of the last layer's conv pixels. A window holds a step's rows, and those that the next
    step and the grid of Winograd tiles keep."""
    found, scale = 0.0, 1.0  # a layer's results for each conv pixel of the last one, along an axis
    for a, b in reversed(list(itertools.pairwise(layers))):
        scale /= b.pixel_shuffle if b is not layers[-1] else 1
        channels = a.weight.shape[0] // a.pixel_shuffle**2
        kept = b.weight.shape[2] + 3 * a.pixel_shuffle
        found += a.input.dtype.itemsize * channels * scale * (rows * scale + kept)
    return math.ceil(found)


def _even(size: int, most: int) -> int:
    """The size of equal pieces of at most `most`, as few as can be."""
    return -(-size // -(-size // most))


def slower(layers: Sequence[ConvArgs]) -> list[str]:
    """Why the layers one by one would take no more time: what passes between them is small, or little beside
    their operations."""
    if len(layers) < 2:
        return ["one layer is no chain"]
    if layers[0].input.dtype != torch.float32:
        return [
            "PyTorch's own kernels may be faster for single 16-bit layers, so that each is chosen by itself"
        ]
    height, width = layers[-1].conv_size()
    pixels = layers[0].input.shape[0] * height * width
    passed = [a.input.dtype.itemsize * a.weight.shape[0] for a in layers[:-1]]
    operations = sum(2 * a.weight.numel() for a in layers) / (2 * sum(passed))
    if pixels * max(passed) < _SMALLEST:
        return ["what passes between the layers fits into a cache"]
    if operations >= (_MEDIUM if pixels * max(passed) >= _LARGE else _LIGHT):
        return [f"{operations:.0f} operations for each byte that passes between the layers outweigh it"]
    return []
