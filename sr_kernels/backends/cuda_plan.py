# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a call of a CUDA convolution needs: its kernel, weights in the order that it reads, parameters."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_kernels.backends.base import ConvArgs
from sr_kernels.backends.kept import cached, zeros
from sr_kernels.backends.phases import Phase, channel_order, phases, weights_of_phases
from sr_kernels.reference import ACTIVATIONS, BASE_MODES

T = TypeVar("T")

native: Any = None  # the extension
missing = ""  # or why there is none
try:
    native = importlib.import_module("sr_kernels._cuda")
except ModuleNotFoundError:
    missing = "the CUDA kernels are not in this build: install the CUDA toolkit and install sr_kernels again"
except ImportError as error:
    missing = f"the CUDA extension does not load: {error}"

# In the order of csrc/params.h.
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ACTIVATION = {name: index for index, name in enumerate(ACTIVATIONS)}
_CURVES = ("silu", "gelu", "tanh", "sigmoid")
_THIN = 4  # inputs that are gathered, see conv2d_gathers in csrc/cuda/conv2d_sm80.cu
_PIECE = 8  # elements of 16 bytes


@dataclass(frozen=True, slots=True)
class Kernel:
    """A row of the table of convolution kernels, see csrc/cuda/launch.h."""

    index: int
    name: str
    channels: int
    depth: int
    full: bool


@functools.cache
def kernels() -> tuple[Kernel, ...]:
    """Those of the extension."""
    return tuple(Kernel(i, *row) for i, row in enumerate(native.conv2d_kernels()))


def is_plain(a: ConvArgs) -> bool:
    """Whether kernels that are not `full` finish it."""
    return a.activation not in _CURVES and a.base is None and (a.pixel_shuffle == 1 or not a.residuals)


def choose(co: int, inputs: int, plain: bool, left_out: Sequence[str] = ()) -> Kernel | None:
    """The kernel for `inputs` per tap, all taps of a gathered one; None where none is left.

    Least work first: outputs and inputs padded to whole blocks, for each block of outputs what reading the
    pixels costs, about as much as 16 outputs, and for each step as much as 8 inputs. Then the widest block.
    """
    able = [k for k in kernels() if (plain or k.full) and k.name not in left_out]

    def cost(k: Kernel) -> tuple[float, ...]:
        blocks, steps = math.ceil(co / k.channels), math.ceil(inputs / k.depth)
        return blocks * (k.channels + 16) * steps * (k.depth + 8), -k.channels, k.full

    return min(able, key=cost) if able else None


def place(x: Tensor) -> tuple[int, int]:
    """(device, stream) of a launch on x. On the host, where kernels are emulated, there is one of each."""
    if not x.is_cuda:
        return 0, 0
    return x.device.index, torch.cuda.current_stream(x.device).cuda_stream


def pixel_major(x: Tensor) -> Tensor:
    """x (N, C, H, W) itself where each pixel's channels lie side by side, else a channels_last copy."""
    if x.stride(1) == 1 or x.shape[1] == 1:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def lay_out(x: Tensor) -> Tensor:
    """x as the kernels read it: pixels whose pieces of 16 bytes are aligned, or thin ones."""
    n, c, h, w = x.shape
    if c <= _THIN:
        return pixel_major(x)
    aligned = all(s % _PIECE == 0 for s, size in zip(x.stride(), x.shape, strict=True) if s != 1 and size > 1)
    if x.stride(1) == 1 and aligned and x.data_ptr() % 16 == 0:
        return x
    wide = x.new_empty((n, h, w, c + -c % _PIECE)).permute(0, 3, 1, 2)
    return wide[:, :c].copy_(x)


def _vector(x: Tensor | None, like: Tensor, co: int, kernel: Kernel, shuffle: int) -> Tensor:
    """Bias or PReLU weights (Co,) or (1,), float32, in packed order, padded to whole blocks with zeros."""
    padding = -co % kernel.channels
    if x is None:
        return zeros(co + padding, like.device)

    def make() -> Tensor:
        return F.pad(channel_order(x.detach().float().expand(co), shuffle), (0, padding)).contiguous()

    return cached(x, ("cuda vector", co, kernel.channels, shuffle), make)


