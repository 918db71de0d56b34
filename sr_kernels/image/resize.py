# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Antialiased bicubic resizing: how low-resolution pictures are made, and the enlargement to beat."""

from __future__ import annotations

import numpy as np
from PIL import Image

_DTYPES = ("uint8", "uint16", "float32")


def bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """image (H, W) or (H, W, C), uint8, uint16 or float32, resized to size (height, width), dtype kept.

    The kernel is Keys' cubic with a = -0.5, stretched by the factor when shrinking (antialiased), its
    weights normalised at the borders: Pillow's BICUBIC, and MATLAB's imresize up to rounding and the
    treatment of borders. Eight bits run in Pillow's fixed-point code; the others, a channel at a time,
    in its float32 code, and uint16 is rounded and clamped. Raises TypeError for another dtype,
    ValueError for another rank or an empty size.

    Source: R. G. Keys, "Cubic convolution interpolation for digital image processing", 1981.
    """
    _check_image("image", image)
    height, width = (int(n) for n in size)
    if height < 1 or width < 1:
        raise ValueError(f"size must be (height, width), both at least 1, found {tuple(size)}")
    if image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2] == 3):
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.array(picture.resize((width, height), Image.Resampling.BICUBIC))
    if image.ndim == 2:
        return _resize_plane(image, height, width)
    planes = [_resize_plane(image[..., c], height, width) for c in range(image.shape[2])]
    return np.stack(planes, axis=-1)


def crop_to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """image (H, W[, C]) without the last rows and columns, so that H and W are multiples; a view.

    Raises ValueError where nothing would be left.
    """
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, found {multiple}")
    height, width = (n - n % multiple for n in image.shape[:2])
    if height == 0 or width == 0:
        raise ValueError(
            f"image of {image.shape[0]} x {image.shape[1]} pixels is smaller than the multiple, {multiple}"
        )
    return image[:height, :width]


def degrade(image: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """(low, high): high is image cropped to a multiple of scale, low its antialiased bicubic reduction."""
    high = crop_to_multiple(image, scale)
    return bicubic(high, (high.shape[0] // scale, high.shape[1] // scale)), high


def _resize_plane(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    plane = np.ascontiguousarray(plane)
    if plane.dtype == np.uint8:
        return np.array(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))
    picture = Image.fromarray(plane.astype(np.float32))
    resized = np.array(picture.resize((width, height), Image.Resampling.BICUBIC))
    if plane.dtype == np.uint16:
        return np.clip(np.rint(resized), 0, 65535).astype(np.uint16)
    return resized


def _check_image(name: str, image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray) or image.dtype.name not in _DTYPES:
        found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"{name} must be a NumPy array of {', '.join(_DTYPES)}, found {found}")
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"{name} must be (H, W) or (H, W, C) and not empty, found {image.shape}")
