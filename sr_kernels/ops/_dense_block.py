# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The residual dense block of ESRGAN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_kernels.backends.base import DenseBlockArgs, dense_strides, memory_format_of
from sr_kernels.ops import _arguments, _check, _library

aten = torch.ops.aten

_SCHEMA = (
    "(Tensor input, Tensor[] weights, Tensor?[] biases, float negative_slope=0.2, float scale=0.2, "
    "float input_scale=1.0, Tensor? residual1=None, float residual1_weight=1.0, Tensor? residual2=None, "
    "float residual2_weight=1.0, str backend='') -> Tensor"
)


def _pack(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    negative_slope: float = 0.2,
    scale: float = 0.2,
    input_scale: float = 1.0,
    residual1: Tensor | None = None,
    residual1_weight: float = 1.0,
    residual2: Tensor | None = None,
    residual2_weight: float = 1.0,
    backend: str = "",
) -> _library.Packed:
    """The schema's arguments, validated."""
    residuals = _arguments.pairs(residual1, residual1_weight, residual2, residual2_weight)
    args = DenseBlockArgs(input, weights, biases, negative_slope, scale, input_scale, residuals)
    _check.dense_block(args)
    return args, backend


def _empty(args: DenseBlockArgs) -> Tensor:
    shape = args.input.shape
    return args.input.new_empty_strided(shape, dense_strides(shape, memory_format_of(args.input)))


def _forward(ctx: Any, run: Callable[..., Tensor], args: tuple[Any, ...]) -> Tensor:
    input, weights, biases, ctx.negative_slope, ctx.scale, ctx.input_scale, *rest = args
    ctx.residual_weights = rest[1], rest[3]
    ctx.has_residual = rest[0] is not None, rest[2] is not None
    ctx.has_bias = [bias is not None for bias in biases]
    ctx.save_for_backward(input, *weights, *(bias for bias in biases[:-1] if bias is not None))
    return run(*args)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """The features are computed again, then walked back; every step is differentiable itself."""
    count = len(ctx.has_bias)
    input, *saved = ctx.saved_tensors
    weights, given = saved[:count], iter(saved[count:])
    biases = [next(given) if has else None for has in ctx.has_bias[:-1]]

    # features[i] is what convolution i adds to its input; hidden[i] the same before the activation
    features, hidden = [input], []
    for weight, bias in zip(weights[:-1], biases, strict=True):
        hidden.append(F.conv2d(torch.cat(features, 1), weight, bias, padding=weight.shape[-1] // 2))
        features.append(F.leaky_relu(hidden[-1], ctx.negative_slope))

    weight_grads: list[Tensor | None] = [None] * count
    bias_grads: list[Tensor | None] = [None] * count
    feature_grads: list[Any] = [grad * ctx.input_scale, *[0.0] * (count - 1)]
    sizes = [feature.shape[1] for feature in features]
    for i in reversed(range(count)):
        if i == count - 1:
            g = grad * ctx.scale
        else:
            g = aten.leaky_relu_backward(feature_grads[i + 1], hidden[i], ctx.negative_slope, False)
        pad = weights[i].shape[-1] // 2
        dx, weight_grads[i], db = aten.convolution_backward(
            g,
            torch.cat(features[: i + 1], 1),
            weights[i],
            [weights[i].shape[0]],
            [1, 1],
            [pad, pad],
            [1, 1],
            False,
            [0, 0],
            1,
            [True, True, ctx.has_bias[i]],
        )
        bias_grads[i] = db if ctx.has_bias[i] else None
        for j, part in enumerate(dx.split(sizes[: i + 1], 1)):
            feature_grads[j] = feature_grads[j] + part
    first, second = ctx.residual_weights
    return (
        feature_grads[0],
        weight_grads,
        bias_grads,
        None,
        None,
        None,
        grad * first if ctx.has_residual[0] else None,
        None,
        grad * second if ctx.has_residual[1] else None,
        None,
        None,
    )


OP, _plain = _library.define("dense_block", _SCHEMA, _pack, _empty)
_library.differentiable("dense_block", OP, _plain, _forward, _backward)
_library.autocast("dense_block", OP, _library.lower_precision)
_library.vmap("dense_block", OP, samples=(0, 6, 8))


def dense_block(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    negative_slope: float = 0.2,
    scale: float = 0.2,
    input_scale: float = 1.0,
    residual: _arguments.Residual | None = None,
    backend: str | None = None,
) -> Tensor:
    """Residual dense block (ESRGAN, Wang et al. 2018): convolution i takes the input and all results before
    it, concatenated; all but the last are followed by leaky ReLU.

        y = scale * conv_k(cat) + input_scale * input + sum(w_i * residual_i)

    Shapes: input (N, C, H, W); weights[i] (G_i, C + G_0 + ... + G_{i-1}, k, k) with odd k, the last giving
    C channels; biases[i] (G_i,) or None; each residual as input. The result has input's shape, dtype and
    memory format. residual is a tensor, or at most two pairs (tensor, weight).

    Raises TypeError or ValueError naming the argument that does not fit, BackendError where the backend
    asked for cannot run it.
    """
    _arguments.tensors("dense_block", input=input)
    for name, values in (("weights", weights), ("biases", biases)):
        if not isinstance(values, (list, tuple)):
            raise TypeError(f"dense_block: {name} must be a list of tensors, got {type(values).__name__}")
        check = _arguments.tensors if name == "weights" else _arguments.optional_tensors
        check("dense_block", **{f"{name}[{i}]": value for i, value in enumerate(values)})
    result: Tensor = OP(
        input,
        list(weights),
        list(biases),
        negative_slope,
        scale,
        input_scale,
        *_arguments.residuals("dense_block", residual),
        backend or "",
    )
    return result
