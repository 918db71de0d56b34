# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Consecutive convolutions as one op, so that a backend can keep what passes between them in its caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sr_kernels.backends.base import ChainArgs, ConvArgs, dense_strides, expanded, memory_format_of
from sr_kernels.ops import _arguments, _check, _library
from sr_kernels.ops._conv2d import call as conv2d

# Of every layer: weight, bias, four paddings, activation and its slopes; the rest is the last one's.
_SCHEMA = (
    "(Tensor input, Tensor[] weights, Tensor?[] biases, int[] paddings, str[] activations, "
    "float[] negative_slopes, Tensor?[] prelu_weights, Tensor? residual1=None, float residual1_weight=1.0, "
    "Tensor? residual2=None, float residual2_weight=1.0, float scale=1.0, bool activation_after_add=False, "
    "int pixel_shuffle=1, Tensor? base=None, str base_mode='none', str backend='') -> Tensor"
)
_NO_END = (None, 1.0, None, 1.0, 1.0, False, 1, None, "none", "")
_EACH = ("weight", "bias", "padding", "activation", "negative_slope", "prelu_weight")
_LAST = ("residual", "scale", "activation_after_add", "pixel_shuffle", "base", "base_mode")


def _pack(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    paddings: Sequence[int],
    activations: Sequence[str],
    negative_slopes: Sequence[float],
    prelu_weights: Sequence[Tensor | None],
    residual1: Tensor | None = None,
    residual1_weight: float = 1.0,
    residual2: Tensor | None = None,
    residual2_weight: float = 1.0,
    scale: float = 1.0,
    activation_after_add: bool = False,
    pixel_shuffle: int = 1,
    base: Tensor | None = None,
    base_mode: str = "none",
    backend: str = "",
) -> _library.Packed:
    """The schema's arguments, validated."""
    count = len(weights)
    counts = [len(biases), len(paddings) // 4, len(activations), len(negative_slopes), len(prelu_weights)]
    if count == 0 or counts != [count] * 5 or len(paddings) % 4:
        raise ValueError(
            f"conv2d_chain: {count} weights, {counts[0]} biases, {len(paddings)} paddings, {counts[2]} "
            f"activations, {counts[3]} slopes and {counts[4]} PReLU weights; give at least one weight, four "
            "paddings for each, and one of everything else"
        )
    layers: list[ConvArgs] = []
    for i in range(count):
        x = input if i == 0 else expanded(layers[-1].output_shape(), input)
        layer = ConvArgs(x, weights[i], biases[i], padding=paddings[4 * i : 4 * i + 4])
        layer.activation, layer.negative_slope = activations[i], negative_slopes[i]
        layer.prelu_weight = prelu_weights[i]
        if i == count - 1:
            layer.residuals = _arguments.pairs(residual1, residual1_weight, residual2, residual2_weight)
            layer.scale, layer.activation_after_add = scale, activation_after_add
            layer.pixel_shuffle, layer.base, layer.base_mode = pixel_shuffle, base, base_mode
        with _named(i):
            _check.convolution(layer)
        layers.append(layer)
    return ChainArgs(layers), backend


class _named:
    """Within it, errors of conv2d name the layer of the chain."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (TypeError, ValueError)):
            message = str(error).removeprefix("conv2d: ")
            raise type(error)(f"conv2d_chain: layers[{self.layer}]: {message}") from None


def _empty(args: ChainArgs) -> Tensor:
    x, shape = args.input, args.layers[-1].output_shape()
    return x.new_empty_strided(shape, dense_strides(shape, memory_format_of(x)))


def _one_by_one(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    paddings: Sequence[int],
    activations: Sequence[str],
    negative_slopes: Sequence[float],
    prelu_weights: Sequence[Tensor | None],
    *last: Any,
) -> Tensor:
    """The same by conv2d: where no backend does better, and wherever gradients are asked for."""
    last += _NO_END[len(last) :]
    y = input
    for i, weight in enumerate(weights):
        end = last if i == len(weights) - 1 else (*_NO_END[:-1], last[-1])
        y = conv2d(
            y,
            weight,
            biases[i],
            (1, 1),
            tuple(paddings[4 * i : 4 * i + 4]),
            (1, 1),
            1,
            1,
            activations[i],
            negative_slopes[i],
            prelu_weights[i],
            *end,
        )
    return y


def _autograd(*args: Any) -> Tensor:
    if torch._C._are_functorch_transforms_active() or _library.has_tangent(args) or _wants_gradient(args):
        _pack(*args)
        return _one_by_one(*args)
    with torch._C._AutoDispatchBelowAutograd():
        result: Tensor = OP(*args)
    return result


def _wants_gradient(args: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and torch._C._any_requires_grad(*args)


OP, _, call = _library.define("conv2d_chain", _SCHEMA, _pack, _empty, _one_by_one)
_library.LIBRARY.impl("conv2d_chain", _autograd, "Autograd")
_library.autocast("conv2d_chain", OP, _library.lower_precision)
_library.vmap("conv2d_chain", OP, samples=(0, 7, 9, 14))


def conv2d_chain(input: Tensor, layers: Sequence[Mapping[str, Any]], *, backend: str | None = None) -> Tensor:
    """Convolutions one after the other, equal to

        for layer in layers:
            input = conv2d(input, **layer)

    Where that takes less time (thin layers of large pictures), a backend runs all layers on one piece of the
    picture before it goes on to the next, so that what passes between them stays in its caches and is never
    written to memory. Precision is conv2d's.

    Args:
        input: (N, C, H, W); the result has its dtype and memory format.
        layers: one mapping of conv2d's arguments per layer: weight, and where wanted bias, padding,
            activation, negative_slope and prelu_weight. The last layer's may hold residual, scale,
            activation_after_add, pixel_shuffle, base and base_mode too. Stride, dilation and groups are 1.
        backend: a backend's name, explicit; by default the first able one runs.

    While gradients are needed, and under torch.func's transforms, the layers run one by one.

    Raises TypeError or ValueError naming the layer and the argument that does not fit, BackendError where the
    backend asked for cannot run it.
    """
    op = "conv2d_chain"
    _arguments.tensors(op, input=input)
    if not isinstance(layers, (list, tuple)) or not layers:
        raise TypeError(f"{op}: layers must be a list of at least one mapping, got {_of(layers)}")
    for i, layer in enumerate(layers):
        _check_names(op, i, layer, i == len(layers) - 1)
    each: list[list[Any]] = [[], [], [], [], [], []]
    for i, layer in enumerate(layers):
        with _named(i):
            weight = layer["weight"]
            _arguments.tensors("conv2d", weight=weight)
            bias, slopes = layer.get("bias"), layer.get("prelu_weight")
            _arguments.optional_tensors("conv2d", bias=bias, prelu_weight=slopes)
            kernel = _check.kernel_size("conv2d", weight)
            each[0].append(weight)
            each[1].append(bias)
            each[2] += _arguments.padding("conv2d", layer.get("padding", 0), kernel)
            each[3].append(_arguments.text("conv2d", "activation", layer.get("activation"), "none"))
            each[4].append(_arguments.number("conv2d", "negative_slope", layer.get("negative_slope", 0.01)))
            each[5].append(slopes)
    last = layers[-1]
    with _named(len(layers) - 1):
        _arguments.optional_tensors("conv2d", base=last.get("base"))
        end = (
            *_arguments.residuals("conv2d", last.get("residual")),
            _arguments.number("conv2d", "scale", last.get("scale", 1.0)),
            _arguments.flag("conv2d", "activation_after_add", last.get("activation_after_add", False)),
            _arguments.integer("conv2d", "pixel_shuffle", last.get("pixel_shuffle", 1)),
            last.get("base"),
            _arguments.text("conv2d", "base_mode", last.get("base_mode"), "none"),
        )
    result: Tensor = call(input, *each, *end, _arguments.text(op, "backend", backend, ""))
    return result


def _of(layers: object) -> str:
    return "an empty one" if isinstance(layers, (list, tuple)) else type(layers).__name__


def _check_names(op: str, i: int, layer: object, is_last: bool) -> None:
    if not isinstance(layer, Mapping):
        raise TypeError(
            f"{op}: layers[{i}] must be a mapping of conv2d's arguments, got {type(layer).__name__}"
        )
    if "weight" not in layer:
        raise TypeError(f"{op}: layers[{i}] has no weight")
    for name in layer:
        if name in _EACH or (is_last and name in _LAST):
            continue
        cure = "only the last layer may have it" if name in _LAST else "run that layer by conv2d"
        raise TypeError(f"{op}: layers[{i}] holds {name!r}, which a chain does not take there; {cure}")
