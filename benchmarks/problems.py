# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Kinds of cases. A case is data; its build() gives the plain form, ours, and their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_kernels import models, ops, reference
from sr_kernels.bench import plain
from sr_kernels.bench.problem import Case, Problem, Run


@dataclass(frozen=True)
class ConvCase(Case):
    """One convolution with its epilogue."""

    ci: int = 64
    co: int = 64
    kernel: int = 3
    stride: int = 1
    depthwise: bool = False
    upsample: int = 1
    activation: str = "none"
    residuals: int = 0
    pixel_shuffle: int = 1
    base_mode: str = "none"

    group = "layer"

    def build(self) -> Problem:
        layer = PlainConv(self)
        arguments = layer.arguments()
        weight, bias = layer.conv.weight, layer.conv.bias

        def ours(x: Tensor, *others: Tensor) -> Tensor:
            residuals, base = self.split(others)
            mode = None if base is None else self.base_mode
            residual = [(r, 1.0) for r in residuals] or None
            return ops.conv2d(x, weight, bias, residual=residual, base=base, base_mode=mode, **arguments)

        h, w = (n * self.upsample // self.stride for n in (self.height, self.width))
        shapes = [(1, self.ci, self.height, self.width)] + [(1, self.co, h, w)] * self.residuals
        if self.base_mode != "none":
            shapes.append((1, self.co // self.pixel_shuffle**2, h, w))
        return Problem(layer, ours, _normal(shapes))

    def split(self, others: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """(residuals, base) of the inputs after the first."""
        return others[: self.residuals], others[-1] if self.base_mode != "none" else None


class PlainConv(nn.Module):
    """A ConvCase in plain PyTorch; takes the input, then the residuals, then the base."""

    def __init__(self, case: ConvCase) -> None:
        super().__init__()
        self.case = case
        groups = case.ci if case.depthwise else 1
        self.conv = nn.Conv2d(case.ci, case.co, case.kernel, case.stride, case.kernel // 2, groups=groups)
        self.act = nn.PReLU(case.co) if case.activation == "prelu" else None
        plain.frozen(plain.kaiming_(self))

    def arguments(self) -> dict[str, Any]:
        """What the reference and the op take under the same name."""
        case = self.case
        return {
            "stride": (case.stride,) * 2,
            "padding": (case.kernel // 2,) * 4,
            "groups": self.conv.groups,
            "upsample": case.upsample,
            "activation": case.activation,
            "negative_slope": 0.2,
            "prelu_weight": None if self.act is None else self.act.weight,
            "pixel_shuffle": case.pixel_shuffle,
        }

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        residuals, base = self.case.split(others)
        return reference.conv2d(
            x,
            self.conv.weight,
            self.conv.bias,
            residuals=[(r, 1.0) for r in residuals],
            base=base,
            base_mode=self.case.base_mode,
            **self.arguments(),
        )


@dataclass(frozen=True)
class TransposedCase(Case):
    """A strided transposed convolution."""

    ci: int = 56
    co: int = 1
    kernel: int = 9
    stride: int = 4

    group = "layer"

    def build(self) -> Problem:
        geometry = (self.stride, self.kernel // 2, self.stride - 1)
        layer = nn.ConvTranspose2d(self.ci, self.co, self.kernel, *geometry)
        plain.frozen(plain.kaiming_(layer))

        def ours(x: Tensor) -> Tensor:
            stride, padding, extra = geometry
            return ops.conv_transpose2d(
                x, layer.weight, layer.bias, stride=stride, padding=padding, output_padding=extra
            )

        return Problem(layer, ours, _normal([(1, self.ci, self.height, self.width)]))


@dataclass(frozen=True)
class DenseBlockCase(Case):
    """ESRGAN's residual dense block."""

    channels: int = 64
    growth: int = 32

    group = "layer"

    def build(self) -> Problem:
        block = plain.DenseBlock(self.channels, self.growth)
        plain.frozen(plain.kaiming_(block))
        convs = [part for part in block.children() if isinstance(part, nn.Conv2d)]
        weights, biases = [c.weight for c in convs], [c.bias for c in convs]

        def ours(x: Tensor) -> Tensor:
            return ops.dense_block(x, weights, biases)

        return Problem(block, ours, _normal([(1, self.channels, self.height, self.width)]))


@dataclass(frozen=True)
class ChainCase(Case):
    """`depth` convolutions of `channels` in and out with PReLU: FSRCNN's body by itself."""

    channels: int = 12
    depth: int = 4

    group = "layer"

    def build(self) -> Problem:
        parts: list[nn.Module] = []
        for _ in range(self.depth):
            parts += [nn.Conv2d(self.channels, self.channels, 3, padding=1), nn.PReLU(self.channels)]
        network = nn.Sequential(*parts)
        plain.frozen(plain.kaiming_(network))
        layers = [
            {
                "weight": conv.weight,
                "bias": conv.bias,
                "padding": 1,
                "activation": "prelu",
                "prelu_weight": act.weight,
            }
            for conv, act in zip(parts[::2], parts[1::2], strict=True)
        ]

        def ours(x: Tensor) -> Tensor:
            return ops.conv2d_chain(x, layers)

        return Problem(network, ours, _normal([(1, self.channels, self.height, self.width)]))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Run) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


@dataclass(frozen=True)
class MemoryOp:
    """An op that moves and scales values: plain PyTorch, ours, the number of inputs, and the exact result."""

    plain: Run
    ours: Run
    inputs: int = 1
    pixels: bool = False  # the input is a uint8 picture (H, W, C)
    truth: Run | None = None


MEMORY_OPS = {
    "pixel_shuffle": MemoryOp(lambda x: F.pixel_shuffle(x, 2), lambda x: ops.pixel_shuffle(x, 2)),
    "pixel_unshuffle": MemoryOp(lambda x: F.pixel_unshuffle(x, 2), lambda x: ops.pixel_unshuffle(x, 2)),
    "residual_add": MemoryOp(
        lambda x, r: 0.2 * x + r, lambda x, r: ops.residual_add(x, r, scale=0.2), inputs=2
    ),
    "image_to_float": MemoryOp(
        reference.image_to_float,
        ops.image_to_float,
        pixels=True,
        truth=lambda image: (image.double() / 255.0).permute(2, 0, 1)[None],
    ),
    "float_to_image": MemoryOp(
        lambda x: reference.float_to_image(x, torch.uint8),
        ops.float_to_image,
        truth=lambda x: (x[0].double().clamp(0.0, 1.0) * 255.0).round().permute(1, 2, 0),
    ),
}


@dataclass(frozen=True)
class MemoryCase(Case):
    """One of MEMORY_OPS."""

    op: str = ""
    channels: int = 64

    group = "memory"

    def build(self) -> Problem:
        op = MEMORY_OPS[self.op]
        if op.pixels:
            shape = (self.height, self.width, self.channels)
            inputs: tuple[Tensor, ...] = (
                torch.randint(0, 256, shape, generator=_generator(), dtype=torch.uint8),
            )
        else:
            inputs = _normal([(1, self.channels, self.height, self.width)] * op.inputs)
        return Problem(Function(op.plain), op.ours, inputs, op.truth)


@dataclass(frozen=True)
class NetworkCase(Case):
    """A whole network. sizes: the constructors' arguments beside the scale; embedded: the shipped weights;
    optimized: ours is what `optimize` makes of the plain network, else the library's own model."""

    architecture: str = "srvgg"
    scale: int = 4
    channels: int = 3
    sizes: tuple[tuple[str, int], ...] = ()
    embedded: bool = False
    optimized: bool = False
    group: str = "network"

    whole = True

    def build(self) -> Problem:
        if self.embedded:
            network = plain.of(models.embedded(self.scale))
        else:
            network = plain.kaiming_(plain.NETWORKS[self.architecture](**self._sizes()))
        plain.frozen(network)
        shape = (1, self.channels, self.height, self.width)
        inputs = (torch.rand(shape, generator=_generator()),)
        ours = network if self.optimized else self._own(network)
        return Problem(network, ours, inputs, base=getattr(network, "base", None))

    def _sizes(self) -> dict[str, int]:
        return {"scale": self.scale, **dict(self.sizes)}

    def _own(self, network: nn.Module) -> nn.Module:
        """The library's model with the network's weights."""
        if self.embedded:
            return plain.frozen(models.embedded(self.scale))
        model = models.create(self.architecture, **self._sizes())
        model.load_state_dict(network.state_dict())
        return plain.frozen(model)


def _generator() -> torch.Generator:
    return torch.Generator(torch.get_default_device()).manual_seed(0)


def _normal(shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    generator = _generator()
    return tuple(torch.randn(tuple(shape), generator=generator) for shape in shapes)
