# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The networks as a user of PyTorch alone writes them, with the same state dicts as sr_kernels.models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_kernels.models import EDSR as OurEDSR
from sr_kernels.models import SRModel, SRVGGNetCompact
from sr_kernels.models.detect import detect
from sr_kernels.models.factory import MODELS


def conv(ci: int, co: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(ci, co, kernel, padding=kernel // 2)


class SRVGG(nn.Module):
    """SRVGGNetCompact of Real-ESRGAN: pixel_shuffle(body(x)) + nearest(x)."""

    def __init__(
        self,
        scale: int = 4,
        channels: int = 3,
        num_feat: int = 64,
        num_conv: int = 16,
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = []
        for ci, co in pairwise([channels] + [num_feat] * (num_conv + 1)):
            layers += [conv(ci, co), _activation(activation, co)]
        self.body = nn.Sequential(*layers, conv(num_feat, channels * scale**2))

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(x), self.scale) + self.base(x)

    def base(self, x: Tensor) -> Tensor:
        """What the network adds to."""
        return F.interpolate(x, scale_factor=self.scale, mode="nearest")


def _activation(name: str, channels: int) -> nn.Module:
    return {"prelu": nn.PReLU(channels), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.1)}[name]


class ESPCN(nn.Module):
    """Shi et al. 2016."""

    def __init__(self, scale: int = 3, channels: int = 1, features: Sequence[int] = (64, 32)) -> None:
        super().__init__()
        first, second = features
        self.first_part = nn.Sequential(conv(channels, first, 5), nn.Tanh(), conv(first, second), nn.Tanh())
        self.last_part = nn.Sequential(conv(second, channels * scale**2), nn.PixelShuffle(scale))

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
    """EDSR's block."""

    def __init__(self, channels: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1, self.conv2 = conv(channels, channels), conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        return x + y if self.res_scale == 1.0 else x + y * self.res_scale


class EDSR(nn.Module):
    """Lim et al. 2017."""

    mean: Tensor

    def __init__(
        self,
        scale: int = 4,
        channels: int = 3,
        num_feat: int = 64,
        num_block: int = 16,
        res_scale: float = 1.0,
        rgb_mean: Sequence[float] = (0.4488, 0.4371, 0.4040),
        image_range: float = 255.0,
    ) -> None:
        super().__init__()
        self.image_range = image_range
        self.register_buffer("mean", torch.tensor(rgb_mean).view(1, -1, 1, 1), persistent=False)
        self.conv_first = conv(channels, num_feat)
        self.body = nn.Sequential(*(ResidualBlock(num_feat, res_scale) for _ in range(num_block)))
        self.conv_after_body = conv(num_feat, num_feat)
        factors = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        steps = [part for f in factors for part in (conv(num_feat, f * f * num_feat), nn.PixelShuffle(f))]
        self.upsample = nn.Sequential(*steps)
        self.conv_last = conv(num_feat, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first((x - self.mean) * self.image_range)
        x = self.conv_after_body(self.body(x)) + x
        return self.conv_last(self.upsample(x)) / self.image_range + self.mean


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
    """ESRGAN's network (Wang et al. 2018); the input's sides are multiples of `unshuffle`."""

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
        self.unshuffle = {1: 4, 2: 2}.get(scale, 1) if unshuffle is None else unshuffle
        self.conv_first = conv(in_channels * self.unshuffle**2, num_feat)
        self.body = nn.Sequential(*(RRDB(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = conv(num_feat, num_feat)
        self.ups: list[str] = []
        for i in range((scale * self.unshuffle).bit_length() - 1):
            self.ups.append(f"conv_up{i + 1}")
            self.add_module(self.ups[-1], conv(num_feat, num_feat))
        self.conv_hr, self.conv_last = conv(num_feat, num_feat), conv(num_feat, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(x, self.unshuffle)
        x = self.conv_first(x)
        x = x + self.conv_body(self.body(x))
        for name in self.ups:
            up = self.get_submodule(name)
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
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
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


def of(model: SRModel) -> nn.Module:
    """The plain form of one of sr_kernels.models, its weights copied, for inference.

    Raises TypeError for any other model.
    """
    name = next((name for name, kind in MODELS.items() if type(model) is kind), None)
    if name is None:
        raise TypeError(f"{type(model).__name__} has no plain form; give a model of sr_kernels.models")
    found = detect(model.state_dict())
    sizes = {**found.sizes, **_told_by(model)}
    network = NETWORKS[name](**sizes)
    network.load_state_dict(model.state_dict())
    return frozen(network)


def _told_by(model: Any) -> dict[str, Any]:
    """The arguments that the weights do not tell."""
    told: dict[str, Any] = {"scale": model.scale}
    if isinstance(model, SRVGGNetCompact):
        activations = {nn.PReLU: "prelu", nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu"}
        told["activation"] = activations[type(model.body[1])]
    if isinstance(model, OurEDSR):
        block: Any = model.body[0]
        told["res_scale"] = block.conv2.scale
        told["rgb_mean"], told["image_range"] = model.mean.tolist(), model.image_range
    return told
