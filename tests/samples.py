# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The shared list of ragged samples, per op: sizes off every vector width, layouts, the whole epilogue."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

LAYOUTS = ("contiguous", "channels_last", "sliced", "cropped", "transposed", "expanded")


def arrange(x: Tensor, layout: str, offset: int = 0) -> Tensor:
    """x (N, C, H, W) with the same values in another memory layout, offset elements into its storage."""
    if offset:
        storage = torch.empty(offset + x.numel(), dtype=x.dtype)
        view = storage[offset:].view(x.shape)
        return view.copy_(x)
    match layout:
        case "contiguous":
            return x.contiguous()
        case "channels_last":
            return x.contiguous(memory_format=torch.channels_last)
        case "sliced":  # channels 2.. of a wider channels_last buffer
            n, c, h, w = x.shape
            wide = torch.empty(n, c + 5, h, w, dtype=x.dtype).contiguous(memory_format=torch.channels_last)
            return wide[:, 2 : 2 + c].copy_(x)
        case "cropped":  # rows and columns of a larger contiguous picture
            n, c, h, w = x.shape
            return torch.empty(n, c, h + 3, w + 2, dtype=x.dtype)[:, :, 2 : 2 + h, 1 : 1 + w].copy_(x)
        case "transposed":
            return x.transpose(2, 3).contiguous().transpose(2, 3)
        case "expanded":  # every sample of the batch is the first
            return x[:1].contiguous().expand(x.shape)
    raise ValueError(layout)


class Sample:
    """Named after the fields that differ from the defaults."""

    @property
    def name(self) -> str:
        assert dataclasses.is_dataclass(self)
        changed = [
            f"{f.name}={getattr(self, f.name)}".replace(" ", "")
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        return ",".join(changed) or "plain"

    def random(self, draw: int) -> Any:
        """normal(*shape) of float64, the same at every call."""
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()) + draw)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        return normal


