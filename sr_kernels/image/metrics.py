# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Fidelity on luma, as super-resolution papers report it; NumPy alone."""

from __future__ import annotations

import math

import numpy as np

from sr_kernels.image.bt601 import OFFSET, TO_YCBCR

SHAVE = 4  # border pixels left out of this project's tables
_WINDOW = 11
_SIGMA = 1.5


def luma(image: np.ndarray) -> np.ndarray:
    """BT.601 luma, float64 (H, W) in 16..235, of a uint8 picture (H, W), (H, W, 1) or (H, W, 3).

    It is MATLAB's rgb2ycbcr without its rounding to whole numbers. A gray picture counts as R = G = B.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"image must be a NumPy array of uint8, found {found}")
    if image.ndim == 3 and image.shape[2] == 3:
        return OFFSET[0] + image.astype(np.float64) @ (np.array(TO_YCBCR[0]) / 255.0)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim != 2:
        raise ValueError(f"image must be (H, W), (H, W, 1) or (H, W, 3), found {image.shape}")
    return OFFSET[0] + image.astype(np.float64) * (219.0 / 255.0)


def psnr_y(a: np.ndarray, b: np.ndarray, shave: int = 0) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures' luma in dB (peak 255), infinite where equal.

    shave is the number of border pixels left out on every side. Raises ValueError for pictures of
    different shapes or smaller than the border.
    """
    y, z = _shaved_lumas(a, b, shave, 1)
    error = float(np.mean((y - z) ** 2))
    return math.inf if error == 0.0 else 10.0 * math.log10(255.0**2 / error)


def ssim_y(a: np.ndarray, b: np.ndarray, shave: int = 0) -> float:
    """Structural similarity of two uint8 pictures' luma, 1 where equal; shave as in psnr_y.

    11 x 11 Gaussian window of sigma 1.5, population covariances, K1 = 0.01, K2 = 0.03, peak 255, mean over
    the windows that lie within the picture. Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality
    assessment: from error visibility to structural similarity", 2004, and its reference code.
    """
    y, z = _shaved_lumas(a, b, shave, _WINDOW)
    c1, c2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2
    mean_y, mean_z = _blur(y), _blur(z)
    variance_y = _blur(y * y) - mean_y**2
    variance_z = _blur(z * z) - mean_z**2
    covariance = _blur(y * z) - mean_y * mean_z
    similarity = (2.0 * mean_y * mean_z + c1) * (2.0 * covariance + c2)
    similarity /= (mean_y**2 + mean_z**2 + c1) * (variance_y + variance_z + c2)
    return float(np.mean(similarity))


def _shaved_lumas(a: np.ndarray, b: np.ndarray, shave: int, least: int) -> tuple[np.ndarray, np.ndarray]:
    y, z = luma(a), luma(b)
    if y.shape != z.shape:
        raise ValueError(f"a and b must be of one size, found {a.shape} and {b.shape}")
    if shave < 0:
        raise ValueError(f"shave must not be negative, found {shave}")
    if min(y.shape) - 2 * shave < least:
        raise ValueError(f"pictures of {y.shape} leave less than {least} pixels when shaved by {shave}")
    inside = slice(shave, -shave if shave else None)
    return y[inside, inside], z[inside, inside]


def _blur(plane: np.ndarray) -> np.ndarray:
    """The separable Gaussian of plane (H, W) where the window fits: (H - 10, W - 10)."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    taps = np.exp(-(offsets**2) / (2.0 * _SIGMA**2))
    taps /= taps.sum()
    rows = plane.shape[0] - _WINDOW + 1
    columns = plane.shape[1] - _WINDOW + 1
    tall = sum(tap * plane[i : i + rows] for i, tap in enumerate(taps))
    return np.asarray(sum(tap * tall[:, i : i + columns] for i, tap in enumerate(taps)))
