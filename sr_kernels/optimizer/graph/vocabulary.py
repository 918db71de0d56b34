# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What graphs are written in once their spellings are unified: the ops of the library, and these.

    ops.conv2d, conv_transpose2d, dense_block, pixel_shuffle, pixel_unshuffle, residual_add     as public
    activate(x, activation, negative_slope, prelu_weight)
    enlarge(x, factor, mode)       nearest, or bilinear with align_corners=False
    pad(x, sides, mode)            sides as F.pad's
    batch_norm(x, mean, var, weight, bias, eps)
    torch.cat(tensors, 1), operator.add, sub, mul, truediv     of tensors and numbers

Anything else stays as it was traced.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_kernels.backends.base import memory_format_of
from sr_kernels.reference import activate as activate


def enlarge(x: Tensor, factor: int, mode: str) -> Tensor:
    """x (N, C, H, W) to (N, C, factor*H, factor*W)."""
    corners = None if mode == "nearest" else False
    return F.interpolate(x, scale_factor=float(factor), mode=mode, align_corners=corners)


def pad(x: Tensor, sides: Sequence[int], mode: str) -> Tensor:
    """x (N, C, H, W) with (left, right, top, bottom) more pixels; mode "constant" (zeros), "reflect",
    "replicate" or "circular"."""
    return F.pad(x, tuple(sides), mode=mode)


def batch_norm(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Normalisation by running statistics (C,), x (N, C, H, W)."""
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


def channels_last(x: Tensor) -> Tensor:
    """x with each pixel's channels side by side, as the kernels read it; x itself where it is no image."""
    if x.dim() != 4 or not x.is_floating_point() or memory_format_of(x) == torch.channels_last:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def formatted(y: Tensor, like: Tensor) -> Tensor:
    """y in the memory format of `like`, where both are images: what eager layers would have returned."""
    if y.dim() != 4 or like.dim() != 4:
        return y
    return y.contiguous(memory_format=memory_format_of(like))
