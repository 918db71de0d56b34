# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""How a picture is cut into overlapping windows: pure geometry, in input pixels.

Windows are of one size, so that they can be batched; their origins are multiples of `multiple`, so that
blocks of pixels fall where they fall in the whole picture; and the first and last windows touch the
borders, so that a network's own padding happens there and only there. With a halo of at least the
network's receptive radius the parts put together are the whole picture's result exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """One axis of a tile: the window [start, stop) is read, of which the part [first, last) is kept."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Tile:
    """A window to read and the part of it to keep, per axis."""

    rows: Span
    columns: Span


def spans(length: int, tile: int, halo: int, multiple: int = 1) -> list[Span]:
    """Windows over one axis of `length` pixels: each keeps about `tile` pixels and reads `halo` more on
    both sides; the kept parts partition [0, length)."""
    for name, value, least in (("length", length, 1), ("tile", tile, 1), ("halo", halo, 0),
                               ("multiple", multiple, 1)):  # fmt: skip
        if value < least:
            raise ValueError(f"{name} must be at least {least}, found {value}")
    wanted = max(tile, multiple) + 2 * halo
    # A window congruent to the length ends at the border from an aligned origin.
    window = wanted + (length - wanted) % multiple
    if window >= length:
        return [Span(0, length, 0, length)]
    step = (window - 2 * halo) // multiple * multiple
    starts = [*range(0, length - window, step), length - window]
    cuts = [0, *(start + halo for start in starts[1:]), length]
    return [
        Span(start, start + window, first, last)
        for start, first, last in zip(starts, cuts[:-1], cuts[1:], strict=True)
    ]


def tiles(height: int, width: int, tile: int, halo: int, multiple: int = 1) -> list[Tile]:
    """Tiles of a (height, width) picture in row-major order."""
    columns = spans(width, tile, halo, multiple)
    return [Tile(rows, column) for rows in spans(height, tile, halo, multiple) for column in columns]


def blend_weights(axis: list[Span], index: int, margin: int, scale: int = 1) -> np.ndarray:
    """Feathering of window `index` along one axis, ((stop - start) * scale,) float32: linear ramps over
    the overlaps, less `margin` pixels at each inner border; all windows' weights sum to 1 everywhere."""

    def rise(boundary: int) -> np.ndarray:
        # From 0 to 1 over the overlap of windows boundary-1 and boundary.
        if boundary == 0:
            return np.ones_like(x)
        if boundary == len(axis):
            return np.zeros_like(x)
        begin = axis[boundary].start + margin
        end = max(axis[boundary - 1].stop - margin, begin + 1)
        return np.clip((x - begin) / (end - begin), 0.0, 1.0)

    span = axis[index]
    x = span.start + (np.arange((span.stop - span.start) * scale) + 0.5) / scale
    return (rise(index) - rise(index + 1)).astype(np.float32)
