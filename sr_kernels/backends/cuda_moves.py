# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The ops that move memory, by kernels of csrc/cuda; each takes and gives tensors of one GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sr_kernels.backends import cuda_plan
from sr_kernels.backends.base import dense_strides, memory_format_of, shuffled, unshuffled, with_format
from sr_kernels.backends.cuda_plan import place


def add(input: Tensor, residuals: Sequence[tuple[Tensor, float]], scale: float) -> Tensor:
    """residual_add."""
    memory_format = memory_format_of(input)
    x, *others = (with_format(t, memory_format) for t in (input, *(r for r, _ in residuals)))
    y = cuda_plan.empty(x.shape, dense_strides(x.shape, memory_format), x)
    if y.numel():
        r1, r2 = others[0].data_ptr(), others[1].data_ptr() if len(others) > 1 else 0
        b1, b2 = residuals[0][1], residuals[1][1] if len(residuals) > 1 else 0.0
        dtype = cuda_plan.DTYPES[x.dtype]
        cuda_plan.native.add(*place(x), x.data_ptr(), r1, r2, y.data_ptr(), x.numel(), scale, b1, b2, dtype)
    return y


def to_float(image: Tensor) -> Tensor:
    """image_to_float."""
    h, w, c = image.shape
    image = image.contiguous()
    y = torch.empty((1, h, w, c), dtype=torch.float32, device=image.device)
    bits = 8 * image.dtype.itemsize
    cuda_plan.native.image_to_float(*place(image), image.data_ptr(), y.data_ptr(), y.numel(), bits)
    return with_format(y.permute(0, 3, 1, 2), torch.channels_last)


def to_image(input: Tensor, dtype: torch.dtype) -> Tensor:
    """float_to_image."""
    _, c, h, w = input.shape
    x = with_format(input, torch.channels_last)
    y = torch.empty((h, w, c), dtype=dtype, device=x.device)
    bits = 8 * dtype.itemsize
    cuda_plan.native.float_to_image(*place(x), x.data_ptr(), y.data_ptr(), y.numel(), bits)
    return y


def shuffle(x: Tensor, factor: int) -> Tensor:
    """pixel_shuffle."""
    return _shuffled(x, shuffled(x.shape, factor), factor, inverse=False)


def unshuffle(x: Tensor, factor: int) -> Tensor:
    """pixel_unshuffle."""
    return _shuffled(x, unshuffled(x.shape, factor), factor, inverse=True)


def _shuffled(x: Tensor, shape: tuple[int, ...], factor: int, *, inverse: bool) -> Tensor:
    memory_format = memory_format_of(x)
    x = with_format(x, memory_format)
    y = cuda_plan.empty(shape, dense_strides(shape, memory_format), x)
    coarse, fine = (y, x) if inverse else (x, y)
    n, c, h, w = fine.shape
    if fine.numel():
        cuda_plan.native.shuffle(
            *place(fine), coarse.data_ptr(), fine.data_ptr(), (n, h // factor, w // factor, c),
            coarse.stride(), fine.stride(), factor, fine.dtype.itemsize, inverse,
        )  # fmt: skip
    return y
