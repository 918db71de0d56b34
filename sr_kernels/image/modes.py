# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Pillow's modes and ours: what each mode becomes, and back."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from sr_kernels.image.picture import Picture, PictureError

_DEEP_GRAY = ("I;16", "I;16B", "I;16L", "I;16N")


def from_pil(image: Image.Image) -> Picture:
    """The picture that a Pillow image holds, at its own depth.

    L, LA, RGB, RGBA and I;16 are taken as they are; 1 becomes grayscale; P and PA their palette's colours;
    transparency becomes alpha; CMYK becomes sRGB through its profile (plainly where there is none);
    YCbCr, HSV and premultiplied modes become RGB. Orientation is left alone. Raises PictureError for 32-bit
    integer, floating-point and LAB pixels.
    """
    mode = image.mode
    profile = image.info.get("icc_profile") or None
    if mode in _DEEP_GRAY:
        gray = np.asarray(image).astype(np.uint16)
        key = image.info.get("transparency")
        alpha = None if key is None else np.where(gray == key, 0, 65535).astype(np.uint16)
        return Picture(gray[..., None], alpha, profile, mode)
    if mode in ("I", "F", "LAB"):
        raise PictureError(
            f"pixels of Pillow's mode {mode!r} are not supported: convert to 8 or 16 bits of gray or RGB"
        )
    if mode == "CMYK":
        image, profile = _cmyk_to_rgb(image, profile), None
    target = _plain_mode(image)
    stacked = np.asarray(image if image.mode == target else image.convert(target))
    if stacked.ndim == 2:
        stacked = stacked[..., None]
    if target in ("LA", "RGBA"):
        return Picture(stacked[..., :-1].copy(), stacked[..., -1].copy(), profile, mode)
    return Picture(stacked.copy(), None, profile, mode)


def to_pil(picture: Picture) -> Image.Image:
    """L, LA, RGB, RGBA or I;16, with the profile in `info`. Raises PictureError for 16-bit colour or alpha,
    which Pillow cannot hold."""
    stacked = picture.stacked()
    if picture.bits == 16 and stacked.shape[2] > 1:
        raise PictureError("Pillow holds no 16-bit colour or alpha: use arrays or files")
    image = Image.fromarray(stacked[..., 0] if stacked.shape[2] == 1 else stacked)
    if picture.icc_profile:
        image.info["icc_profile"] = picture.icc_profile
    return image


def _plain_mode(image: Image.Image) -> str:
    if image.mode in ("LA", "RGBA", "La", "RGBa"):
        return image.mode.upper()
    if image.mode in ("1", "L"):
        return "LA" if "transparency" in image.info else "L"
    return "RGBA" if image.has_transparency_data else "RGB"


def _cmyk_to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )  # fmt: skip
        except (ImageCms.PyCMSError, OSError):
            converted = None  # a damaged profile says nothing about the colours
        if converted is not None:
            return converted
    return image.convert("RGB")
