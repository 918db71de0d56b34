# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""RRDBNet, the network of ESRGAN, BSRGAN and Real-ESRGAN."""

from __future__ import annotations

from torch import Tensor, fx, nn

from sr_kernels import ops
from sr_kernels.models.base import SRModel, padded
from sr_kernels.nn import RRDB, ConvAct2d, ResidualConv2d, UpsampleConv2d
from sr_kernels.nn.checks import check_positive

_SLOPE = 0.2
fx.wrap("padded")  # depends on the picture's size: one node where torch.fx traces


class RRDBNet(SRModel):
    """Residual-in-residual dense blocks (ESRGAN, Wang et al. 2018; rrdbnet_arch of BasicSR), input in [0, 1].

    feat + conv_body(body(feat)), then nearest x2 and a 3x3 convolution for each doubling, conv_hr, conv_last.
    unshuffle: factor of the pixel-unshuffle before conv_first; None means BasicSR's: 4 for scale 1, 2 for
    scale 2, else none. Input sizes off its multiple are reflected up to it, each axis by itself, and the
    output cropped. Parameters: conv_first, body.<i>.rdb{1-3}.conv{1-5}, conv_body, conv_up<n>, conv_hr,
    conv_last. scale: a power of two.
    """

    def __init__(
        self,
        scale: int = 4,
        in_channels: int = 3,
        out_channels: int = 3,
        num_feat: int = 64,
        num_block: int = 23,
        num_grow_ch: int = 32,
        unshuffle: int | None = None,
    ) -> None:
        super().__init__()
        if unshuffle is None:
            unshuffle = {1: 4, 2: 2}.get(scale, 1)
        sizes = {"num_feat": num_feat, "num_block": num_block, "num_grow_ch": num_grow_ch}
        check_positive("RRDBNet", scale=scale, in_channels=in_channels, out_channels=out_channels, **sizes)
        check_positive("RRDBNet", unshuffle=unshuffle)
        enlargement = scale * unshuffle
        self.doublings = enlargement.bit_length() - 1
        if enlargement != 2**self.doublings:
            raise ValueError(
                f"RRDBNet: scale {scale} with unshuffle {unshuffle}; their product must be a power of two"
            )
        self.scale, self.in_channels, self.out_channels = scale, in_channels, out_channels
        self.input_multiple = unshuffle
        self.conv_first = ConvAct2d(in_channels * unshuffle**2, num_feat, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = ResidualConv2d(num_feat, num_feat, 3, padding=1)
        for i in range(self.doublings):
            up = UpsampleConv2d(
                num_feat, num_feat, 3, padding=1, activation="leaky_relu", negative_slope=_SLOPE
            )
            self.add_module(f"conv_up{i + 1}", up)
        self.conv_hr = ConvAct2d(
            num_feat, num_feat, 3, padding=1, activation="leaky_relu", negative_slope=_SLOPE
        )
        self.conv_last = ConvAct2d(num_feat, out_channels, 3, padding=1)
        _initialise(self.body)

    def _ups(self) -> list[nn.Module]:
        return [self.get_submodule(f"conv_up{i + 1}") for i in range(self.doublings)]

    def _enlarge(self, x: Tensor) -> Tensor:
        if self.input_multiple == 1:
            return self._network(x)
        height, width = x.shape[2:]
        y = self._network(ops.pixel_unshuffle(padded(x, self.input_multiple), self.input_multiple))
        return y[:, :, : height * self.scale, : width * self.scale]

    def _network(self, x: Tensor) -> Tensor:
        first = self.conv_first(x)
        x = self.conv_body(self.body(first), first)
        for up in self._ups():
            x = up(x)
        return self.conv_last(self.conv_hr(x))

    def stages(self) -> list[nn.Module]:
        head = nn.PixelUnshuffle(self.input_multiple)
        return [
            head,
            self.conv_first,
            self.body,
            self.conv_body,
            *self._ups(),
            self.conv_hr,
            self.conv_last,
        ]


def _initialise(body: nn.Module) -> None:
    # a tenth of Kaiming's deviation in the dense blocks, zero biases: ESRGAN's start; a meta tensor has
    # nothing to fill, and filling it would import the compiler
    for conv in body.modules():
        if isinstance(conv, nn.Conv2d) and not conv.weight.is_meta:
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(0.1)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
