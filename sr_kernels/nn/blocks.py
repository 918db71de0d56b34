# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Blocks of EDSR and ESRGAN, parameters named as in BasicSR."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_kernels import ops
from sr_kernels.nn.checks import check_positive
from sr_kernels.nn.conv import ConvAct2d, Residual, ResidualConv2d, is_plain
from sr_kernels.nn.geometry import residual_range


class ResidualBlock(nn.Module):
    """input + res_scale * conv2(relu(conv1(input))): (N, C, H, W) -> same (EDSR, Lim et al. 2017)."""

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        res_scale: float = 1.0,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_positive("ResidualBlock", channels=channels, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"ResidualBlock: kernel_size is {kernel_size!r}; give an odd integer")
        common: dict[str, Any] = {
            "padding": kernel_size // 2,
            "bias": bias,
            "device": device,
            "dtype": dtype,
        }
        self.conv1 = ConvAct2d(channels, channels, kernel_size, activation="relu", **common)
        self.conv2 = ResidualConv2d(channels, channels, kernel_size, scale=res_scale, **common)

    def forward(self, input: Tensor) -> Tensor:
        return self.conv2(self.conv1(input), input)

    def input_range(self, lo: int, hi: int, axis: int) -> tuple[int, int]:
        return residual_range((self.conv1, self.conv2), lo, hi, axis)


class ResidualDenseBlock(nn.Module):
    """input + scale * conv5 of a growing concatenation, 3x3 (ESRGAN, Wang et al. 2018), as one op.

    (N, channels, H, W) -> same. conv1..conv4 give `growth` channels each, with leaky ReLU.
    forward(input, outer, outer_scale): outer_scale * block(input) + outer, still one op, for RRDB.
    Where a convolution has hooks or a parametrisation, or was replaced by another module, the block calls
    its modules one by one.
    """

    def __init__(
        self,
        channels: int = 64,
        growth: int = 32,
        *,
        negative_slope: float = 0.2,
        scale: float = 0.2,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_positive("ResidualDenseBlock", channels=channels, growth=growth)
        for i in range(5):
            out = channels if i == 4 else growth
            conv = nn.Conv2d(channels + i * growth, out, 3, padding=1, device=device, dtype=dtype)
            self.add_module(f"conv{i + 1}", conv)
        self.negative_slope = float(negative_slope)
        self.scale = float(scale)

    def forward(self, input: Tensor, outer: Residual | None = None, outer_scale: float = 1.0) -> Tensor:
        convs: list[Any] = list(self.children())
        if not all(is_plain(conv) for conv in convs):
            return self._one_by_one(input, convs, outer, outer_scale)
        return ops.dense_block(
            input,
            [conv.weight for conv in convs],
            [conv.bias for conv in convs],
            negative_slope=self.negative_slope,
            scale=self.scale * outer_scale,
            input_scale=outer_scale,
            residual=outer,
        )

    def _one_by_one(
        self, input: Tensor, convs: list[nn.Module], outer: Residual | None, outer_scale: float
    ) -> Tensor:
        features = [input]
        for conv in convs[:-1]:
            features.append(F.leaky_relu(conv(torch.cat(features, 1)), self.negative_slope))
        last = convs[-1](torch.cat(features, 1))
        y = ops.residual_add(last, [(input, outer_scale)], scale=self.scale * outer_scale)
        return y if outer is None else ops.residual_add(y, outer)

    def input_range(self, lo: int, hi: int, axis: int) -> tuple[int, int]:
        return residual_range(self.children(), lo, hi, axis)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}, scale={self.scale}"


class RRDB(nn.Module):
    """input + scale * rdb3(rdb2(rdb1(input))) (ESRGAN): three ops, the last with the outer sum in its store.

    With scale 0.2 throughout the last op computes 0.04 * conv5 + 0.2 * x3 + input.
    """

    def __init__(
        self,
        channels: int = 64,
        growth: int = 32,
        *,
        negative_slope: float = 0.2,
        scale: float = 0.2,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {
            "negative_slope": negative_slope,
            "scale": scale,
            "device": device,
            "dtype": dtype,
        }
        self.rdb1 = ResidualDenseBlock(channels, growth, **options)
        self.rdb2 = ResidualDenseBlock(channels, growth, **options)
        self.rdb3 = ResidualDenseBlock(channels, growth, **options)
        self.scale = float(scale)

    def forward(self, input: Tensor) -> Tensor:
        return self.rdb3(self.rdb2(self.rdb1(input)), outer=input, outer_scale=self.scale)

    def input_range(self, lo: int, hi: int, axis: int) -> tuple[int, int]:
        return residual_range(self.children(), lo, hi, axis)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"
