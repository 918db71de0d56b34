# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own ops, on every device and dtype: the last of every list, and always able."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sr_kernels import reference
from sr_kernels.backends.base import Backend, ConvArgs, DenseBlockArgs, memory_format_of, with_format
from sr_kernels.backends.registry import record


class TorchBackend(Backend):
    """The reference, run as it is; the result gets the input's memory format."""

    name = "torch"

    def reasons(self, op: str, args: object) -> list[str]:
        return []

    def conv2d(self, args: ConvArgs) -> Tensor:
        record("torch/conv2d")
        y = reference.conv2d(
            args.input,
            args.weight,
            args.bias,
            stride=args.stride,
            padding=args.padding,
            dilation=args.dilation,
            groups=args.groups,
            upsample=args.upsample,
            activation=args.activation,
            negative_slope=args.negative_slope,
            prelu_weight=args.prelu_weight,
            residuals=args.residuals,
            scale=args.scale,
            activation_after_add=args.activation_after_add,
            pixel_shuffle=args.pixel_shuffle,
            base=args.base,
            base_mode=args.base_mode,
        )
        return with_format(y, memory_format_of(args.input))

    def dense_block(self, args: DenseBlockArgs) -> Tensor:
        record("torch/dense_block")
        y = reference.dense_block(
            args.input,
            args.weights,
            args.biases,
            negative_slope=args.negative_slope,
            scale=args.scale,
            input_scale=args.input_scale,
            residuals=args.residuals,
        )
        return with_format(y, memory_format_of(args.input))

    def pixel_shuffle(self, input: Tensor, factor: int) -> Tensor:
        record("torch/pixel_shuffle")
        y = reference.pixel_shuffle(input, factor) if factor > 1 else input.clone()
        return with_format(y, memory_format_of(input))

    def pixel_unshuffle(self, input: Tensor, factor: int) -> Tensor:
        record("torch/pixel_unshuffle")
        y = reference.pixel_unshuffle(input, factor) if factor > 1 else input.clone()
        return with_format(y, memory_format_of(input))

    def residual_add(self, input: Tensor, residuals: Sequence[tuple[Tensor, float]], scale: float) -> Tensor:
        record("torch/residual_add")
        return with_format(reference.residual_add(input, residuals, scale=scale), memory_format_of(input))

    def image_to_float(self, image: Tensor) -> Tensor:
        record("torch/image_to_float")
        return with_format(reference.image_to_float(image), torch.channels_last)

    def float_to_image(self, input: Tensor, dtype: torch.dtype) -> Tensor:
        record("torch/float_to_image")
        return reference.float_to_image(input, dtype)
