# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Between pictures as they are stored, uint8 or uint16 (H, W, C), and what networks take."""

from __future__ import annotations

import torch
from torch import Tensor

from sr_kernels.backends.base import dense_strides
from sr_kernels.backends.registry import select
from sr_kernels.ops import _arguments, _check, _library


def _check_image(image: Tensor) -> None:
    if image.dtype not in _check.PICTURES:
        raise TypeError(f"image_to_float: image must be uint8 or uint16, got {_check.dtype_of(image)}")
    if image.dim() != 3 or image.shape[0] == 0 or image.shape[1] == 0 or image.shape[2] == 0:
        raise ValueError(
            f"image_to_float: image must be (H, W, C) and not empty, got {_check.shape_of(image)}; "
            "a grayscale picture takes image[:, :, None]"
        )


def _to_float_kernel(image: Tensor, backend: str = "") -> Tensor:
    _check_image(image)
    return select("image_to_float", image.device.type, (image,), backend).image_to_float(image)


def _to_float_fake(image: Tensor, backend: str = "") -> Tensor:
    _check_image(image)
    h, w, c = image.shape
    shape = (1, c, h, w)
    strides = dense_strides(shape, torch.channels_last)
    return torch.empty_strided(shape, strides, dtype=torch.float32, device=image.device)


def _check_output(input: Tensor, dtype: torch.dtype) -> None:
    _check.pictures("float_to_image", input)
    if input.shape[0] != 1:
        raise ValueError(
            f"float_to_image: input must be one picture (1, C, H, W), got {_check.shape_of(input)}; "
            "convert the batch one by one"
        )
    if dtype not in _check.PICTURES:
        raise TypeError(f"float_to_image: dtype must be torch.uint8 or torch.uint16, got {dtype}")


def _to_image_kernel(input: Tensor, dtype: torch.dtype = torch.uint8, backend: str = "") -> Tensor:
    _check_output(input, dtype)
    args = (input, dtype)
    return select("float_to_image", input.device.type, args, backend).float_to_image(*args)


def _to_image_fake(input: Tensor, dtype: torch.dtype = torch.uint8, backend: str = "") -> Tensor:
    _check_output(input, dtype)
    _, c, h, w = input.shape
    return torch.empty((h, w, c), dtype=dtype, device=input.device)


TO_FLOAT = _library.define(
    "image_to_float", "(Tensor image, str backend='') -> Tensor", _to_float_kernel, _to_float_fake
)
TO_IMAGE = _library.define(
    "float_to_image",
    "(Tensor input, ScalarType dtype=uint8, str backend='') -> Tensor",
    _to_image_kernel,
    _to_image_fake,
)
_library.vmap("image_to_float", TO_FLOAT, samples=())
_library.vmap("float_to_image", TO_IMAGE, samples=())


def image_to_float(image: Tensor, *, backend: str | None = None) -> Tensor:
    """uint8 or uint16 (H, W, C) -> float32 (1, C, H, W) channels_last, full scale (255 or 65535) = 1.

    Raises TypeError or ValueError naming what does not fit, BackendError where the backend asked for
    cannot run it.
    """
    _arguments.tensor("image_to_float", "image", image)
    result: Tensor = TO_FLOAT(image, backend or "")
    return result


def float_to_image(input: Tensor, dtype: torch.dtype = torch.uint8, *, backend: str | None = None) -> Tensor:
    """float (1, C, H, W), 1 = full scale -> uint8 or uint16 (H, W, C).

    Values are clamped to [0, 1] and rounded half to even; NaN gives 0. Not differentiable. Raises TypeError
    or ValueError naming what does not fit, BackendError where the backend asked for cannot run it.
    """
    _arguments.tensor("float_to_image", "input", input)
    result: Tensor = TO_IMAGE(input, dtype, backend or "")
    return result