def pack(w: Tensor, kernel: Kernel, gathers: bool, shuffle: int) -> Tensor:
    """w (Co, Ci, kh, kw) in the kernel's order, see csrc/cuda/launch.h."""
    w = channel_order(w, shuffle)
    w = w.permute(0, 2, 3, 1).flatten(1)[..., None] if gathers else w.flatten(2)  # (Co, k, taps)
    w = F.pad(w, (0, 0, 0, -w.shape[1] % kernel.depth, 0, -w.shape[0] % kernel.channels))
    w = w.unflatten(1, (-1, kernel.depth)).unflatten(0, (-1, kernel.channels))
    return w.permute(0, 2, 4, 1, 3).contiguous()


class ConvPlan:
    """A convolution but for its addresses: all that shapes, strides and numbers decide. Not written to."""

    def __init__(self, a: ConvArgs, x: Tensor, y: Tensor, left_out: Sequence[str] = ()) -> None:
        """x: a.input as laid out; residuals and base pixel-major. y: of the result's shape and strides."""
        co, ci, kh, kw = a.weight.shape
        oh, ow = a.conv_size()
        n, _, h, w = x.shape
        left, _, top, _ = a.padding
        self.settings = a.pixel_shuffle, a.upsample, top, left
        self.steps: list[Any] = []
        self.gathers: list[bool] = []
        self.phases: list[Phase] = phases(kh, kw, a.upsample, top, left)
        for phase in self.phases:
            p = native.ConvParams()
            p.x, p.y = _view(x), _view(y)
            p.set_input(n, h, w, ci)
            weights = [0.0, 0.0]
            for i, (residual, weight) in enumerate(a.residuals):
                setattr(p, "res2" if i else "res1", _view(residual))
                weights[i] = weight
            if a.base is not None:
                p.base = _view(a.base)
                bh, bw = a.base.shape[2:]
                p.set_base(1 + BASE_MODES.index(a.base_mode), y.shape[2] // bh, bh, bw)
            act = _ACTIVATION[a.activation]
            p.set_epilogue(act, a.activation_after_add, a.negative_slope, a.scale, *weights, a.pixel_shuffle)
            p.set_window(phase.kh, phase.kw, *a.stride, *a.dilation, phase.top, phase.left)
            p.set_phase(a.upsample, phase.y, phase.x)
            p.set_output(-((phase.y - oh) // a.upsample), -((phase.x - ow) // a.upsample), co)
            p.dtype = DTYPES[x.dtype]
            self.steps.append(p)
            self.gathers.append(native.conv2d_gathers(p))
        first = self.phases[0]
        kernel = choose(co, ci * first.kh * first.kw if self.gathers[0] else ci, is_plain(a), left_out)
        assert kernel is not None, "see CudaBackend.reasons"
        self.kernel = kernel
        for p in self.steps:
            p.kernel = kernel.index

    def packed(self, a: ConvArgs) -> list[Tensor]:
        """The weights of each step."""
        shuffle, upsample, top, left = self.settings

        def make() -> list[Tensor]:
            parts = weights_of_phases(a.weight.detach().float(), upsample, top, left)
            return [
                pack(part, self.kernel, gathers, shuffle).to(a.weight.dtype)
                for part, gathers in zip(parts, self.gathers, strict=True)
            ]

        return cached(a.weight, ("cuda weights", self.kernel, tuple(self.gathers), *self.settings), make)

    def run(self, a: ConvArgs, x: Tensor, y: Tensor) -> None:
        """Launches it on tensors like those that it was planned for."""
        co, shuffle = a.weight.shape[0], self.settings[0]
        residuals = [residual.data_ptr() for residual, _ in a.residuals]
        shared = [x.data_ptr(), y.data_ptr(), *residuals, *[0] * (2 - len(residuals))]
        shared.append(0 if a.base is None else a.base.data_ptr())
        bias = _vector(a.bias, a.weight, co, self.kernel, shuffle)
        prelu = None
        if a.prelu_weight is not None:
            prelu = _vector(a.prelu_weight, a.weight, co, self.kernel, shuffle)
        rest = [bias.data_ptr(), 0 if prelu is None else prelu.data_ptr()]
        packed = self.packed(a)
        native.conv2d_steps(*place(x), self.steps, [[*shared, w.data_ptr(), *rest] for w in packed])


def _view(x: Tensor) -> Any:
    sn, _, sy, sx = x.stride()
    return native.View(0, sn, sy, sx)
