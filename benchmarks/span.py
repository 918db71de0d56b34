# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""SPAN (Wan et al. 2024) twice: as a user of PyTorch alone writes it, and by the layers of the library.

The library has no model of that name; the second form says what the first can become at best.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_kernels.nn import ConvAct2d, PixelShuffleConv2d

_MEAN = (0.4488, 0.4371, 0.4040)


class Conv3XC(nn.Module):
    """A 3x3 convolution, trained as 1x1, 3x3 and 1x1 with a 1x1 beside, merged at every call of eval mode."""

    def __init__(self, ci: int, co: int, gain: int = 2) -> None:
        super().__init__()
        self.has_relu = False
        self.sk = nn.Conv2d(ci, co, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(ci, ci * gain, 1), nn.Conv2d(ci * gain, co * gain, 3), nn.Conv2d(co * gain, co, 1)
        )
        self.eval_conv = nn.Conv2d(ci, co, 3, padding=1).requires_grad_(False)

    def update_params(self) -> None:
        """Writes what the parts add up to into eval_conv."""
        ci = self.sk.in_channels
        # the answers to an impulse are the kernel, turned, and to zeros the bias
        impulse = torch.eye(ci, dtype=self.sk.weight.dtype).view(ci, ci, 1, 1)
        bias = self.conv(torch.zeros(1, ci, 3, 3, dtype=impulse.dtype))
        answers = self.conv(F.pad(impulse, (2, 2, 2, 2))) - bias
        kernel = answers.flip(2, 3).transpose(0, 1) + F.pad(self.sk.weight, (1, 1, 1, 1))
        self.eval_conv.weight.data = kernel.detach().contiguous()
        self.eval_conv.bias.data = (bias.flatten() + self.sk.bias).detach()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.conv(F.pad(x, (1, 1, 1, 1))) + self.sk(x)
        self.update_params()
        return self.eval_conv(x)


class _Block(nn.Module):
    """Three convolutions whose result is its own attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.c1_r, self.c2_r, self.c3_r = (Conv3XC(channels, channels) for _ in range(3))
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.c1_r(x)
        last = self.c3_r(self.act(self.c2_r(self.act(first))))
        return (last + x) * (torch.sigmoid(last) - 0.5), first


class SPAN(nn.Module):
    """(N, 3, H, W) to (N, 3, scale*H, scale*W)."""

    def __init__(self, channels: int = 48, scale: int = 4, blocks: int = 6) -> None:
        super().__init__()
        self.conv_1 = Conv3XC(3, channels)
        self.blocks = nn.ModuleList(_Block(channels) for _ in range(blocks))
        self.conv_2 = Conv3XC(channels, channels)
        self.conv_cat = nn.Conv2d(4 * channels, channels, 1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(channels, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        start = self.conv_1(x - self.mean)
        h, firsts, ends = start, [], []
        for block in self.blocks:
            h, first = block(h)
            firsts.append(first)
            ends.append(h)
        return self.upsampler(self.conv_cat(torch.cat([start, self.conv_2(h), ends[0], firsts[-1]], 1)))


class SpanOfOurs(nn.Module):
    """The same network of the library's layers, with the weights of a plain one merged once."""

    def __init__(self, plain: SPAN) -> None:
        super().__init__()
        merged = [module for module in plain.modules() if isinstance(module, Conv3XC)]
        for module in merged:
            module.update_params()
        self.first, self.last = _layer(plain.conv_1, None), _layer(plain.conv_2, None)
        self.blocks = nn.ModuleList(
            nn.ModuleList([_layer(b.c1_r, "silu"), _layer(b.c2_r, "silu"), _layer(b.c3_r, None)])
            for b in plain.blocks
        )
        cat, tail = plain.conv_cat, plain.upsampler[0]
        self.cat = ConvAct2d(cat.in_channels, cat.out_channels, 1)
        self.cat.load_state_dict(cat.state_dict())
        co, ci = tail.weight.shape[:2]
        scale = plain.upsampler[1].upscale_factor
        self.tail = PixelShuffleConv2d(ci, co // scale**2, 3, padding=1, upscale_factor=scale)
        self.tail.load_state_dict(tail.state_dict())
        self.register_buffer("mean", plain.mean)

    def forward(self, x: Tensor) -> Tensor:
        start = h = self.first((x - self.mean).contiguous(memory_format=torch.channels_last))
        ends = []
        for c1, c2, c3 in self.blocks:
            first = c1(h)
            last = c3(c2(first))
            h = (last + h) * (torch.sigmoid(last) - 0.5)
            ends.append(h)
        return self.tail(self.cat(torch.cat([start, self.last(h), ends[0], first], 1)))


def _layer(conv: Conv3XC, activation: str | None) -> ConvAct2d:
    source = conv.eval_conv
    made = ConvAct2d(source.in_channels, source.out_channels, 3, padding=1, activation=activation)
    made.load_state_dict(source.state_dict())
    return made
