# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What every super-resolution model has: its scale, its channels, its receptive radius, its checks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sr_kernels.backends.base import memory_format_of, with_format
from sr_kernels.nn.checks import check_picture
from sr_kernels.nn.geometry import receptive_radius


class SRModel(nn.Module):
    """(N, in_channels, H, W) in [0, 1] -> (N, out_channels, scale*H, scale*W), the caller's memory format.

    Computes in channels_last; the input is converted once. Raises TypeError for an input that is no floating
    tensor or has not the weights' dtype or device, ValueError for a wrong rank, channel count or empty plane.
    """

    scale: int
    in_channels: int
    out_channels: int
    input_multiple: int = 1  # tile origins must be multiples of it (pixel-unshuffle heads)

    def forward(self, input: Tensor) -> Tensor:
        check_picture(type(self).__name__, input, self.in_channels, next(self.parameters()))
        # with_format and not .contiguous(): a picture of one channel must carry channels_last strides too,
        # or every layer behind it would answer in the contiguous format.
        y = self._enlarge(with_format(input, torch.channels_last))
        return with_format(y, memory_format_of(input))

    def _enlarge(self, x: Tensor) -> Tensor:
        """The network itself, channels_last in and out."""
        raise NotImplementedError

    def stages(self) -> Sequence[nn.Module]:
        """The modules of the longest path, in order: what receptive_radius walks."""
        raise NotImplementedError

    def receptive_radius(self) -> int:
        """Input pixels to each side of pixel o // scale that output pixel o reads: a tile's exact halo."""
        return receptive_radius(self.stages(), self.scale, self.scale * self.input_multiple)


def reflected(start: int, stop: int, length: int, device: torch.device | None = None) -> Tensor:
    """The positions in [0, length) that stand for start .. stop - 1 (start >= 0), int64: what lies beyond the
    end is reflected without the border pixel, back and forth; a single pixel is repeated.

    How a picture is brought to a model's `input_multiple`, each axis by itself.
    """
    period = max(2 * (length - 1), 1)
    positions = torch.arange(start, stop, device=device) % period
    return torch.minimum(positions, period - positions)


def padded(x: Tensor, multiple: int) -> Tensor:
    """(N, C, H, W) with its right and bottom borders reflected up to the multiple, channels_last."""
    for axis in (2, 3):
        length = x.shape[axis]
        if length % multiple:
            x = x.index_select(axis, reflected(0, length + -length % multiple, length, x.device))
    return with_format(x, torch.channels_last)
