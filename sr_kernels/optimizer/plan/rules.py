# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What the ops of the library give for tensors of which only shape, strides and dtype are known, and whether
they take them, for a native step checks nothing any more.

The shapes of parameters are those that the ops have taken already (Region._check), so that what is left to
ask is about dtypes and about what comes in. The ops' own fakes, which ask everything, take about twice as
long: half a millisecond more for each new size of EDSR or RRDBNet-23.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sr_kernels import ops
from sr_kernels.backends.base import conv_size, dense_strides, memory_format_of, shuffled, unshuffled
from sr_kernels.ops import _arguments, _check


class Misused(ValueError):
    """Tensors that an op does not take. The op itself says so in more words."""


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    upsample: int = 1,
    pixel_shuffle: int = 1,
    prelu_weight: Tensor | None = None,
    residual: Any = None,
    base: Tensor | None = None,
    base_mode: str | None = None,
    **others: Any,
) -> Tensor:
    _expect(input.dim() == 4 and _are_of(input.dtype, weight, bias, prelu_weight))
    n, ci, *size = input.shape
    co, per_group, *kernel = weight.shape
    strides = _arguments.pair("conv2d", "stride", stride)
    dilations = _arguments.pair("conv2d", "dilation", dilation)
    sides = _arguments.padding("conv2d", padding, kernel, strides, dilations)
    oh, ow = conv_size(size, kernel, strides, sides, dilations, upsample)
    _expect(ci == per_group * groups and min(*size, oh, ow) > 0)
    r = pixel_shuffle
    y = _like(input, (n, co // (r * r), oh * r, ow * r))
    if residual is not None:
        _check.residuals("conv2d", _pairs(residual), input, (n, co, oh, ow))
    if base is not None:
        _check.base("conv2d", base, base_mode or "none", input, y.shape)
    return y


def _dense_block(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    residual: Any = None,
    **others: Any,
) -> Tensor:
    _expect(input.dim() == 4 and _are_of(input.dtype, *weights, *biases))
    _expect(input.shape[1] == weights[0].shape[1] and min(input.shape[1:]) > 0)
    _check.residuals("dense_block", _pairs(residual), input, input.shape)
    return _like(input, input.shape)


def _residual_add(input: Tensor, residual: Any, **others: Any) -> Tensor:
    _check.pictures("residual_add", input)
    _check.residuals("residual_add", _pairs(residual), input, input.shape)
    return _like(input, input.shape)


def _cat(tensors: Sequence[Tensor], dim: int) -> Tensor:
    first = tensors[0]
    joined = list(first.shape)
    for x in tensors[1:]:
        _expect(x.dtype == first.dtype and x.dim() == first.dim())
        joined[dim] += x.shape[dim]
        others = list(x.shape)
        others[dim] = first.shape[dim]
        _expect(others == list(first.shape))
    return _like(first, joined)


def _pixel_shuffle(input: Tensor, upscale_factor: int, **others: Any) -> Tensor:
    _check.pictures("pixel_shuffle", input)
    _expect(input.shape[1] % upscale_factor**2 == 0)
    return _like(input, shuffled(input.shape, upscale_factor))


def _pixel_unshuffle(input: Tensor, downscale_factor: int, **others: Any) -> Tensor:
    _check.pictures("pixel_unshuffle", input)
    _expect(input.shape[2] % downscale_factor == input.shape[3] % downscale_factor == 0)
    return _like(input, unshuffled(input.shape, downscale_factor))


RULES: dict[Any, Callable[..., Tensor]] = {
    ops.conv2d: _conv2d,
    ops.dense_block: _dense_block,
    ops.residual_add: _residual_add,
    ops.pixel_shuffle: _pixel_shuffle,
    ops.pixel_unshuffle: _pixel_unshuffle,
    torch.cat: _cat,
}


def _expect(holds: bool) -> None:
    if not holds:
        raise Misused


def _are_of(dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    return all(x is None or x.dtype == dtype for x in tensors)


def _pairs(residual: Any) -> tuple[tuple[Tensor, float], ...]:
    return _arguments.pairs(*_arguments.residuals("residual", residual))


def _like(x: Tensor, shape: Sequence[int]) -> Tensor:
    strides = dense_strides(shape, memory_format_of(x))
    return torch.empty_strided(shape, strides, dtype=x.dtype, device="meta")
