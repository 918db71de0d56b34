# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Between pictures as they are stored, uint8 or uint16 (H, W, C), and what networks take."""

from __future__ import annotations

import torch
from torch import Tensor

from sr_kernels.backends.base import dense_strides
from sr_kernels.ops import _arguments, _check, _library


def _pack_to_float(image: Tensor, backend: str = "") -> _library.Packed:
    if image.dtype not in _check.PICTURES:
        raise TypeError(f"image_to_float: image must be uint8 or uint16, got {_check.dtype_of(image)}")
    if image.dim() != 3 or image.shape[0] == 0 or image.shape[1] == 0 or image.shape[2] == 0:
        raise ValueError(
            f"image_to_float: image must be (H, W, C) and not empty, got {_check.shape_of(image)}; "
            "a grayscale picture takes image[:, :, None]"
        )
    return (image,), backend


def _empty_float(args: tuple[Tensor]) -> Tensor:
    h, w, c = args[0].shape
    strides = dense_strides((1, c, h, w), torch.channels_last)
    return args[0].new_empty_strided((1, c, h, w), strides, dtype=torch.float32)


def _pack_to_image(input: Tensor, dtype: torch.dtype = torch.uint8, backend: str = "") -> _library.Packed:
    _check.pictures("float_to_image", input)
    if input.shape[0] != 1:
        raise ValueError(
            f"float_to_image: input must be one picture (1, C, H, W), got {_check.shape_of(input)}; "
            "convert the batch one by one"
        )
    if dtype not in _check.PICTURES:
        raise TypeError(f"float_to_image: dtype must be torch.uint8 or torch.uint16, got {dtype}")
    return (input, dtype), backend


def _empty_image(args: tuple[Tensor, torch.dtype]) -> Tensor:
    input, dtype = args
    _, c, h, w = input.shape
    return input.new_empty((h, w, c), dtype=dtype)


TO_FLOAT, _, _ = _library.define(
    "image_to_float", "(Tensor image, str backend='') -> Tensor", _pack_to_float, _empty_float
)
TO_IMAGE, _, _ = _library.define(
    "float_to_image",
    "(Tensor input, ScalarType dtype=uint8, str backend='') -> Tensor",
    _pack_to_image,
    _empty_image,
)
_library.vmap("image_to_float", TO_FLOAT, samples=())
_library.vmap("float_to_image", TO_IMAGE, samples=())


def image_to_float(image: Tensor, *, backend: str | None = None) -> Tensor:
    """uint8 or uint16 (H, W, C) -> float32 (1, C, H, W) channels_last, full scale (255 or 65535) = 1.

    Raises TypeError or ValueError naming what does not fit, BackendError where the backend asked for
    cannot run it.
    """
    _arguments.tensors("image_to_float", image=image)
    result: Tensor = TO_FLOAT(image, _arguments.text("image_to_float", "backend", backend, ""))
    return result


def float_to_image(input: Tensor, dtype: torch.dtype = torch.uint8, *, backend: str | None = None) -> Tensor:
    """float (1, C, H, W), 1 = full scale -> uint8 or uint16 (H, W, C).

    Values are clamped to [0, 1] and rounded half to even; NaN gives 0. Not differentiable. Raises TypeError
    or ValueError naming what does not fit, BackendError where the backend asked for cannot run it.
    """
    _arguments.tensors("float_to_image", input=input)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"float_to_image: dtype must be torch.uint8 or torch.uint16, got {dtype!r}")
    result: Tensor = TO_IMAGE(input, dtype, _arguments.text("float_to_image", "backend", backend, ""))
    return result
