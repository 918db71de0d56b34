# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The residual dense block of ESRGAN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_kernels import reference
from sr_kernels.backends.base import ConvArgs, DenseBlockArgs, dense_strides, memory_format_of, with_format
from sr_kernels.backends.registry import chosen
from sr_kernels.ops import _arguments, _check, _library
from sr_kernels.ops._conv2d import OP as CONV2D
from sr_kernels.ops._input_gradient import input_gradient

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
) -> tuple[DenseBlockArgs, str]:
    """The schema's arguments, brought together."""
    residuals = _arguments.pairs(residual1, residual1_weight, residual2, residual2_weight)
    args = DenseBlockArgs(input, weights, biases, negative_slope, scale, input_scale, residuals)
    return args, backend


def _empty(args: DenseBlockArgs) -> Tensor:
    shape = args.input.shape
    return args.input.new_empty_strided(shape, dense_strides(shape, memory_format_of(args.input)))


Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _walk(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    slope: float,
    convolve: Convolve,
) -> tuple[list[Tensor], list[Tensor]]:
    """(features, hidden): what each convolution adds to the next one's input, after the input itself; and the
    same before the activation."""
    features, hidden = [input], []
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        hidden.append(convolve(torch.cat(features, 1), weight, bias))
        features.append(F.leaky_relu(hidden[-1], slope))
    return features, hidden


def _plain_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def _forward(ctx: Any, run: Callable[..., Tensor], args: tuple[Any, ...]) -> Tensor:
    """Convolution by convolution, so that what the activations were applied to can be kept."""
    _check.dense_block(_pack(*args)[0])
    input, weights, biases, slope, scale, input_scale, *rest = args
    first, first_weight, second, second_weight, backend = rest

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = CONV2D(x, weight, bias, padding=[weight.shape[-1] // 2] * 4, backend=backend)
        return y

    features, hidden = _walk(input, weights, biases, slope, convolve)
    y = convolve(torch.cat(features, 1), weights[-1], biases[-1])
    residuals = _arguments.pairs(first, first_weight, second, second_weight)
    y = reference.residual_add(y, [(input, input_scale), *residuals], scale=scale)

    ctx.numbers = slope, scale, input_scale, first_weight, second_weight
    ctx.backend = chosen(backend)  # the backward keeps to it, wherever it runs
    ctx.has_bias = [bias is not None for bias in biases]
    ctx.save_for_backward(input, *weights, *hidden, *(bias for bias in biases if bias is not None))
    return with_format(y, memory_format_of(input))


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Every step is differentiable itself; for that the features are computed again."""
    slope, scale, input_scale, first_weight, second_weight = ctx.numbers
    count = len(ctx.has_bias)
    input, *saved = ctx.saved_tensors
    weights, hidden, given = saved[:count], saved[count : 2 * count - 1], iter(saved[2 * count - 1 :])
    if torch.is_grad_enabled():
        biases = [next(given) if has else None for has in ctx.has_bias]
        features, hidden = _walk(input, weights, biases, slope, _plain_convolution)
    else:
        features = [input, *(F.leaky_relu(z, slope) for z in hidden)]
    # the leaves of the arguments: input, weights, biases, two numbers and a scale, the residuals
    needs = ctx.needs_input_grad[1:]
    needs_weight, needs_bias, needs_rest = needs[1:], needs[1 + count :], needs[1 + 2 * count :]

    weight_grads: list[Tensor | None] = [None] * count
    bias_grads: list[Tensor | None] = [None] * count
    feature_grads: list[Any] = [grad * input_scale, *[None] * (count - 1)]
    sizes = [feature.shape[1] for feature in features]
    for i in reversed(range(count)):
        if i == count - 1:
            g = grad * scale
        else:
            g = aten.leaky_relu_backward(feature_grads[i + 1], hidden[i], slope, False)
        pad = weights[i].shape[-1] // 2
        x = torch.cat(features[: i + 1], 1)
        dx = input_gradient(g, ConvArgs(x, weights[i], padding=(pad,) * 4), ctx.backend)
        mask = [dx is None, needs_weight[i], needs_bias[i]]
        if any(mask):
            theirs, weight_grads[i], bias_grads[i] = aten.convolution_backward(
                g, x, weights[i], [weights[i].shape[0]], [1, 1], [pad, pad], [1, 1], False, [0, 0], 1, mask
            )
            dx = theirs if dx is None else dx
        assert dx is not None
        parts = dx.split(sizes[: i + 1], 1)
        feature_grads = [g if old is None else old + g for g, old in zip(parts, feature_grads, strict=False)]
    return (
        feature_grads[0],
        weight_grads,
        bias_grads,
        None,
        None,
        None,
        grad * first_weight if needs_rest[3] else None,
        None,
        grad * second_weight if needs_rest[5] else None,
        None,
        None,
    )


OP, _plain, call = _library.define("dense_block", _SCHEMA, _pack, _empty, check=_check.dense_block)
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
        for i, value in enumerate(values):
            if type(value) is not Tensor:  # names are made where they are needed
                check("dense_block", **{f"{name}[{i}]": value})
    result: Tensor = call(
        input,
        list(weights),
        list(biases),
        _arguments.number("dense_block", "negative_slope", negative_slope),
        _arguments.number("dense_block", "scale", scale),
        _arguments.number("dense_block", "input_scale", input_scale),
        *_arguments.residuals("dense_block", residual),
        _arguments.text("dense_block", "backend", backend, ""),
    )
    return result
