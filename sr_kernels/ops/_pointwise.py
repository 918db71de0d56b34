# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The memory-bound ops: pixel shuffle and its inverse, and weighted addition."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sr_kernels.backends.base import dense_strides, memory_format_of
from sr_kernels.backends.registry import select
from sr_kernels.ops import _arguments, _check, _library


def _like(input: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    return input.new_empty_strided(shape, dense_strides(shape, memory_format_of(input)))


def _check_shuffle(input: Tensor, factor: int) -> None:
    _check.pictures("pixel_shuffle", input)
    if factor < 1 or input.shape[1] % (factor * factor):
        raise ValueError(
            f"pixel_shuffle: upscale_factor must be at least 1 and its square divide the {input.shape[1]} "
            f"channels of input {_check.shape_of(input)}, got {factor}"
        )


def _shuffle_kernel(input: Tensor, upscale_factor: int, backend: str = "") -> Tensor:
    _check_shuffle(input, upscale_factor)
    args = (input, upscale_factor)
    return select("pixel_shuffle", input.device.type, args, backend).pixel_shuffle(*args)


def _shuffle_fake(input: Tensor, upscale_factor: int, backend: str = "") -> Tensor:
    _check_shuffle(input, upscale_factor)
    n, c, h, w = input.shape
    r = upscale_factor
    return _like(input, (n, c // (r * r), h * r, w * r))


def _check_unshuffle(input: Tensor, factor: int) -> None:
    _check.pictures("pixel_unshuffle", input)
    if factor < 1 or input.shape[2] % factor or input.shape[3] % factor:
        raise ValueError(
            f"pixel_unshuffle: downscale_factor must be at least 1 and divide height and width of input "
            f"{_check.shape_of(input)}, got {factor}; pad the input to a multiple"
        )


def _unshuffle_kernel(input: Tensor, downscale_factor: int, backend: str = "") -> Tensor:
    _check_unshuffle(input, downscale_factor)
    args = (input, downscale_factor)
    return select("pixel_unshuffle", input.device.type, args, backend).pixel_unshuffle(*args)


def _unshuffle_fake(input: Tensor, downscale_factor: int, backend: str = "") -> Tensor:
    _check_unshuffle(input, downscale_factor)
    n, c, h, w = input.shape
    r = downscale_factor
    return _like(input, (n, c * r * r, h // r, w // r))


def _check_add(input: Tensor, residuals: tuple[tuple[Tensor, float], ...]) -> None:
    _check.pictures("residual_add", input)
    _check.residuals("residual_add", residuals, input, input.shape)


def _add_kernel(
    input: Tensor,
    residual1: Tensor,
    residual1_weight: float = 1.0,
    residual2: Tensor | None = None,
    residual2_weight: float = 1.0,
    scale: float = 1.0,
    backend: str = "",
) -> Tensor:
    residuals = _arguments.pairs(residual1, residual1_weight, residual2, residual2_weight)
    _check_add(input, residuals)
    args = (input, residuals, scale)
    return select("residual_add", input.device.type, args, backend).residual_add(*args)


def _add_fake(
    input: Tensor,
    residual1: Tensor,
    residual1_weight: float = 1.0,
    residual2: Tensor | None = None,
    residual2_weight: float = 1.0,
    scale: float = 1.0,
    backend: str = "",
) -> Tensor:
    _check_add(input, _arguments.pairs(residual1, residual1_weight, residual2, residual2_weight))
    n, c, h, w = input.shape
    return _like(input, (n, c, h, w))


def _shuffle_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.factor, ctx.backend = inputs


def _shuffle_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return UNSHUFFLE(grad, ctx.factor, ctx.backend), None, None


def _unshuffle_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return SHUFFLE(grad, ctx.factor, ctx.backend), None, None


def _add_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, first, _, second, scale, _ = inputs
    # one factor per tensor of the schema, at its position
    ctx.factors = scale, first, None, second, None, None, None


def _add_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = tuple(ctx.needs_input_grad) + (False,) * 7
    return tuple(grad * factor if need else None for factor, need in zip(ctx.factors, needs, strict=False))


SHUFFLE = _library.define(
    "pixel_shuffle",
    "(Tensor input, int upscale_factor, str backend='') -> Tensor",
    _shuffle_kernel,
    _shuffle_fake,
)
UNSHUFFLE = _library.define(
    "pixel_unshuffle",
    "(Tensor input, int downscale_factor, str backend='') -> Tensor",
    _unshuffle_kernel,
    _unshuffle_fake,
)
ADD = _library.define(
    "residual_add",
    "(Tensor input, Tensor residual1, float residual1_weight=1.0, Tensor? residual2=None, "
    "float residual2_weight=1.0, float scale=1.0, str backend='') -> Tensor",
    _add_kernel,
    _add_fake,
)
_library.differentiable("pixel_shuffle", _shuffle_setup, _shuffle_backward)
_library.differentiable("pixel_unshuffle", _shuffle_setup, _unshuffle_backward)
_library.differentiable("residual_add", _add_setup, _add_backward)
_library.autocast("residual_add", ADD, _library.widest)
_library.vmap("pixel_shuffle", SHUFFLE, samples=(0,))
_library.vmap("pixel_unshuffle", UNSHUFFLE, samples=(0,))
_library.vmap("residual_add", ADD, samples=(0, 1, 3))


def pixel_shuffle(input: Tensor, upscale_factor: int, *, backend: str | None = None) -> Tensor:
    """Depth to space, (N, C*r*r, H, W) -> (N, C, H*r, W*r) (ESPCN, Shi et al. 2016), as F.pixel_shuffle.

    dtype and memory format are kept. Raises TypeError or ValueError naming the argument that does not fit,
    BackendError where the backend asked for cannot run it.
    """
    _arguments.tensor("pixel_shuffle", "input", input)
    result: Tensor = SHUFFLE(input, upscale_factor, backend or "")
    return result


def pixel_unshuffle(input: Tensor, downscale_factor: int, *, backend: str | None = None) -> Tensor:
    """Space to depth, (N, C, H*r, W*r) -> (N, C*r*r, H, W), as F.pixel_unshuffle.

    dtype and memory format are kept. Raises TypeError or ValueError naming the argument that does not fit,
    BackendError where the backend asked for cannot run it.
    """
    _arguments.tensor("pixel_unshuffle", "input", input)
    result: Tensor = UNSHUFFLE(input, downscale_factor, backend or "")
    return result


def residual_add(
    input: Tensor, residual: _arguments.Residual, *, scale: float = 1.0, backend: str | None = None
) -> Tensor:
    """scale * input + sum(w_i * residual_i) in one pass.

    input and each residual are (N, C, H, W) of one dtype; residual is a tensor, or one or two pairs
    (tensor, weight). dtype and memory format of input are kept. Raises TypeError or ValueError naming the
    argument that does not fit, BackendError where the backend asked for cannot run it.
    """
    _arguments.tensor("residual_add", "input", input)
    first, first_weight, second, second_weight = _arguments.residuals("residual_add", residual)
    if first is None:
        raise ValueError(
            "residual_add: residual must be a tensor or one or two pairs (tensor, weight), got none"
        )
    result: Tensor = ADD(input, first, first_weight, second, second_weight, scale, backend or "")
    return result
