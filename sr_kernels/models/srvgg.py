# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""SRVGGNetCompact, the compact network of Real-ESRGAN."""

from __future__ import annotations

from torch import Tensor, nn

from sr_kernels.models.base import SRModel
from sr_kernels.nn import ConvAct2d, FusedSequential, PixelShuffleConv2d
from sr_kernels.nn.checks import check_integer, check_positive

ACTIVATIONS = ("prelu", "relu", "leaky_relu")


class SRVGGNetCompact(SRModel):
    """pixel_shuffle(body(x)) + nearest(x) (Real-ESRGAN, Wang et al. 2021; srvgg_arch of BasicSR).

    num_conv + 2 convolutions 3x3 of `num_feat` channels, each but the last with `activation`: one op a layer,
    the last with the shuffle and the enlarged input in its store. Parameters: body.<2i> convolutions,
    body.<2i+1>.weight PReLU slopes. leaky_relu has slope 0.1, as there.
    """

    def __init__(
        self,
        scale: int = 4,
        channels: int = 3,
        num_feat: int = 64,
        num_conv: int = 16,
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        check_positive("SRVGGNetCompact", scale=scale, channels=channels, num_feat=num_feat)
        check_integer("SRVGGNetCompact: num_conv", num_conv, least=0)
        if activation not in ACTIVATIONS:
            raise ValueError(f"SRVGGNetCompact: activation is {activation!r}; give one of {ACTIVATIONS}")
        self.scale, self.in_channels, self.out_channels = scale, channels, channels
        layers: list[nn.Module] = []
        for i in range(num_conv + 1):
            layers.append(ConvAct2d(num_feat if i else channels, num_feat, 3, padding=1))
            layers.append(_activation(activation, num_feat))
        tail = PixelShuffleConv2d(num_feat, channels, 3, padding=1, upscale_factor=scale, base_mode="nearest")
        self.body = FusedSequential(*layers, tail)

    def _enlarge(self, x: Tensor) -> Tensor:
        return self.body(x, base=x)

    def stages(self) -> list[nn.Module]:
        return [self.body]


def _activation(name: str, num_feat: int) -> nn.Module:
    if name == "prelu":
        return nn.PReLU(num_feat)
    return nn.ReLU() if name == "relu" else nn.LeakyReLU(0.1)
