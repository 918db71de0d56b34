# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a launch of the convolution needs: decided once by shapes and numbers, then bound to tensors."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from sr_kernels import config
from sr_kernels.backends.base import ConvArgs
from sr_kernels.backends.kept import cached
from sr_kernels.backends.phases import channel_order, phases, weights_of_phases
from sr_kernels.backends.registry import record
from sr_kernels.backends.triton import configs
from sr_kernels.backends.triton.kernels.conv import conv2d_kernel

INTERPRETED = triton.knobs.runtime.interpret
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_WINDOW_INPUTS = 8  # up to so many, taps and channels together are the inner dimension
_INT32 = 2**31 - 1


def pixel_major(x: Tensor) -> Tensor:
    """x (N, C, H, W) itself where each pixel's channels lie side by side, else a channels_last copy."""
    if x.stride(1) == 1 or x.shape[1] == 1:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def strides(x: Tensor) -> tuple[int, int, int]:
    """(sample, row, pixel) of a pixel-major tensor, in elements."""
    return x.stride(0), x.stride(2), x.stride(3)


def unit(x: Tensor) -> int:
    """The largest divisor, up to 16 bytes, of all strides: what epilogue.py calls V."""
    return math.gcd(16 // x.element_size(), *strides(x))


@functools.cache
def chip(index: int) -> str:
    """The device's chip, such as "sm_90" or "gfx942"."""
    if INTERPRETED:
        return "interpreter"
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@functools.cache
def device_key(index: int) -> str:
    """What the user's table is kept under: another driver or triton may want another choice."""
    if INTERPRETED:
        return "interpreter"
    driver = torch._C._cuda_getDriverVersion() if hasattr(torch._C, "_cuda_getDriverVersion") else "unknown"
    return f"{torch.cuda.get_device_name(index)} | {driver} | triton {triton.__version__}"


def has_boxes(index: int) -> bool:
    """Whether tensor descriptors are read by hardware there."""
    name = chip(index)
    return name == "interpreter" or (name.startswith("sm_") and int(name[3:]) >= 90)


def takes_boxes(x: Tensor) -> bool:
    """Whether a tensor descriptor can describe x, pixel-major."""
    size = x.element_size()
    aligned = x.data_ptr() % 16 == 0 and all(s * size % 16 == 0 for s in strides(x))
    return aligned and x.numel() > 0


def device_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device: makes it x's."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def load_of(a: ConvArgs) -> str:
    """How the input is read, see kernels/conv.py; by shapes and strides alone, but for the alignment of x."""
    if a.weight.shape[1] <= _WINDOW_INPUTS:
        return "window"
    index = a.input.device.index or 0
    x = a.input if a.input.stride(1) == 1 else None  # a copy is aligned where its channels are
    fits = takes_boxes(x) if x is not None else a.input.shape[1] * a.input.element_size() % 16 == 0
    return "boxes" if max(a.stride) == 1 and fits and has_boxes(index) else "pointers"


def layer_of(a: ConvArgs, load: str) -> configs.Layer:
    """The key of a convolution."""
    co, ci, kh, kw = a.weight.shape
    return configs.Layer(load, ci, co, kh, kw, max(a.stride), a.input.element_size())


def choose(a: ConvArgs, load: str) -> configs.Config:
    """The configuration in force for these arguments."""
    index = a.input.device.index or 0
    return configs.choose(layer_of(a, load), chip(index), device_key(index))


def precision_of(dtype: torch.dtype) -> str:
    """Of a product's operands: exact float32 unless "medium" is in force and torch allows TF32."""
    tf32 = dtype == torch.float32 and config.get_precision() == "medium" and torch.backends.cudnn.allow_tf32
    return "tf32" if tf32 else "ieee"


def _packed_vector(x: Tensor | None, co: int, padded: int, shuffle: int, like: Tensor) -> Tensor:
    """Bias or PReLU weights (Co,) or (1,) as (padded,) float32 in packed order."""
    if x is None:
        return _zeros(padded, like.device)

    def make() -> Tensor:
        y = channel_order(x.detach().float().expand(co), shuffle)
        return F.pad(y, (0, padded - co)).contiguous()

    return cached(x, ("triton vector", co, padded, shuffle), make)


@functools.cache
def _zeros(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.zeros(count, device=device)


def _packed_weights(a: ConvArgs, load: str, c: configs.Config) -> list[Tensor]:
    """Of each phase: (taps*COP, CIP), or (COP, CIP) for "window", zeros where channels are padded."""
    s, u, top, left = a.pixel_shuffle, a.upsample, a.padding[2], a.padding[0]

    def pack(w: Tensor) -> Tensor:
        w = channel_order(w, s).permute(2, 3, 0, 1)  # (kh, kw, Co, Ci)
        if load == "window":
            w = w.permute(2, 0, 1, 3).flatten(1).unsqueeze(0)  # (1, Co, taps*Ci)
        else:
            w = w.flatten(0, 1)
        w = F.pad(w, (0, -w.shape[-1] % c.bk, 0, -w.shape[-2] % c.bn))
        return w.flatten(0, 1).contiguous()

    def make() -> list[Tensor]:
        return [pack(w) for w in weights_of_phases(a.weight.detach(), u, top, left)]

    return cached(a.weight, ("triton", load, s, u, top, left, c.bk, c.bn), make)


class ConvPlan:
    """A convolution but for its tensors. It is not written to, so that threads share it."""

    def __init__(self, a: ConvArgs, y: Tensor, load: str = "", c: configs.Config | None = None) -> None:
        """y: the result (N, Co/r^2, Ho*r, Wo*r) or any tensor of its shape and strides, pixel-major."""
        self.load = load or load_of(a)
        self.config = c or choose(a, self.load)
        self.name = f"triton/conv2d_{self.load}/{self._tile()}"
        self.phases = phases(a.weight.shape[2], a.weight.shape[3], a.upsample, a.padding[2], a.padding[0])
        self.precision = precision_of(a.input.dtype)

    def _tile(self) -> str:
        c = self.config
        return f"{c.th}x{c.tw}x{c.bn}{'t' if c.swap else ''}"

    def run(self, a: ConvArgs, y: Tensor, x2: Tensor | None = None) -> None:
        """The op into y; x2: channels that follow those of a.input in a.weight, read by "boxes" alone."""
        if y.numel() == 0:
            return record(self.name)
        x = pixel_major(a.input)
        if self.load == "boxes" and not takes_boxes(x):
            return ConvPlan(a, y, "pointers").run(a, y)
        record(self.name)
        with device_of(x):
            self._launch(a, x, x2, y)

    def _launch(self, a: ConvArgs, x: Tensor, x2: Tensor | None, y: Tensor) -> None:
        c, s = self.config, a.pixel_shuffle
        co, ci, _, _ = a.weight.shape
        cop = co + -co % c.bn
        bias = _packed_vector(a.bias, co, cop, s, a.weight)
        prelu = bias if a.prelu_weight is None else _packed_vector(a.prelu_weight, co, cop, s, a.weight)
        residuals = [(pixel_major(r), weight) for r, weight in a.residuals]
        (r1, b1), (r2, b2) = [*residuals, (y, 0.0), (y, 0.0)][:2]
        base = y if a.base is None else pixel_major(a.base)
        mode = "none" if a.base is None else "same" if a.base_mode == "none" else a.base_mode
        factor = y.shape[2] // base.shape[2]
        vx, vy, vr1, vr2, vb = unit(x), unit(y), unit(r1), unit(r2), unit(base)
        n, h, w = x.shape[0], x.shape[2], x.shape[3]
        oh_all, ow_all = a.conv_size()
        for phase, weights in zip(self.phases, _packed_weights(a, self.load, c), strict=True):
            oh = -((phase.y - oh_all) // a.upsample)
            ow = -((phase.x - ow_all) // a.upsample)
            if oh <= 0 or ow <= 0:
                continue
            tiles_y, tiles_x = -(-oh // c.th), -(-ow // c.tw)
            cip = weights.shape[1]
            source: list[Any] = [x, x]
            packed: Any = weights
            if self.load == "boxes":
                boxes = [x, x if x2 is None else x2]
                source = [_boxes(t, c) for t in boxes]
                packed = TensorDescriptor(weights, list(weights.shape), [cip, 1], [c.bn, c.bk])
            conv2d_kernel[(tiles_y * tiles_x * n * (cop // c.bn),)](
                *source,
                *(d // vx for d in strides(x)), h, w,
                packed, phase.top, phase.left, oh, ow, tiles_y, tiles_x,
                bias, prelu, float(a.negative_slope), float(a.scale),
                r1, *(d // vr1 for d in strides(r1)), float(b1),
                r2, *(d // vr2 for d in strides(r2)), float(b2),
                base, *(d // vb for d in strides(base)), base.shape[2], base.shape[3],
                y, *(d // vy for d in strides(y)),
                CI=ci, CI1=x.shape[1], CIP=cip, CO=co, COP=cop, KH=phase.kh, KW=phase.kw,
                SY=a.stride[0], SX=a.stride[1], DY=a.dilation[0], DX=a.dilation[1], VX=vx,
                ACT=a.activation, AFTER=a.activation_after_add, RESIDUALS=len(residuals), S=s, BASE=mode,
                FACTOR=factor, STEP=a.upsample, PY=phase.y, PX=phase.x,
                VY=vy, VR1=vr1, VR2=vr2, VB=vb, DENSE=y.stride(3) == co // (s * s),
                LOAD=self.load, PRECISION=self.precision,
                TH=c.th, TW=c.tw, BN=c.bn, BK=c.bk, SWAP=c.swap, STAGES=c.stages,
                num_warps=c.warps, num_stages=c.stages,
            )  # fmt: skip


def _boxes(x: Tensor, c: configs.Config) -> TensorDescriptor:
    """x (N, C, H, W), pixel-major, read by boxes of th x tw pixels and bk channels."""
    n, channels, h, w = x.shape
    return TensorDescriptor(x, [n, h, w, channels], [*strides(x), 1], [1, c.th, c.tw, c.bk])


def reach(x: Tensor, rows: int, columns: int) -> int:
    """The largest offset within a tile of so many rows and columns of x, in elements."""
    _, sy, sx = strides(x) if x.stride(1) == 1 else (0, x.shape[3] * x.shape[1], x.shape[1])
    return rows * sy + columns * sx + x.shape[1]


def overflows(tensors: Sequence[Tensor], rows: int, columns: int) -> bool:
    """Whether an offset within a tile does not fit in 32 bits, which kernels count in."""
    return any(reach(t, rows, columns) > _INT32 for t in tensors)
