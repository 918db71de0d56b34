# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The networks as a user of PyTorch alone writes them, with the same state dicts as sr_kernels.models."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(ci: int, co: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(ci, co, kernel, padding=kernel // 2)


class SRVGG(nn.Module):
    """SRVGGNetCompact of Real-ESRGAN: pixel_shuffle(body(x)) + nearest(x)."""

    def __init__(self, scale: int = 4, channels: int = 3, num_feat: int = 64, num_conv: int = 16) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = []
        for ci, co in pairwise([channels] + [num_feat] * (num_conv + 1)):
            layers += [conv(ci, co), nn.PReLU(co)]
        self.body = nn.Sequential(*layers, conv(num_feat, channels * scale**2))

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.body(x), self.scale)
        return y + F.interpolate(x, scale_factor=self.scale, mode="nearest")


class ESPCN(nn.Module):
    """Shi et al. 2016."""

    def __init__(self, scale: int = 3, channels: int = 1) -> None:
        super().__init__()
        self.first_part = nn.Sequential(conv(channels, 64, 5), nn.Tanh(), conv(64, 32), nn.Tanh())
        self.last_part = nn.Sequential(conv(32, channels * scale**2), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.last_part(self.first_part(x))


class FSRCNN(nn.Module):
    """Dong et al. 2016."""

    def __init__(self, scale: int = 3, channels: int = 1, d: int = 56, s: int = 12, m: int = 4) -> None:
        super().__init__()
        self.first_part = nn.Sequential(conv(channels, d, 5), nn.PReLU(d))
        middle: list[nn.Module] = [conv(d, s, 1), nn.PReLU(s)]
        for _ in range(m):
            middle += [conv(s, s), nn.PReLU(s)]
        self.mid_part = nn.Sequential(*middle, conv(s, d, 1), nn.PReLU(d))
        self.last_part = nn.ConvTranspose2d(d, channels, 9, scale, 4, scale - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last_part(self.mid_part(self.first_part(x)))


class ResidualBlock(nn.Module):
    """EDSR's block without scaling, as in the baseline."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels), conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class EDSR(nn.Module):
    """Lim et al. 2017, scales of two and four."""

    mean: Tensor

    def __init__(self, scale: int = 4, channels: int = 3, num_feat: int = 64, num_block: int = 16) -> None:
        super().__init__()
        self.register_buffer(
            "mean", torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1), persistent=False
        )
        self.conv_first = conv(channels, num_feat)
        self.body = nn.Sequential(*(ResidualBlock(num_feat) for _ in range(num_block)))
        self.conv_after_body = conv(num_feat, num_feat)
        doubling = [
            module for _ in range(scale // 2) for module in (conv(num_feat, 4 * num_feat), nn.PixelShuffle(2))
        ]
        self.upsample = nn.Sequential(*doubling)
        self.conv_last = conv(num_feat, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first((x - self.mean) * 255.0)
        x = self.conv_after_body(self.body(x)) + x
        return self.conv_last(self.upsample(x)) / 255.0 + self.mean


class DenseBlock(nn.Module):
    """ESRGAN's dense block."""

    def __init__(self, channels: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.conv1 = conv(channels, growth)
        self.conv2 = conv(channels + growth, growth)
        self.conv3 = conv(channels + 2 * growth, growth)
        self.conv4 = conv(channels + 3 * growth, growth)
        self.conv5 = conv(channels + 4 * growth, channels)

    def forward(self, x: Tensor) -> Tensor:
        x1 = F.leaky_relu(self.conv1(x), 0.2)
        x2 = F.leaky_relu(self.conv2(torch.cat((x, x1), 1)), 0.2)
        x3 = F.leaky_relu(self.conv3(torch.cat((x, x1, x2), 1)), 0.2)
        x4 = F.leaky_relu(self.conv4(torch.cat((x, x1, x2, x3), 1)), 0.2)
        return self.conv5(torch.cat((x, x1, x2, x3, x4), 1)) * 0.2 + x


class RRDB(nn.Module):
    """Three dense blocks within a residual."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(channels, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.rdb3(self.rdb2(self.rdb1(x))) * 0.2 + x


class RRDBNet(nn.Module):
    """ESRGAN's network for x4 (Wang et al. 2018)."""

    def __init__(
        self, scale: int = 4, num_feat: int = 64, num_block: int = 23, num_grow_ch: int = 32
    ) -> None:
        super().__init__()
        if scale != 4:
            raise ValueError(f"scale is {scale}; the plain RRDBNet is written for 4")
        self.conv_first = conv(3, num_feat)
        self.body = nn.Sequential(*(RRDB(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = conv(num_feat, num_feat)
        self.conv_up1, self.conv_up2 = conv(num_feat, num_feat), conv(num_feat, num_feat)
        self.conv_hr, self.conv_last = conv(num_feat, num_feat), conv(num_feat, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        x = x + self.conv_body(self.body(x))
        for up in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))


NETWORKS: dict[str, type[nn.Module]] = {
    "srvgg": SRVGG,
    "espcn": ESPCN,
    "fsrcnn": FSRCNN,
    "edsr": EDSR,
    "rrdbnet": RRDBNet,
}


def kaiming_(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights under which every layer shows in the output; the default ones almost vanish beside a base."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
                fan_in = part.weight[0].numel() if isinstance(part, nn.Conv2d) else part.weight[:, 0].numel()
                part.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
                if part.bias is not None:
                    part.bias.uniform_(-0.1, 0.1, generator=generator)
            elif isinstance(part, nn.PReLU):
                part.weight.uniform_(0.05, 0.5, generator=generator)
    return module


def frozen(module: nn.Module) -> nn.Module:
    """module for inference: eval mode, no gradients."""
    return module.eval().requires_grad_(False)


def compact_of(model: nn.Module) -> SRVGG:
    """The plain form of an SRVGGNetCompact with PReLU, weights copied."""
    state = model.state_dict()
    kernels = [tensor for tensor in state.values() if tensor.dim() == 4]
    features, channels = kernels[0].shape[:2]
    scale = round((kernels[-1].shape[0] / channels) ** 0.5)
    network = SRVGG(scale, channels, features, len(kernels) - 2)
    network.load_state_dict(state)
    frozen(network)
    return network
