# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers over sr_kernels.ops; parameters are named and initialised as torch.nn's."""

from sr_kernels.nn.blocks import RRDB, ResidualBlock, ResidualDenseBlock
from sr_kernels.nn.conv import (
    ConvAct2d,
    ConvTransposeAct2d,
    PixelShuffleConv2d,
    ResidualConv2d,
    UpsampleConv2d,
)
from sr_kernels.nn.graphed import Graphed
from sr_kernels.nn.sequential import FusedSequential

__all__ = [
    "RRDB",
    "ConvAct2d",
    "ConvTransposeAct2d",
    "FusedSequential",
    "Graphed",
    "PixelShuffleConv2d",
    "ResidualBlock",
    "ResidualConv2d",
    "ResidualDenseBlock",
    "UpsampleConv2d",
]
