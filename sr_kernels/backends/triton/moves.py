# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The launches of the memory-bound ops, each of which only moves values or sums a few of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sr_kernels.backends.base import (
    ActivationArgs,
    dense_strides,
    memory_format_of,
    shuffled,
    unshuffled,
    with_format,
)
from sr_kernels.backends.triton.configs import power_of_two
from sr_kernels.backends.triton.kernels import pointwise
from sr_kernels.backends.triton.kernels.backward import activation_backward_kernel
from sr_kernels.backends.triton.launch import device_of

_BLOCK = 1024
_PIXELS = 4096  # elements of a shuffle's program
_PROGRAMS = 528  # that keep the largest chips busy
_BACKWARD_TILE = 4096  # elements of a step of the backward
_INTS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def empty_like(shape: Sequence[int], like: Tensor) -> Tensor:
    """A new channels_last tensor of this shape, as `like` otherwise."""
    return like.new_empty_strided(tuple(shape), dense_strides(shape, torch.channels_last))


def activation_backward(args: ActivationArgs) -> tuple[Tensor, Tensor, Tensor | None]:
    """(dz, db, dslopes), see Backend."""
    n, c, h, w = args.grad.shape
    grad, saved = (with_format(t, torch.channels_last) for t in (args.grad, args.saved))
    dz = empty_like(grad.shape, grad)
    rows = n * h * w
    height = max(_BACKWARD_TILE // power_of_two(c), 1)
    steps = next(k for k in (16, 4, 1) if k == 1 or rows >= k * height * _PROGRAMS)
    programs = -(-rows // (steps * height))
    prelu = args.activation == "prelu"
    parts = grad.new_empty((2 if prelu else 1, programs, c), dtype=torch.float32)
    slopes = parts if args.prelu_weight is None else args.prelu_weight.detach().float().expand(c).contiguous()
    with device_of(grad):
        activation_backward_kernel[(programs,)](
            grad, saved, slopes, dz, parts[0], parts[-1], rows, float(args.negative_slope),
            float(args.scale), C=c, ACT=args.activation, FROM_OUTPUT=args.from_output, STEPS=steps,
            BR=height, BC=power_of_two(c),
        )  # fmt: skip
    sums = parts.sum(1)
    return dz, sums[0], sums[1] if prelu else None


def shuffle(input: Tensor, factor: int) -> Tensor:
    """(N, C*r^2, H, W) as (N, C, H*r, W*r), of the same memory format."""
    return _shuffle(input, shuffled(input.shape, factor), factor, inverse=False)


def unshuffle(input: Tensor, factor: int) -> Tensor:
    """The inverse of shuffle."""
    return _shuffle(input, unshuffled(input.shape, factor), factor, inverse=True)


def add(input: Tensor, residuals: Sequence[tuple[Tensor, float]], scale: float) -> Tensor:
    """scale*input + sum(w_i * residual_i), of input's memory format."""
    memory_format = memory_format_of(input)
    x, *others = (with_format(t, memory_format) for t in (input, *(r for r, _ in residuals)))
    y = x.new_empty_strided(x.shape, dense_strides(x.shape, memory_format))
    b1, b2 = residuals[0][1], residuals[1][1] if len(residuals) > 1 else 0.0
    if y.numel():
        with device_of(x):
            pointwise.add_kernel[_flat(y)](
                x, others[0], others[-1], y, y.numel(), float(scale), float(b1), float(b2),
                TWO=len(others) > 1, BLOCK=_BLOCK,
            )  # fmt: skip
    return y


def to_float(image: Tensor) -> Tensor:
    """(H, W, C) integers as (1, C, H, W) of float32, 1 for the largest."""
    h, w, c = image.shape
    x = image.contiguous().view(_INTS[image.dtype.itemsize])
    y = torch.empty((1, h, w, c), dtype=torch.float32, device=image.device)
    if y.numel():
        full = 255 if image.dtype == torch.uint8 else 65535
        with device_of(x):
            pointwise.image_to_float_kernel[_flat(y)](x, y, y.numel(), FULL=full, BLOCK=_BLOCK)
    return with_format(y.permute(0, 3, 1, 2), torch.channels_last)


def to_image(input: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of to_float, clamped and rounded."""
    _, c, h, w = input.shape
    x = with_format(input, torch.channels_last)
    y = torch.empty((h, w, c), dtype=dtype, device=x.device)
    if y.numel():
        full = 255 if dtype == torch.uint8 else 65535
        with device_of(x):
            pointwise.float_to_image_kernel[_flat(y)](
                x, y.view(_INTS[dtype.itemsize]), y.numel(), FULL=full, BLOCK=_BLOCK,
                enable_fp_fusion=False,  # a product is rounded before halves are
            )  # fmt: skip
    return y


def _flat(y: Tensor) -> tuple[int]:
    return (-(-y.numel() // _BLOCK),)


def _shuffle(x: Tensor, shape: tuple[int, ...], factor: int, *, inverse: bool) -> Tensor:
    memory_format = memory_format_of(x)
    x = with_format(x, memory_format)
    y = x.new_empty_strided(shape, dense_strides(shape, memory_format))
    n, c, h, w = shape
    last = memory_format == torch.channels_last
    length, rows = (w * c, n * h) if last else (w, n * c * h)
    coarse, fine = (y, x) if inverse else (x, y)
    channels = fine.shape[1]
    whole = channels * factor * factor
    if y.numel() and last and channels == power_of_two(channels) and factor == power_of_two(factor):
        ints = _INTS[x.dtype.itemsize]
        _, _, ch, cw = coarse.shape
        pitches = coarse.stride(0), coarse.stride(2), fine.stride(0), fine.stride(2)
        v = math.gcd(16 // x.element_size(), *pitches)
        block = max(_PIXELS // whole, 1)
        with device_of(x):
            pointwise.shuffle_pixels_kernel[(-(-cw // block) * n * ch,)](
                coarse.view(ints), fine.view(ints), cw, ch, *(p // v for p in pitches),
                V=v, C=channels, R=factor, INVERSE=inverse, BX=block,
            )  # fmt: skip
    elif y.numel():
        ints = _INTS[x.dtype.itemsize]
        xn, xc, xy, xx = x.stride()
        yn, yc, yy, _ = y.stride()
        block = min(_BLOCK, power_of_two(length))
        with device_of(x):
            pointwise.shuffle_kernel[(-(-length // block) * rows,)](
                x.view(ints), y.view(ints), length, h, xn, xc, xy, xx, yn, yc, yy,
                C=c, R=factor, INVERSE=inverse, LAST=last, BLOCK=block,
            )  # fmt: skip
    return y
