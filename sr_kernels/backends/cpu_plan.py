# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a call of a native convolution needs, made once for all calls of the same shapes and settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import sr_kernels._C as _C
from sr_kernels.backends import cpu_pack
from sr_kernels.backends.base import ConvArgs, dense_strides, pixel_major
from sr_kernels.backends.cpu_pack import Kernel
from sr_kernels.backends.params import DTYPES as DTYPES
from sr_kernels.backends.params import conv_params
from sr_kernels.backends.phases import phases
from sr_kernels.backends.registry import record

# Bytes of a result that would not be in the caches any more when it is read.
_STREAM = 8 << 20
_SERIAL_FLOPS = 2_000_000  # below this, waking a second thread costs more than it saves
_ALL_THREADS = 1 << 30


class ConvPlan:
    """A convolution but for its addresses: all that shapes, strides, numbers, precision and instruction set
    decide. It is not written to, so that threads can share it."""

    def __init__(self, a: ConvArgs, y: Tensor, kernel: Kernel, name: str, chain: int) -> None:
        """y: any tensor of the result's shape (N, Co/r^2, Ho*r, Wo*r) and strides, each pixel's channels side
        by side. name: what is recorded. chain: see ConvParams in csrc/params.h."""
        self.kernel = kernel
        self.name = name
        self.settings = a.pixel_shuffle, a.upsample, a.padding[2], a.padding[0]
        self.steps: list[_C.ConvParams] = []
        if y.numel() == 0:
            return
        co, ci, kh, kw = a.weight.shape
        oh, ow = a.conv_size()
        aligned = all(stride % kernel.lanes == 0 for stride in y.stride() if stride > 1)
        streams = kernel.kind in ("winograd", "bf16") and a.input.dtype == torch.float32 and aligned
        serial = 2 * a.input.shape[0] * oh * ow * co * ci * kh * kw < _SERIAL_FLOPS
        for phase in phases(kh, kw, *self.settings[1:]):
            p = conv_params(_C, a, y, phase, _strides)
            p.kernel = kernel.index
            p.chain = chain
            p.stream = streams and y.numel() * 4 >= _STREAM
            p.threads = 1 if serial else _ALL_THREADS
            self.steps.append(p)

    def packed(self, weight: Tensor, bias: Tensor | None, prelu: Tensor | None) -> list[list[Tensor]]:
        """[weight, bias, PReLU weights, if any] of each step, in the kernel's order."""
        vectors = [cpu_pack.vector(bias, weight.shape[0], self.kernel, self.settings[0])]
        if prelu is not None:
            vectors.append(cpu_pack.vector(prelu, weight.shape[0], self.kernel, self.settings[0]))
        return [[w, *vectors] for w in cpu_pack.weights(weight, self.kernel, *self.settings)]

    def bind(self, a: ConvArgs, y: Tensor) -> tuple[list[_C.ConvParams], list[list[int]], list[Any]]:
        """(steps, the addresses of each, what is to live until they have run), and the kernel recorded."""
        record(self.name)
        if not self.steps:
            return [], [], []
        x = pixel_major(a.input)
        residuals = [pixel_major(residual) for residual, _ in a.residuals]
        base = None if a.base is None else pixel_major(a.base)
        shared = [x.data_ptr(), y.data_ptr(), *(r.data_ptr() for r in residuals), *[0] * (2 - len(residuals))]
        shared.append(0 if base is None else base.data_ptr())
        packed = self.packed(a.weight, a.bias, a.prelu_weight)
        return self.steps, [addresses_of(shared, tensors) for tensors in packed], [x, residuals, base, packed]

    def run(self, a: ConvArgs, y: Tensor) -> None:
        steps, addresses, _alive = self.bind(a, y)
        if steps:
            _C.conv2d_steps(self.kernel.isa, steps, addresses, torch.get_num_threads())


def addresses_of(shared: list[int], packed: list[Tensor]) -> list[int]:
    """Those of x, y, two residuals and base, and of weight, bias and PReLU weights."""
    found = [*shared, *(tensor.data_ptr() for tensor in packed)]
    return found if len(packed) == 3 else [*found, 0]


def _strides(x: Tensor) -> _C.View:
    """A view of x as the kernels will get it, without an address."""
    sn, sc, sy, sx = x.stride()
    if sc != 1 and x.shape[1] != 1:
        sn, _, sy, sx = dense_strides(x.shape, torch.channels_last)
    return _C.View(0, sn, sy, sx)
