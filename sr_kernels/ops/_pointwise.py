# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The memory-bound ops: pixel shuffle and its inverse, and weighted addition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sr_kernels.backends.base import dense_strides, memory_format_of
from sr_kernels.ops import _arguments, _check, _library


def _like(input: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    return input.new_empty_strided(shape, dense_strides(shape, memory_format_of(input)))


def _pack_shuffle(input: Tensor, upscale_factor: int, backend: str = "") -> _library.Packed:
    _check.pictures("pixel_shuffle", input)
    if upscale_factor < 1 or input.shape[1] % (upscale_factor * upscale_factor):
        raise ValueError(
            f"pixel_shuffle: upscale_factor must be at least 1 and its square divide the {input.shape[1]} "
            f"channels of input {_check.shape_of(input)}, got {upscale_factor}"
        )
    return (input, upscale_factor), backend


def _empty_shuffle(args: tuple[Tensor, int]) -> Tensor:
    input, r = args
    n, c, h, w = input.shape
    return _like(input, (n, c // (r * r), h * r, w * r))


def _pack_unshuffle(input: Tensor, downscale_factor: int, backend: str = "") -> _library.Packed:
    _check.pictures("pixel_unshuffle", input)
    if downscale_factor < 1 or input.shape[2] % downscale_factor or input.shape[3] % downscale_factor:
        raise ValueError(
            f"pixel_unshuffle: downscale_factor must be at least 1 and divide height and width of input "
            f"{_check.shape_of(input)}, got {downscale_factor}; pad the input to a multiple"
        )
    return (input, downscale_factor), backend


def _empty_unshuffle(args: tuple[Tensor, int]) -> Tensor:
    input, r = args
    n, c, h, w = input.shape
    return _like(input, (n, c * r * r, h // r, w // r))


def _pack_add(
    input: Tensor,
    residual1: Tensor,
    residual1_weight: float = 1.0,
    residual2: Tensor | None = None,
    residual2_weight: float = 1.0,
    scale: float = 1.0,
    backend: str = "",
) -> _library.Packed:
    residuals = _arguments.pairs(residual1, residual1_weight, residual2, residual2_weight)
    _check.pictures("residual_add", input)
    _check.residuals("residual_add", residuals, input, input.shape)
    return (input, residuals, scale), backend


def _empty_add(args: tuple[Tensor, Any, float]) -> Tensor:
    n, c, h, w = args[0].shape
    return _like(args[0], (n, c, h, w))


def _forward_shuffle(ctx: Any, run: Callable[..., Tensor], args: tuple[Any, ...]) -> Tensor:
    _, ctx.factor, ctx.backend = args
    return run(*args)


def _shuffle_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return UNSHUFFLE(grad, ctx.factor, ctx.backend), None, None


def _unshuffle_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return SHUFFLE(grad, ctx.factor, ctx.backend), None, None


def _forward_add(ctx: Any, run: Callable[..., Tensor], args: tuple[Any, ...]) -> Tensor:
    _, _, first, _, second, scale, _ = args
    # one factor per argument of the schema, at its tensor's position
    ctx.factors = scale, first, None, second, None, None, None
    return run(*args)


def _add_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    pairs = zip(ctx.factors, ctx.needs_input_grad[1:], strict=True)
    return tuple(grad * factor if need else None for factor, need in pairs)


SHUFFLE, _plain_shuffle, _ = _library.define(
    "pixel_shuffle",
    "(Tensor input, int upscale_factor, str backend='') -> Tensor",
    _pack_shuffle,
    _empty_shuffle,
)
UNSHUFFLE, _plain_unshuffle, _ = _library.define(
    "pixel_unshuffle",
    "(Tensor input, int downscale_factor, str backend='') -> Tensor",
    _pack_unshuffle,
    _empty_unshuffle,
)
ADD, _plain_add, _ = _library.define(
    "residual_add",
    "(Tensor input, Tensor residual1, float residual1_weight=1.0, Tensor? residual2=None, "
    "float residual2_weight=1.0, float scale=1.0, str backend='') -> Tensor",
    _pack_add,
    _empty_add,
)
_library.differentiable("pixel_shuffle", SHUFFLE, _plain_shuffle, _forward_shuffle, _shuffle_backward)
_library.differentiable("pixel_unshuffle", UNSHUFFLE, _plain_unshuffle, _forward_shuffle, _unshuffle_backward)
_library.differentiable("residual_add", ADD, _plain_add, _forward_add, _add_backward)
_library.autocast("residual_add", ADD, _library.widest)
_library.vmap("pixel_shuffle", SHUFFLE, samples=(0,))
_library.vmap("pixel_unshuffle", UNSHUFFLE, samples=(0,))
_library.vmap("residual_add", ADD, samples=(0, 1, 3))


def pixel_shuffle(input: Tensor, upscale_factor: int, *, backend: str | None = None) -> Tensor:
    """Depth to space, (N, C*r*r, H, W) -> (N, C, H*r, W*r) (ESPCN, Shi et al. 2016), as F.pixel_shuffle.

    dtype and memory format are kept. Raises TypeError or ValueError naming the argument that does not fit,
    BackendError where the backend asked for cannot run it.
    """
    _arguments.tensors("pixel_shuffle", input=input)
    factor = _arguments.integer("pixel_shuffle", "upscale_factor", upscale_factor)
    result: Tensor = SHUFFLE(input, factor, _arguments.text("pixel_shuffle", "backend", backend, ""))
    return result


def pixel_unshuffle(input: Tensor, downscale_factor: int, *, backend: str | None = None) -> Tensor:
    """Space to depth, (N, C, H*r, W*r) -> (N, C*r*r, H, W), as F.pixel_unshuffle.

    dtype and memory format are kept. Raises TypeError or ValueError naming the argument that does not fit,
    BackendError where the backend asked for cannot run it.
    """
    _arguments.tensors("pixel_unshuffle", input=input)
    factor = _arguments.integer("pixel_unshuffle", "downscale_factor", downscale_factor)
    result: Tensor = UNSHUFFLE(input, factor, _arguments.text("pixel_unshuffle", "backend", backend, ""))
    return result


def residual_add(
    input: Tensor, residual: _arguments.Residual, *, scale: float = 1.0, backend: str | None = None
) -> Tensor:
    """scale * input + sum(w_i * residual_i) in one pass.

    input and each residual are (N, C, H, W) of one dtype; residual is a tensor, or one or two pairs
    (tensor, weight). dtype and memory format of input are kept. Raises TypeError or ValueError naming the
    argument that does not fit, BackendError where the backend asked for cannot run it.
    """
    _arguments.tensors("residual_add", input=input)
    first, first_weight, second, second_weight = _arguments.residuals("residual_add", residual)
    if first is None:
        raise ValueError(
            "residual_add: residual must be a tensor or one or two pairs (tensor, weight), got none"
        )
    scale = _arguments.number("residual_add", "scale", scale)
    backend = _arguments.text("residual_add", "backend", backend, "")
    result: Tensor = ADD(input, first, first_weight, second, second_weight, scale, backend)
    return result
