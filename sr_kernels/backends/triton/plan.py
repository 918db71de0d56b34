# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a launch of the convolution needs: decided once by shapes and numbers, then bound to tensors."""

from __future__ import annotations

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
from sr_kernels.backends import gpu_driver
from sr_kernels.backends.base import ConvArgs, dense_strides, pixel_major
from sr_kernels.backends.kept import cached, zeros
from sr_kernels.backends.phases import channel_order, phases, weights_of_phases
from sr_kernels.backends.registry import record
from sr_kernels.backends.triton import configs
from sr_kernels.backends.triton.configs import power_of_two
from sr_kernels.backends.triton.kernels.conv import conv2d_kernel
from sr_kernels.backends.triton.launch import INTERPRETED, Launch, device_of

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_WINDOW_INPUTS = 8  # up to so many, taps and channels together are the inner dimension
_COLUMNS = 16  # of a product, at least
_MANY_TAPS = 25
_INT32 = 2**31 - 1


def strides(x: Tensor) -> tuple[int, int, int]:
    """(sample, row, pixel) of x, pixel-major or as its copy will have them, in elements."""
    sn, sc, sy, sx = x.stride()
    if sc != 1 and x.shape[1] != 1:
        sn, _, sy, sx = dense_strides(x.shape, torch.channels_last)
    return sn, sy, sx


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
    name = torch.cuda.get_device_name(index)
    return f"{name} | driver {gpu_driver.version()} | triton {triton.__version__}"


def has_boxes(index: int) -> bool:
    """Whether tensor descriptors are read by hardware there."""
    name = chip(index)
    return name == "interpreter" or (name.startswith("sm_") and int(name[3:]) >= 90)


def takes_boxes(x: Tensor, index: int | None = None) -> bool:
    """Whether descriptors are read there and can describe x, pixel-major or as its copy will be, wherever it
    begins: what begins off 16 bytes is copied, see `laid_out`. index: the device, x's own if None."""
    unit = 16 // x.element_size()
    index = x.device.index or 0 if index is None else index
    return has_boxes(index) and all(s and s % unit == 0 for s in strides(x)) and x.numel() > 0


