# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A picture in memory, and the error that reading or writing one raises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class PictureError(ValueError):
    """A picture that cannot be read or written; the message names the file, the fault and the cure."""


@dataclass(slots=True)
class Picture:
    """Pixels as they were stored, never rescaled: 8-bit stays 8-bit, 16-bit stays 16-bit.

    pixels: (H, W, C), uint8 or uint16, C = 1 (grayscale) or 3 (RGB);
    alpha: (H, W) of the same dtype, not premultiplied, or None;
    icc_profile: the embedded colour profile as it was found, or None;
    mode: the file's own mode in Pillow's terms ("P", "CMYK", "I;16" ...), for the record.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    mode: str = ""

    def __post_init__(self) -> None:
        pixels, alpha = self.pixels, self.alpha
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            raise ValueError(f"pixels must be (H, W, 1) or (H, W, 3), found shape {pixels.shape}")
        if pixels.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"pixels must be uint8 or uint16, found {pixels.dtype}")
        if 0 in pixels.shape:
            raise ValueError(f"pixels must not be empty, found shape {pixels.shape}")
        if alpha is not None and (alpha.shape != pixels.shape[:2] or alpha.dtype != pixels.dtype):
            raise ValueError(
                f"alpha must be {pixels.shape[:2]} {pixels.dtype} as the pixels, "
                f"found {alpha.shape} {alpha.dtype}"
            )

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def bits(self) -> int:
        """8 or 16, per channel."""
        return self.pixels.dtype.itemsize * 8

    def stacked(self) -> np.ndarray:
        """(H, W, 1..4): the colours, then alpha where there is one."""
        return self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])
