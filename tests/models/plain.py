# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The networks once more, in plain torch.nn and F calls, with the canonical state dicts; small by default."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def conv3(ci: int, co: int) -> nn.Conv2d:
    return nn.Conv2d(ci, co, 3, 1, 1)


class SRVGG(nn.Module):
    def __init__(self, scale=4, channels=3, num_feat=64, num_conv=16, activation="prelu"):
        super().__init__()
        self.scale = scale
        acts = {
            "prelu": lambda: nn.PReLU(num_feat),
            "relu": nn.ReLU,
            "leaky_relu": lambda: nn.LeakyReLU(0.1),
        }
        self.body = nn.ModuleList([conv3(channels, num_feat), acts[activation]()])
        for _ in range(num_conv):
            self.body.extend([conv3(num_feat, num_feat), acts[activation]()])
        self.body.append(conv3(num_feat, channels * scale**2))

    def forward(self, x):
        y = x
        for layer in self.body:
            y = layer(y)
        return F.pixel_shuffle(y, self.scale) + F.interpolate(x, scale_factor=self.scale, mode="nearest")


class ESPCN(nn.Module):
    def __init__(self, scale=3, channels=1, features=(64, 32)):
        super().__init__()
        self.first_part = nn.Sequential(
            nn.Conv2d(channels, features[0], 5, padding=2), nn.Tanh(), conv3(*features), nn.Tanh()
        )
        self.last_part = nn.Sequential(conv3(features[1], channels * scale**2), nn.PixelShuffle(scale))

    def forward(self, x):
        return self.last_part(self.first_part(x))


class FSRCNN(nn.Module):
    def __init__(self, scale=3, channels=1, d=56, s=12, m=4):
        super().__init__()
        self.first_part = nn.Sequential(nn.Conv2d(channels, d, 5, padding=2), nn.PReLU(d))
        middle = [nn.Conv2d(d, s, 1), nn.PReLU(s)]
        for _ in range(m):
            middle.extend([conv3(s, s), nn.PReLU(s)])
        middle.extend([nn.Conv2d(s, d, 1), nn.PReLU(d)])
        self.mid_part = nn.Sequential(*middle)
        self.last_part = nn.ConvTranspose2d(d, channels, 9, scale, 4, scale - 1)

    def forward(self, x):
        return self.last_part(self.mid_part(self.first_part(x)))


class EDSRBlock(nn.Module):
    def __init__(self, num_feat, res_scale):
        super().__init__()
        self.conv1, self.conv2, self.res_scale = (
            conv3(num_feat, num_feat),
            conv3(num_feat, num_feat),
            res_scale,
        )

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x))) * self.res_scale


class EDSR(nn.Module):
    def __init__(self, scale=4, channels=3, num_feat=64, num_block=16, res_scale=1.0):
        super().__init__()
        mean = (0.4488, 0.4371, 0.4040) if channels == 3 else (0.0,) * channels
        self.mean = torch.tensor(mean).view(1, channels, 1, 1)  # float32, as BasicSR
        self.conv_first = conv3(channels, num_feat)
        self.body = nn.Sequential(*[EDSRBlock(num_feat, res_scale) for _ in range(num_block)])
        self.conv_after_body = conv3(num_feat, num_feat)
        factors = {2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}[scale]
        self.upsample = nn.Sequential()
        for f in factors:
            self.upsample.append(conv3(num_feat, num_feat * f * f))
            self.upsample.append(nn.PixelShuffle(f))
        self.conv_last = conv3(num_feat, channels)

    def forward(self, x):
        mean = self.mean.to(x.dtype)
        x = self.conv_first((x - mean) * 255)
        x = self.conv_after_body(self.body(x)) + x
        return self.conv_last(self.upsample(x)) / 255 + mean


class DenseBlock(nn.Module):
    def __init__(self, num_feat, growth):
        super().__init__()
        self.conv1 = conv3(num_feat, growth)
        self.conv2 = conv3(num_feat + growth, growth)
        self.conv3 = conv3(num_feat + 2 * growth, growth)
        self.conv4 = conv3(num_feat + 3 * growth, growth)
        self.conv5 = conv3(num_feat + 4 * growth, num_feat)

    def forward(self, x):
        x1 = F.leaky_relu(self.conv1(x), 0.2)
        x2 = F.leaky_relu(self.conv2(torch.cat([x, x1], 1)), 0.2)
        x3 = F.leaky_relu(self.conv3(torch.cat([x, x1, x2], 1)), 0.2)
        x4 = F.leaky_relu(self.conv4(torch.cat([x, x1, x2, x3], 1)), 0.2)
        return self.conv5(torch.cat([x, x1, x2, x3, x4], 1)) * 0.2 + x


class RRDB(nn.Module):
    def __init__(self, num_feat, growth):
        super().__init__()
        self.rdb1 = DenseBlock(num_feat, growth)
        self.rdb2 = DenseBlock(num_feat, growth)
        self.rdb3 = DenseBlock(num_feat, growth)

    def forward(self, x):
        return self.rdb3(self.rdb2(self.rdb1(x))) * 0.2 + x