def laid_out(x: Tensor) -> Tensor:
    """x, pixel-major, itself where a descriptor can begin, else a copy whose pixels lie 16 bytes apart."""
    if x.data_ptr() % 16 == 0:
        return x
    n, c, h, w = x.shape
    pitch = c + -c % (16 // x.element_size())
    spaced = x.new_empty_strided(x.shape, dense_strides((n, pitch, h, w), torch.channels_last))
    return spaced.copy_(x)


def load_of(a: ConvArgs) -> str:
    """How the input is read, see kernels/conv.py; by shapes and strides alone."""
    if a.weight.shape[1] <= _WINDOW_INPUTS:
        return "window"
    if max(*a.stride, *a.dilation) == 1 and _few_outputs(a.weight.shape):
        return "taps"
    return "boxes" if max(a.stride) == 1 and takes_boxes(a.input) else "pointers"


def _few_outputs(weight: torch.Size) -> bool:
    """Whether "taps" takes less time: where its products are of the least width, and, up to four times that,
    where many taps would each read every pixel."""
    co, _, kh, kw = weight
    columns = power_of_two(co) * _taps(kw, co)
    return columns <= _COLUMNS or (columns <= 4 * _COLUMNS and kh * kw >= _MANY_TAPS)


def _taps(kw: int, co: int) -> int:
    """The columns that a row's taps take for each output; a product has 16 at least."""
    return max(power_of_two(kw), _COLUMNS // power_of_two(co))


def layer_of(a: ConvArgs, load: str) -> configs.Layer:
    """The key of a convolution."""
    co, ci, kh, kw = a.weight.shape
    return configs.Layer(load, ci, co, kh, kw, max(a.stride), a.input.element_size())


def choose(a: ConvArgs, load: str) -> configs.Config:
    """The configuration in force for these arguments."""
    index = a.input.device.index or 0
    return configs.choose(layer_of(a, load), chip(index), device_key(index))


def precision_of(dtype: torch.dtype) -> str:
    """Of a product's operands: exact float32 unless "medium" is in force and torch allows TF32. Triton's
    interpreter cannot multiply bfloat16: there operands are widened."""
    if dtype == torch.bfloat16 and INTERPRETED:
        return "widened"
    tf32 = dtype == torch.float32 and config.get_precision() == "medium" and _torch_allows_tf32()
    return "tf32" if tf32 else "ieee"


def _torch_allows_tf32() -> bool:
    """In convolutions. Newer PyTorch has a setting for each op; where they differ, the older one raises."""
    conv: Any = getattr(torch.backends.cudnn, "conv", None)
    if hasattr(conv, "fp32_precision"):
        return str(conv.fp32_precision) == "tf32"
    return bool(torch.backends.cudnn.allow_tf32)


def _packed_vector(x: Tensor | None, co: int, padded: int, shuffle: int, like: Tensor) -> Tensor:
    """Bias or PReLU weights (Co,) or (1,) as float32 (padded,) in packed order."""
    if x is None:
        return zeros(padded, like.device)

    def make() -> Tensor:
        y = channel_order(x.detach().float().expand(co), shuffle)
        return F.pad(y, (0, padded - co)).contiguous()

    return cached(x, ("triton vector", co, padded, shuffle), make)


def _packed_weights(a: ConvArgs, load: str, c: configs.Config) -> list[Any]:
    """Of each phase, zeros where channels are padded: (taps*COP, CIP), in boxes for "boxes"; (COP, CIP) for
    "window"; (KH*COP*TAPS, CIP) for "taps"."""
    s, u, top, left = a.pixel_shuffle, a.upsample, a.padding[2], a.padding[0]

    def pack(w: Tensor) -> Any:
        w = channel_order(w, s)
        if load == "taps":
            w = w.permute(2, 0, 3, 1)  # (kh, Co, kw, Ci)
            _, co, kw, ci = w.shape
            w = F.pad(w, (0, -ci % c.bk, 0, _taps(kw, co) - kw, 0, power_of_two(co) - co))
            return w.flatten(0, 2).contiguous()
        w = w.permute(2, 3, 0, 1)  # (kh, kw, Co, Ci)
        if load == "window":
            w = w.permute(2, 0, 1, 3).flatten(1).unsqueeze(0)  # (1, Co, taps*Ci)
        else:
            w = w.flatten(0, 1)
        w = F.pad(w, (0, -w.shape[-1] % c.bk, 0, -w.shape[-2] % c.bn))
        w = w.flatten(0, 1).contiguous()
        return TensorDescriptor.from_tensor(w, [c.bn, c.bk]) if load == "boxes" else w

    def make() -> list[Any]:
        return [pack(w) for w in weights_of_phases(a.weight.detach(), u, top, left)]

    return cached(a.weight, ("triton", load, s, u, top, left, c.bk, c.bn), make)


class ConvPlan:
    """A convolution but for its tensors: decided by shapes, strides, dtypes and numbers. Threads share it."""

    def __init__(
        self,
        a: ConvArgs,
        y: Tensor,
        load: str = "",
        c: configs.Config | None = None,
        second: int = 0,
    ) -> None:
        """y: the result (N, Co/r^2, Ho*r, Wo*r) or any tensor of its shape and strides, pixel-major.

        second: how many of the weight's inputs come from another tensor, behind a.input's; "boxes" alone.
        """
        self.load = load or load_of(a)
        self.config = c = c or choose(a, self.load)
        self.bn = power_of_two(a.weight.shape[0]) if self.load == "taps" else c.bn
        self.name = f"triton/conv2d_{self.load}/{c.th}x{c.tw}x{self.bn}{'t' if c.swap else ''}"
        self.second = second
        self.boxed = self.load == "boxes" or (self.load == "taps" and takes_boxes(a.input))
        self.precision = precision_of(a.input.dtype)
        self.launches: list[tuple[int, Launch]] = []
        self.padded = a.weight.shape[0] + -a.weight.shape[0] % self.bn
        values = self._values(a, y)
        if y.numel() == 0:
            return
        oh_all, ow_all = a.conv_size()
        u = a.upsample
        found = phases(a.weight.shape[2], a.weight.shape[3], u, a.padding[2], a.padding[0])
        for index, phase in enumerate(found):
            oh, ow = -((phase.y - oh_all) // u), -((phase.x - ow_all) // u)
            halo = phase.kw - 1 if self.load == "taps" else 0
            tiles_y, tiles_x = -(-oh // c.th), -(-ow // (c.tw - halo))
            co, ci = a.weight.shape[:2]
            inner = phase.kh * phase.kw * ci if self.load == "window" else ci
            values |= {
                "oh": oh, "ow": ow, "tiles_y": tiles_y, "tiles_x": tiles_x, "CIP": inner + -inner % c.bk,
                "pad_top": phase.top, "pad_left": phase.left, "KH": phase.kh, "KW": phase.kw,
                "PY": phase.y, "PX": phase.x, "TAPS": _taps(phase.kw, co),
            }  # fmt: skip
            programs = tiles_y * tiles_x * a.input.shape[0] * (self.padded // self.bn)
            if programs > 0:
                options = {"num_warps": c.warps, "num_stages": c.stages}
                launch = Launch(conv2d_kernel, (programs,), values, _TENSORS, **options)
                self.launches.append((index, launch))

    def _values(self, a: ConvArgs, y: Tensor) -> dict[str, Any]:
        """The arguments that all phases share."""
        c, s = self.config, a.pixel_shuffle
        co, ci = a.weight.shape[:2]
        residuals = list(a.residuals)
        (r1, b1), (r2, b2) = [*residuals, (y, 0.0), (y, 0.0)][:2]
        base = y if a.base is None else a.base
        mode = "none" if a.base is None else "same" if a.base_mode == "none" else a.base_mode
        return {
            **_strides_of("x", "VX", a.input), **_strides_of("y", "VY", y), **_strides_of("r1", "VR1", r1),
            **_strides_of("r2", "VR2", r2), **_strides_of("b", "VB", base),
            "h": a.input.shape[2], "w_in": a.input.shape[3], "base_h": base.shape[2], "base_w": base.shape[3],
            "slope": float(a.negative_slope), "scale": float(a.scale), "b1": float(b1), "b2": float(b2),
            "CI": ci, "CI1": ci - self.second, "CO": co, "COP": self.padded,
            "SY": a.stride[0], "SX": a.stride[1], "DY": a.dilation[0], "DX": a.dilation[1],
            "ACT": a.activation, "AFTER": a.activation_after_add, "RESIDUALS": len(residuals), "S": s,
            "BASE": mode, "FACTOR": y.shape[2] // max(base.shape[2], 1), "STEP": a.upsample,
            "DENSE": y.stride(3) == co // (s * s),
            "LOAD": self.load, "BOXED": self.boxed, "PRECISION": self.precision,
            "TH": c.th, "TW": c.tw, "BN": self.bn, "BK": c.bk, "SWAP": c.swap, "STAGES": c.stages,
        }  # fmt: skip

    def run(self, a: ConvArgs, y: Tensor, x2: Tensor | None = None) -> None:
        """The op into y; x2: the channels that follow those of a.input in a.weight."""
        record(self.name)
        if self.launches:
            x = pixel_major(a.input)
            self.launch(a, laid_out(x) if self.boxed else x, y, x2)

    def launch(self, a: ConvArgs, x: Tensor, y: Tensor, x2: Tensor | None = None) -> None:
        """As run, of x, pixel-major and laid out for descriptors; nothing is recorded."""
        with device_of(x):
            c, s = self.config, a.pixel_shuffle
            co = a.weight.shape[0]
            bias = _packed_vector(a.bias, co, self.padded, s, a.weight)
            prelu = bias
            if a.prelu_weight is not None:
                prelu = _packed_vector(a.prelu_weight, co, self.padded, s, a.weight)
            r1, r2 = [*(pixel_major(r) for r, _ in a.residuals), y, y][:2]
            base = y if a.base is None else pixel_major(a.base)
            sources: list[Any] = [x, x]
            if self.boxed:
                sources[0] = sources[1] = _boxes(x, c)
                if x2 is not None:
                    sources[1] = _boxes(x2, c)
            weights = _packed_weights(a, self.load, c)
            for index, launch in self.launches:
                launch((*sources, weights[index], bias, prelu, r1, r2, base, y))


_TENSORS = ("x", "x2", "w", "bias", "prelu", "res1", "res2", "base", "y")


def _strides_of(name: str, unit_name: str, x: Tensor) -> dict[str, int]:
    """The strides of x in units of their largest common divisor, up to 16 bytes: what epilogue.py calls V."""
    found = strides(x)
    unit = math.gcd(16 // x.element_size(), *found)
    return {unit_name: unit, **{name + axis: d // unit for axis, d in zip("nyx", found, strict=True)}}


def _boxes(x: Tensor, c: configs.Config) -> TensorDescriptor:
    """x (N, C, H, W), pixel-major, read by boxes of th x tw pixels and bk channels."""
    n, channels, h, w = x.shape
    return TensorDescriptor(x, [n, h, w, channels], [*strides(x), 1], [1, c.th, c.tw, c.bk])


def overflows(tensors: Sequence[Tensor], results: Sequence[Sequence[int]], enlarged: int = 1) -> bool:
    """Whether an offset that kernels count in 32 bits does not fit: within a row, or within a tile of pixels
    `enlarged` times as wide and high, of a tensor or of a dense result of such a shape."""
    found = [(t.shape, strides(t)) for t in tensors]
    for shape in results:
        sn, _, sy, sx = dense_strides(shape, torch.channels_last)
        found.append((torch.Size(shape), (sn, sy, sx)))
    tile = configs.LARGEST_TILE * enlarged
    return any(tile * sy + max(tile, shape[3]) * sx + shape[1] > _INT32 for shape, (_, sy, sx) in found)
