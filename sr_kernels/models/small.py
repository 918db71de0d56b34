# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""ESPCN and FSRCNN, named and initialised as in yjn870's PyTorch versions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from sr_kernels.models.base import SRModel
from sr_kernels.nn import ConvTransposeAct2d, FusedSequential
from sr_kernels.nn.checks import check_positive
from sr_kernels.nn.sequential import run_chained


class ESPCN(SRModel):
    """Sub-pixel convolution network (Shi et al. 2016): 5x5 and 3x3 with tanh, then 3x3 and pixel shuffle.

    Parameters: first_part.{0,2}, last_part.0. channels=1 is the published form, on luma.
    """

    def __init__(self, scale: int = 3, channels: int = 1, features: Sequence[int] = (64, 32)) -> None:
        super().__init__()
        if len(features) != 2:
            raise ValueError(f"ESPCN: features is {features!r}; give the two hidden widths, e.g. (64, 32)")
        first, second = features
        check_positive("ESPCN", scale=scale, channels=channels, features=features)
        self.scale, self.in_channels, self.out_channels = scale, channels, channels
        self.first_part = FusedSequential(
            nn.Conv2d(channels, first, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.Tanh(),
        )
        self.last_part = FusedSequential(
            nn.Conv2d(second, channels * scale * scale, 3, padding=1), nn.PixelShuffle(scale)
        )
        _normal(self.first_part)
        _normal(self.last_part, std=0.001)

    def _enlarge(self, x: Tensor) -> Tensor:
        return run_chained(self.stages(), x)

    def stages(self) -> list[nn.Module]:
        return [self.first_part, self.last_part]


class FSRCNN(SRModel):
    """Shrink, map and expand with PReLU, then a 9x9 transposed convolution (Dong et al. 2016).

    d, s, m: the paper's widths and number of mapping layers. The deconvolution runs as a convolution and a
    pixel shuffle. Parameters: first_part, mid_part (convolutions and PReLU in turn), last_part.
    """

    def __init__(self, scale: int = 3, channels: int = 1, d: int = 56, s: int = 12, m: int = 4) -> None:
        super().__init__()
        check_positive("FSRCNN", scale=scale, channels=channels, d=d, s=s, m=m)
        if scale > 8:
            raise ValueError(f"FSRCNN: scale is {scale}; the 9x9 deconvolution covers scales to 8")
        self.scale, self.in_channels, self.out_channels = scale, channels, channels
        self.first_part = FusedSequential(nn.Conv2d(channels, d, 5, padding=2), nn.PReLU(d))
        middle: list[nn.Module] = [nn.Conv2d(d, s, 1), nn.PReLU(s)]
        for _ in range(m):
            middle += [nn.Conv2d(s, s, 3, padding=1), nn.PReLU(s)]
        middle += [nn.Conv2d(s, d, 1), nn.PReLU(d)]
        self.mid_part = FusedSequential(*middle)
        self.last_part = ConvTransposeAct2d(d, channels, 9, stride=scale, padding=4, output_padding=scale - 1)
        _normal(self.first_part)
        _normal(self.mid_part)
        _normal(self.last_part, std=0.001)

    def _enlarge(self, x: Tensor) -> Tensor:
        return run_chained(self.stages(), x)

    def stages(self) -> list[nn.Module]:
        return [self.first_part, self.mid_part, self.last_part]


def _normal(module: nn.Module, std: float | None = None) -> None:
    """Zero biases, normal weights of the given deviation, by default sqrt(2 / (out_channels * kh * kw))."""
    for conv in module.modules():
        if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) and not conv.weight.is_meta:
            fan = conv.out_channels * math.prod(conv.kernel_size)
            nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / fan) if std is None else std)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
