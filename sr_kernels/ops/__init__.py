# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The ops, registered with torch.library as torch.ops.sr_kernels.*: differentiable, traceable, batchable."""

from sr_kernels.ops._conv2d import conv2d
from sr_kernels.ops._conv2d_chain import conv2d_chain
from sr_kernels.ops._conv_transpose2d import conv_transpose2d
from sr_kernels.ops._dense_block import dense_block
from sr_kernels.ops._picture import float_to_image, image_to_float
from sr_kernels.ops._pointwise import pixel_shuffle, pixel_unshuffle, residual_add

__all__ = [
    "conv2d",
    "conv2d_chain",
    "conv_transpose2d",
    "dense_block",
    "float_to_image",
    "image_to_float",
    "pixel_shuffle",
    "pixel_unshuffle",
    "residual_add",
]