class RRDBNet(nn.Module):
    """unshuffle: of BasicSR for scale 1 and 2; 1 with a scale of 2 or 8 is the old layout's variety."""

    def __init__(
        self,
        scale=4,
        in_channels=3,
        out_channels=3,
        num_feat=64,
        num_block=23,
        num_grow_ch=32,
        unshuffle=None,
    ):
        super().__init__()
        self.scale = scale
        self.unshuffle = {1: 4, 2: 2}.get(scale, 1) if unshuffle is None else unshuffle
        self.ups = {1: 0, 2: 1, 4: 2, 8: 3}[scale * self.unshuffle]
        self.conv_first = conv3(in_channels * self.unshuffle**2, num_feat)
        self.body = nn.Sequential(*[RRDB(num_feat, num_grow_ch) for _ in range(num_block)])
        self.conv_body = conv3(num_feat, num_feat)
        for i in range(self.ups):
            setattr(self, f"conv_up{i + 1}", conv3(num_feat, num_feat))
        self.conv_hr = conv3(num_feat, num_feat)
        self.conv_last = conv3(num_feat, out_channels)

    def forward(self, x):
        h, w = x.shape[2:]
        if self.unshuffle > 1:
            x = F.pad(x, (0, -w % self.unshuffle, 0, -h % self.unshuffle), mode="reflect")
            x = F.pixel_unshuffle(x, self.unshuffle)
        feat = self.conv_first(x)
        feat = feat + self.conv_body(self.body(feat))
        for i in range(self.ups):
            conv = getattr(self, f"conv_up{i + 1}")
            feat = F.leaky_relu(conv(F.interpolate(feat, scale_factor=2, mode="nearest")), 0.2)
        y = self.conv_last(F.leaky_relu(self.conv_hr(feat), 0.2))
        return y[:, :, : h * self.scale, : w * self.scale]


NETWORKS = {"srvgg": SRVGG, "espcn": ESPCN, "fsrcnn": FSRCNN, "edsr": EDSR, "rrdbnet": RRDBNet}

# name -> the architecture and sizes small enough for tests, yet with every part of the network
SMALL = {
    "srvgg x4": ("srvgg", {"scale": 4, "num_feat": 24, "num_conv": 3}),
    "srvgg x2": ("srvgg", {"scale": 2, "num_feat": 16, "num_conv": 2}),
    "srvgg x3 relu": ("srvgg", {"scale": 3, "num_feat": 13, "num_conv": 1, "activation": "relu"}),
    "srvgg x1 leaky": ("srvgg", {"scale": 1, "num_feat": 8, "num_conv": 1, "activation": "leaky_relu"}),
    "espcn x3": ("espcn", {"scale": 3}),
    "espcn x2 colour": ("espcn", {"scale": 2, "channels": 3, "features": (20, 10)}),
    "fsrcnn x3": ("fsrcnn", {"scale": 3}),
    "fsrcnn x2 small": ("fsrcnn", {"scale": 2, "d": 10, "s": 5, "m": 1}),
    "fsrcnn x4 colour": ("fsrcnn", {"scale": 4, "channels": 3, "d": 16, "s": 6, "m": 2}),
    "edsr x2": ("edsr", {"scale": 2, "num_feat": 16, "num_block": 2}),
    "edsr x3": ("edsr", {"scale": 3, "num_feat": 10, "num_block": 1, "res_scale": 0.1}),
    "edsr x4": ("edsr", {"scale": 4, "num_feat": 16, "num_block": 2, "res_scale": 0.5}),
    "edsr x2 grey": ("edsr", {"scale": 2, "channels": 1, "num_feat": 8, "num_block": 1}),
    "rrdbnet x4": ("rrdbnet", {"scale": 4, "num_feat": 16, "num_block": 2, "num_grow_ch": 8}),
    "rrdbnet x2": ("rrdbnet", {"scale": 2, "num_feat": 12, "num_block": 1, "num_grow_ch": 6}),
    "rrdbnet x1": ("rrdbnet", {"scale": 1, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}),
    "rrdbnet x2 old": (
        "rrdbnet",
        {"scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4, "unshuffle": 1},
    ),
    "rrdbnet x8": ("rrdbnet", {"scale": 8, "num_feat": 8, "num_block": 1, "num_grow_ch": 4, "unshuffle": 1}),
}


def kaiming_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights under which every part of the network shows in its output, unlike the default ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                module.bias.uniform_(-0.1, 0.1, generator=generator)
            elif isinstance(module, nn.PReLU):
                module.weight.uniform_(0.05, 0.5, generator=generator)
    return model


def build(case: str, seed: int = 0) -> nn.Module:
    """The plain network of SMALL[case], Kaiming weights, eval mode."""
    name, sizes = SMALL[case]
    return kaiming_(NETWORKS[name](**sizes), seed).eval()
