# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Where tiles are read from and written to: arrays of pixels or of floats, and tensors.

A canvas never converts more than the window that is asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sr_kernels import ops
from sr_kernels.models.base import reflected

_TORCH_DTYPE = {np.dtype(np.uint8): torch.uint8, np.dtype(np.uint16): torch.uint16}


class Canvas:
    """`count` pictures of one size; windows come as floats (1, C, h, w), full scale = 1, and the enlarged
    parts go to an output that `begin` makes."""

    count: int
    channels: int
    height: int
    width: int
    is_tensor = False

    def begin(self, scale: int) -> None:
        """Make the output, every pixel of which is to be written."""
        raise NotImplementedError

    def read(self, index: int, top: int, bottom: int, left: int, right: int) -> Tensor:
        """The window [top, bottom) x [left, right) of picture `index`; what lies beyond the bottom and
        right borders is reflected."""
        raise NotImplementedError

    def write(self, index: int, top: int, left: int, part: Tensor) -> None:
        """Put (1, C, h, w) at (top, left) of the output; what passes its borders is dropped."""
        raise NotImplementedError

    def result(self) -> Any:
        """The output, of the input's kind."""
        raise NotImplementedError


class ArrayCanvas(Canvas):
    """One (H, W, C) array: uint8 or uint16 at full scale, or floats in [0, 1]."""

    count = 1

    def __init__(self, array: np.ndarray, device: torch.device) -> None:
        self.array = array
        self.device = device
        self.height, self.width, self.channels = array.shape
        self.integers = array.dtype.kind == "u"

    def begin(self, scale: int) -> None:
        shape = (self.height * scale, self.width * scale, self.channels)
        self.output = np.empty(shape, self.array.dtype.newbyteorder("="))

    def read(self, index: int, top: int, bottom: int, left: int, right: int) -> Tensor:
        rows, columns = _positions(top, bottom, self.height), _positions(left, right, self.width)
        window = np.array(self.array[rows][:, columns], self.output.dtype, order="C")
        pixels = torch.from_numpy(window).to(self.device)
        if self.integers:
            return ops.image_to_float(pixels)
        return _computable(pixels).permute(2, 0, 1).unsqueeze(0)

    def write(self, index: int, top: int, left: int, part: Tensor) -> None:
        part = part[:, :, : self.output.shape[0] - top, : self.output.shape[1] - left]
        if self.integers:
            pixels = ops.float_to_image(part, _TORCH_DTYPE[self.output.dtype])
        else:
            pixels = part[0].permute(1, 2, 0)
        height, width = pixels.shape[:2]
        self.output[top : top + height, left : left + width] = pixels.cpu().numpy()

    def result(self) -> np.ndarray:
        return self.output


class TensorCanvas(Canvas):
    """An (N, C, H, W) floating-point tensor in [0, 1]."""

    is_tensor = True

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.images = images.detach()
        self.device = device
        self.count, self.channels, self.height, self.width = images.shape

    def begin(self, scale: int) -> None:
        shape = (self.count, self.channels, self.height * scale, self.width * scale)
        self.output = torch.empty(shape, dtype=self.images.dtype, device=self.images.device)

    def read(self, index: int, top: int, bottom: int, left: int, right: int) -> Tensor:
        rows, columns = _positions(top, bottom, self.height), _positions(left, right, self.width)
        return _computable(self.images[index : index + 1][:, :, rows][:, :, :, columns].to(self.device))

    def write(self, index: int, top: int, left: int, part: Tensor) -> None:
        part = part[:, :, : self.output.shape[2] - top, : self.output.shape[3] - left]
        height, width = part.shape[2:]
        self.output[index, :, top : top + height, left : left + width] = part[0].to(self.output)

    def result(self) -> Tensor:
        return self.output


def _computable(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _positions(start: int, stop: int, length: int) -> Any:
    """A slice or an array, to index either kind of canvas with."""
    return slice(start, stop) if stop <= length else reflected(start, stop, length).numpy()
