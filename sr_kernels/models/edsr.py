# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""EDSR: residual blocks without batch norm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sr_kernels import ops
from sr_kernels.models.base import SRModel
from sr_kernels.nn import ConvAct2d, FusedSequential, ResidualBlock, ResidualConv2d
from sr_kernels.nn.checks import check_positive
from sr_kernels.nn.conv import is_plain

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class EDSR(SRModel):
    """Enhanced deep residual network (Lim et al. 2017; edsr_arch of BasicSR), input in [0, 1].

    ((x - rgb_mean) * image_range -> network) / image_range + rgb_mean. Defaults: the baseline, 64 features
    and 16 blocks. res_scale: None means 0.1 from 256 features on, else 1, as published. rgb_mean: None means
    DIV2K's for three channels, else zeros. Parameters: conv_first, body.<i>.conv{1,2}, conv_after_body,
    upsample.<2i>, conv_last. scale: 3 or a power of two.
    """

    mean: Tensor

    def __init__(
        self,
        scale: int = 4,
        channels: int = 3,
        num_feat: int = 64,
        num_block: int = 16,
        res_scale: float | None = None,
        rgb_mean: Sequence[float] | None = None,
        image_range: float = 255.0,
    ) -> None:
        super().__init__()
        check_positive("EDSR", scale=scale, channels=channels, num_feat=num_feat, num_block=num_block)
        if res_scale is None:
            res_scale = 0.1 if num_feat >= 256 else 1.0
        if rgb_mean is None:
            rgb_mean = DIV2K_MEAN if channels == 3 else (0.0,) * channels
        if not isinstance(rgb_mean, Sequence) or not all(isinstance(v, (int, float)) for v in rgb_mean):
            raise TypeError(f"EDSR: rgb_mean is {rgb_mean!r}; give {channels} numbers, one a channel")
        if len(rgb_mean) != channels:
            raise ValueError(f"EDSR: rgb_mean has {len(rgb_mean)} values; give {channels}, one a channel")
        for name, value in {"res_scale": res_scale, "image_range": image_range}.items():
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"EDSR: {name} is {value!r}; give a positive number")
        self.scale, self.in_channels, self.out_channels = scale, channels, channels
        self.image_range = float(image_range)
        self.register_buffer("mean", torch.tensor(rgb_mean, dtype=torch.float32), persistent=False)
        self.conv_first = ConvAct2d(channels, num_feat, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(num_feat, res_scale=res_scale) for _ in range(num_block)))
        self.conv_after_body = ResidualConv2d(num_feat, num_feat, 3, padding=1)
        self.upsample = FusedSequential(*_upsample(scale, num_feat))
        self.conv_last = ConvAct2d(num_feat, channels, 3, padding=1)

    def _enlarge(self, x: Tensor) -> Tensor:
        mean = self.mean.to(x.dtype)
        first = self.conv_first((x - mean.view(1, -1, 1, 1)) * self.image_range)
        features = self.conv_after_body(self.body(first), first)
        last, features = self.conv_last, self.upsample(features)
        if not is_plain(last, ConvAct2d) or last.activation is not None or last.bias is None:
            return last(features) / self.image_range + mean.view(1, -1, 1, 1)
        # (conv + bias) / range + mean, as (conv + (bias + mean * range)) / range: one op
        bias = last.bias + mean * self.image_range
        return ops.conv2d(features, last.weight, bias, padding=1, scale=1 / self.image_range)

    def stages(self) -> list[nn.Module]:
        return [self.conv_first, self.body, self.conv_after_body, self.upsample, self.conv_last]


def _upsample(scale: int, num_feat: int) -> list[nn.Module]:
    factors = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
    if scale != 3 and scale != 2 ** len(factors):
        raise ValueError(f"EDSR: scale is {scale}; give 3 or a power of two")
    layers: list[nn.Module] = []
    for factor in factors:
        layers += [nn.Conv2d(num_feat, num_feat * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
    return layers
