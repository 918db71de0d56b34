# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Which input pixels an output pixel depends on, from the modules' own kernels, strides and factors."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

# Modules that work on each pixel by itself.
_POINTWISE = (
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.SiLU,
    nn.GELU,
    nn.Tanh,
    nn.Sigmoid,
)


def conv_range(conv: nn.Conv2d, lo: int, hi: int, axis: int) -> tuple[int, int]:
    """Input pixels lo'..hi' (both included) that output pixels lo..hi of `conv` read; axis 0: rows."""
    if conv.padding_mode == "circular":
        raise ValueError("a circular convolution reads the opposite border: it has no receptive radius")
    reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
    if isinstance(conv.padding, str):
        before = reach // 2 if conv.padding == "same" else 0
    else:
        before = int(conv.padding[axis])
    stride = conv.stride[axis]
    return lo * stride - before, hi * stride - before + reach


def conv_transpose_range(conv: nn.ConvTranspose2d, lo: int, hi: int, axis: int) -> tuple[int, int]:
    """As conv_range: input pixel i writes output pixels i*stride - padding + (0 .. reach)."""
    reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
    stride, padding = conv.stride[axis], int(conv.padding[axis])
    return -((reach - lo - padding) // stride), (hi + padding) // stride


def input_range(module: nn.Module, lo: int, hi: int, axis: int) -> tuple[int, int]:
    """Input pixels that output pixels lo..hi of `module` read; a module may say so itself (input_range)."""
    own = getattr(module, "input_range", None)
    if own is not None:
        return own(lo, hi, axis)
    if isinstance(module, nn.Sequential):
        return chain_range(module, lo, hi, axis)
    if isinstance(module, nn.Conv2d):
        return conv_range(module, lo, hi, axis)
    if isinstance(module, nn.ConvTranspose2d):
        return conv_transpose_range(module, lo, hi, axis)
    if isinstance(module, nn.PixelShuffle):
        return lo // module.upscale_factor, hi // module.upscale_factor
    if isinstance(module, nn.PixelUnshuffle):
        factor = module.downscale_factor
        return lo * factor, hi * factor + factor - 1
    if isinstance(module, _POINTWISE):
        return lo, hi
    raise TypeError(f"the receptive field of {type(module).__name__} is not known; give it an input_range")


def chain_range(modules: Iterable[nn.Module], lo: int, hi: int, axis: int) -> tuple[int, int]:
    """input_range of modules that run one after another."""
    for module in reversed(list(modules)):
        lo, hi = input_range(module, lo, hi, axis)
    return lo, hi


def residual_range(modules: Iterable[nn.Module], lo: int, hi: int, axis: int) -> tuple[int, int]:
    """As chain_range, for x + chain(x)."""
    first, last = chain_range(modules, lo, hi, axis)
    return min(first, lo), max(last, hi)


def receptive_radius(modules: Iterable[nn.Module], scale: int, period: int) -> int:
    """Smallest r such that output pixel o of the chain reads input pixels o // scale - r .. o // scale + r.

    period: output pixels after which the pattern of phases repeats.
    """
    modules, radius = list(modules), 0
    for axis in (0, 1):
        for o in range(period):
            lo, hi = chain_range(modules, o, o, axis)
            radius = max(radius, o // scale - lo, hi - o // scale)
    return radius