@dataclass(frozen=True)
class Conv(Sample):
    """One call of conv2d; residuals are weights, base a mode ("same", "nearest", "bilinear")."""

    shape: tuple[int, int, int, int] = (2, 5, 9, 11)
    channels: int = 7
    kernel: tuple[int, int] = (3, 3)
    bias: bool = True
    stride: int | tuple[int, int] = 1
    padding: int | str | tuple[int, ...] = 1
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    upsample: int = 1
    activation: str | None = None
    slope: float = 0.01
    slopes: int = 0
    residuals: tuple[float, ...] = ()
    scale: float = 1.0
    after: bool = False
    shuffle: int = 1
    base: str | None = None
    factor: int = 1
    layout: str = "contiguous"
    offset: int = 0

    def sides(self) -> tuple[int, int, int, int]:
        """padding as left, right, top, bottom."""
        if self.padding == "valid":
            return 0, 0, 0, 0
        if self.padding == "same":
            (kh, kw), dilation = self.kernel, self.dilation
            dy, dx = dilation if isinstance(dilation, tuple) else (dilation, dilation)
            tall, wide = dy * (kh - 1), dx * (kw - 1)
            return wide // 2, wide - wide // 2, tall // 2, tall - tall // 2
        assert not isinstance(self.padding, str)
        if isinstance(self.padding, int):
            return (self.padding,) * 4
        if len(self.padding) == 2:
            top, left = self.padding
            return left, left, top, top
        left, right, top, bottom = self.padding
        return left, right, top, bottom

    def result_size(self) -> tuple[int, int, int, int]:
        """The convolution's (N, C_out, Ho, Wo), by PyTorch's own arithmetic."""
        n, ci, h, w = self.shape
        left, right, top, bottom = self.sides()
        x = torch.empty(
            1, ci, h * self.upsample + top + bottom, w * self.upsample + left + right, device="meta"
        )
        kernel = torch.empty(self.channels, ci // self.groups, *self.kernel, device="meta")
        y = torch.nn.functional.conv2d(x, kernel, None, self.stride, 0, self.dilation, self.groups)
        return n, self.channels, y.shape[2], y.shape[3]

    def arguments(self, dtype: torch.dtype = torch.float32, draw: int = 0) -> dict[str, Any]:
        """The keyword arguments of ops.conv2d."""
        normal = self.random(draw)
        n, co, ho, wo = self.result_size()
        r = self.shuffle
        ci = self.shape[1] // self.groups
        fan_in = ci * self.kernel[0] * self.kernel[1]

        def placed(x: Tensor) -> Tensor:
            return arrange(x.to(dtype), self.layout, self.offset)

        a: dict[str, Any] = {
            "input": placed(normal(*self.shape)),
            "weight": (normal(co, ci, *self.kernel) / fan_in**0.5).to(dtype),
            "bias": normal(co).to(dtype) if self.bias else None,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "upsample": self.upsample,
            "activation": self.activation,
            "negative_slope": self.slope,
            "prelu_weight": (0.25 + 0.2 * normal(self.slopes)).to(dtype) if self.slopes else None,
            "residual": [(placed(normal(n, co, ho, wo)), weight) for weight in self.residuals] or None,
            "scale": self.scale,
            "activation_after_add": self.after,
            "pixel_shuffle": r,
        }
        if self.base:
            f = self.factor
            a["base"] = placed(normal(n, co // (r * r), ho * r // f, wo * r // f))
            a["base_mode"] = None if self.base == "same" else self.base
        return a


def flat(sample: Conv, arguments: dict[str, Any]) -> dict[str, Any]:
    """ops.conv2d's arguments as torch.ops.sr_kernels.conv2d takes them."""
    a = dict(arguments)
    a["padding"] = list(sample.sides())
    for name in ("stride", "dilation"):
        a[name] = list(a[name]) if isinstance(a[name], tuple) else [a[name]] * 2
    a["activation"] = a["activation"] or "none"
    a["base_mode"] = a.get("base_mode") or "none"
    for i, (residual, weight) in enumerate(a.pop("residual") or [], start=1):
        a[f"residual{i}"], a[f"residual{i}_weight"] = residual, weight
    return a


def plain(sample: Conv, arguments: dict[str, Any]) -> dict[str, Any]:
    """ops.conv2d's arguments as reference.conv2d takes them."""
    a = flat(sample, {**arguments, "residual": None})
    a["residuals"] = arguments["residual"] or ()
    return a


def convert(value: Any, dtype: torch.dtype) -> Any:
    """Every floating tensor in it, in another dtype."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {k: convert(v, dtype) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(convert(v, dtype) for v in value)
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor in it, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in tensors_of(v)] if isinstance(value, (list, tuple)) else []


def _features() -> list[Conv]:
    """One sample at least for each thing that the op can do."""
    tail = Conv(shape=(1, 6, 5, 7), channels=12, shuffle=2, activation="prelu", slopes=12)
    return [
        Conv(),
        Conv(bias=False, padding=0),
        Conv(kernel=(1, 1), padding=0),
        Conv(kernel=(2, 2), padding="same"),
        Conv(kernel=(5, 3), padding=(2, 1)),
        Conv(padding=(0, 3, 2, 1)),
        Conv(padding=4, kernel=(4, 4)),
        Conv(stride=2),
        Conv(stride=(1, 2), shape=(1, 3, 8, 9)),
        Conv(dilation=2, padding=2),
        Conv(dilation=(1, 3), padding="same"),
        Conv(groups=5, channels=5),
        Conv(groups=2, shape=(1, 6, 8, 5), channels=10),
        Conv(groups=3, shape=(1, 3, 8, 5), channels=6, stride=2),
        Conv(upsample=2),
        Conv(upsample=3, kernel=(2, 2), padding=(0, 1, 1, 0), activation="relu"),
        Conv(upsample=2, stride=2),
        *(Conv(activation=name) for name in ("relu", "silu", "gelu", "tanh", "sigmoid")),
        Conv(activation="leaky_relu", slope=0.2),
        Conv(activation="leaky_relu", slope=-0.5),
        Conv(activation="prelu", slopes=7),
        Conv(activation="prelu", slopes=1),
        Conv(residuals=(1.0,)),
        Conv(residuals=(0.2, -1.5), scale=0.04),
        Conv(residuals=(1.0,), activation="relu"),
        Conv(residuals=(0.5,), activation="silu", scale=-0.7),
        Conv(residuals=(1.0,), activation="relu", after=True),
        Conv(residuals=(1.0, 0.3), activation="leaky_relu", slope=0.1, after=True, scale=0.1),
        Conv(residuals=(1.0,), activation="gelu", after=True, scale=0.5),
        Conv(residuals=(2.0,), activation="prelu", slopes=7, after=True, scale=0.5),
        Conv(shape=(1, 4, 5, 3), channels=8, shuffle=2, activation="tanh"),
        Conv(shape=(1, 4, 3, 5), channels=27, shuffle=3),
        Conv(shape=(1, 4, 3, 2), channels=48, shuffle=4, base="nearest", factor=4),
        replace(tail, base="same"),
        replace(tail, base="nearest", factor=2),
        replace(tail, base="bilinear", factor=2),
        replace(tail, activation="relu", slopes=0, residuals=(1.0,), base="bilinear", factor=2, after=True),
        Conv(base="same", activation="sigmoid"),
        Conv(base="bilinear", factor=3, shape=(2, 3, 9, 6)),
        Conv(shape=(0, 5, 9, 11), activation="silu", residuals=(1.0,)),
        Conv(shape=(0, 5, 4, 6), channels=8, shuffle=2, base="bilinear", factor=2),
        Conv(shape=(1, 3, 1, 1)),
        *(Conv(layout=layout, residuals=(0.5,), base="same") for layout in LAYOUTS[1:]),
    ]


def _sizes() -> list[Conv]:
    """The same op at sizes and offsets where kernels end, begin and wrap."""
    channels = ((1, 1), (3, 64), (64, 3), (16, 16), (17, 33), (31, 15), (8, 24), (5, 48), (65, 12), (1, 4))
    pictures = ((1, 13), (13, 1), (2, 3), (17, 23), (31, 29), (16, 64), (7, 65))
    return [
        *(Conv(kernel=(k, k), padding=k // 2, channels=9, activation="relu") for k in range(1, 10)),
        *(Conv(kernel=(k, k), padding=k // 2, stride=2, shape=(1, 3, 10, 13)) for k in range(1, 10)),
        Conv(kernel=(9, 1), padding="same"),
        Conv(kernel=(1, 6), padding="valid"),
        *(Conv(shape=(1, ci, 6, 7), channels=co, activation="relu") for ci, co in channels),
        *(Conv(shape=(1, 8, h, w), channels=16, layout="channels_last") for h, w in pictures),
        *(
            Conv(shape=(1, 5, 6, 7), upsample=u, kernel=(k, k), padding="same")
            for u in (2, 3, 4)
            for k in (1, 3, 4)
        ),
        *(Conv(groups=c, channels=c, shape=(1, c, 7, 9), kernel=(5, 5), padding=2) for c in (1, 8, 19, 33)),
        *(Conv(offset=offset, residuals=(1.0,)) for offset in range(1, 16)),
        Conv(shape=(1, 64, 12, 17), channels=64, activation="prelu", slopes=64, layout="channels_last"),
        Conv(shape=(3, 3, 20, 18), channels=48, shuffle=4, base="nearest", factor=4, layout="channels_last"),
    ]


FEATURES = _features()
CONVS = [*FEATURES, *_sizes()]
SMALL_CONVS = [
    replace(
        sample,
        shape=(sample.shape[0], sample.shape[1] if sample.groups > 1 or sample.base else 2, 3, 3),
        layout=sample.layout,
    )
    for sample in FEATURES
    if not (sample.channels > 12 or sample.factor == 3 or sample.kernel == (5, 3) or sample.padding == 4)
]


@dataclass(frozen=True)
class Transposed(Sample):
    """One call of conv_transpose2d."""

    shape: tuple[int, int, int, int] = (2, 5, 4, 6)
    channels: int = 3
    kernel: tuple[int, int] = (4, 4)
    bias: bool = True
    stride: int | tuple[int, int] = 2
    padding: int | tuple[int, int] = 1
    output_padding: int | tuple[int, int] = 0
    activation: str | None = None
    slopes: int = 0
    layout: str = "contiguous"

    def arguments(self, dtype: torch.dtype = torch.float32, draw: int = 0) -> dict[str, Any]:
        """The keyword arguments of ops.conv_transpose2d."""
        normal = self.random(draw)
        fan_in = self.shape[1] * self.kernel[0] * self.kernel[1]
        return {
            "input": arrange(normal(*self.shape).to(dtype), self.layout),
            "weight": (normal(self.shape[1], self.channels, *self.kernel) / fan_in**0.5).to(dtype),
            "bias": normal(self.channels).to(dtype) if self.bias else None,
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
            "activation": self.activation,
            "prelu_weight": (0.25 + 0.2 * normal(self.slopes)).to(dtype) if self.slopes else None,
        }


TRANSPOSED = [
    Transposed(),
    *(
        Transposed(kernel=(k, k), stride=s, padding=p, output_padding=o)
        for k, s, p, o in (
            (1, 1, 0, 0),
            (3, 1, 1, 0),
            (2, 2, 0, 0),
            (3, 2, 1, 1),
            (3, 2, 0, 0),
            (5, 2, 3, 1),
            (1, 2, 0, 1),
            (2, 3, 0, 2),
            (9, 4, 4, 3),
            (9, 3, 4, 0),
            (4, 4, 0, 0),
            (2, 2, 2, 0),
        )
    ),
    Transposed(kernel=(3, 5), padding=(1, 2), output_padding=(1, 0), activation="relu"),
    Transposed(activation="prelu", slopes=3, layout="channels_last"),
    Transposed(activation="prelu", slopes=1, bias=False, layout="sliced"),
    Transposed(stride=(2, 1), activation="tanh"),
    Transposed(shape=(0, 5, 4, 6)),
    Transposed(shape=(1, 1, 1, 1)),
]


@dataclass(frozen=True)
class Dense(Sample):
    """One call of dense_block."""

    shape: tuple[int, int, int, int] = (2, 6, 5, 7)
    growth: tuple[int, ...] = (4, 3, 5, 4)
    kernel: int = 3
    biases: tuple[bool, ...] = (True, True, True, True, True)
    slope: float = 0.2
    scale: float = 0.2
    input_scale: float = 1.0
    residuals: tuple[float, ...] = ()
    layout: str = "contiguous"

    def arguments(self, dtype: torch.dtype = torch.float32, draw: int = 0) -> dict[str, Any]:
        """The keyword arguments of ops.dense_block."""
        normal = self.random(draw)
        channels = self.shape[1]
        weights, biases = [], []
        for out, bias in zip((*self.growth, self.shape[1]), self.biases, strict=False):
            fan_in = channels * self.kernel**2
            weights.append((normal(out, channels, self.kernel, self.kernel) / fan_in**0.5).to(dtype))
            biases.append(normal(out).to(dtype) if bias else None)
            channels += out
        return {
            "input": arrange(normal(*self.shape).to(dtype), self.layout),
            "weights": weights,
            "biases": biases,
            "negative_slope": self.slope,
            "scale": self.scale,
            "input_scale": self.input_scale,
            "residual": [(arrange(normal(*self.shape).to(dtype), self.layout), w) for w in self.residuals]
            or None,
        }


DENSE = [
    Dense(),
    Dense(biases=(True, False, True, False, False)),
    Dense(growth=(), shape=(1, 3, 4, 5)),
    Dense(growth=(2,), kernel=1, shape=(1, 3, 4, 5)),
    Dense(growth=(16, 17), kernel=5, shape=(1, 16, 9, 8), slope=0.0),
    Dense(slope=-0.3, scale=1.0, input_scale=0.0),
    Dense(residuals=(1.0,), scale=0.04, input_scale=0.2),
    Dense(residuals=(0.5, -2.0)),
    Dense(shape=(0, 6, 5, 7)),
    Dense(shape=(1, 6, 1, 1)),
    *(Dense(layout=layout, residuals=(1.0,)) for layout in LAYOUTS[1:]),
]


@dataclass(frozen=True)
class Picture(Sample):
    """An input of pixel_shuffle (channels are multiplied by factor squared), pixel_unshuffle (height and
    width are multiplied by factor) or residual_add."""

    shape: tuple[int, int, int, int] = (2, 3, 5, 7)
    factor: int = 2
    layout: str = "contiguous"
    offset: int = 0

    def shuffled(self, dtype: torch.dtype = torch.float32) -> Tensor:
        n, c, h, w = self.shape
        return self._place(n, c * self.factor**2, h, w, dtype)

    def unshuffled(self, dtype: torch.dtype = torch.float32) -> Tensor:
        n, c, h, w = self.shape
        return self._place(n, c, h * self.factor, w * self.factor, dtype)

    def _place(self, n: int, c: int, h: int, w: int, dtype: torch.dtype) -> Tensor:
        return arrange(self.random(0)(n, c, h, w).to(dtype), self.layout, self.offset)

    def terms(self, count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        normal = self.random(1)
        return [arrange(normal(*self.shape).to(dtype), self.layout, self.offset) for _ in range(count)]


PICTURES = [
    Picture(),
    *(Picture(factor=factor) for factor in (1, 3, 4)),
    *(Picture(layout=layout) for layout in LAYOUTS[1:]),
    *(Picture(offset=offset) for offset in range(1, 16)),
    Picture(shape=(1, 1, 1, 1)),
    *(Picture(shape=(n, c, 1, 1), factor=factor) for n in (1, 2) for c in (2, 5) for factor in (2, 3)),
    Picture(shape=(0, 3, 5, 7)),
    Picture(shape=(1, 1, 13, 1), layout="channels_last"),
    Picture(shape=(1, 17, 1, 31), factor=3, layout="channels_last"),
    Picture(shape=(1, 16, 4, 33), layout="sliced"),
]

# (height, width, channels), how it lies in memory
IMAGES: Sequence[tuple[tuple[int, int, int], str]] = [
    ((7, 5, 3), "contiguous"),
    ((1, 1, 1), "contiguous"),
    ((3, 33, 1), "contiguous"),
    ((17, 19, 4), "contiguous"),
    ((6, 9, 3), "flipped"),
    ((6, 9, 3), "cropped"),
    ((6, 9, 3), "planar"),
    ((6, 9, 4), "no alpha"),
]


def image(shape: tuple[int, int, int], layout: str, dtype: torch.dtype) -> Tensor:
    """A picture (H, W, C) of random values over the whole range of uint8 or uint16."""
    h, w, c = shape
    generator = torch.Generator().manual_seed(h * w * c)
    top = 256 if dtype == torch.uint8 else 65536
    values = torch.randint(0, top, (h + 2, w + 2, c), generator=generator, dtype=torch.int32)
    values[0, 0, :], values[-1, -1, :] = 0, top - 1
    x = values.to(dtype)
    match layout:
        case "cropped":
            return x[1:-1, 1:-1]
        case "planar":
            return x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
        case "no alpha":
            return x[:, :, :3]
        case "flipped":
            return x.transpose(0, 1)
    return x
