# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The backend: what it takes, what it refuses, and its launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sr_kernels.backends import cuda_choice
from sr_kernels.backends.base import (
    ActivationArgs,
    Backend,
    ChainArgs,
    ConvArgs,
    DenseBlockArgs,
    dense_block_reasons,
    dense_strides,
    dtype_reasons,
    memory_format_of,
    move_reasons,
    pixel_major,
    with_format,
)
from sr_kernels.backends.registry import record
from sr_kernels.backends.triton import moves, plan, selfcheck
from sr_kernels.backends.triton.launch import INTERPRETED
from sr_kernels.backends.triton.moves import empty_like
from sr_kernels.backends.triton.plan import ConvPlan

_BACKWARD_CHANNELS = 1024
# At half of it, 16x64x128x128, the backward of a layer with relu takes 345 us in eager on an H100, 442 here.
_BACKWARD_ELEMENTS = 1 << 25
_TOO_LONG = "rows are too long for offsets of 32 bits"


class TritonBackend(Backend):
    """Kernels that Triton compiles at first use, for channels_last tensors of 16-bit floats and float32."""

    name = "triton"

    def unavailable(self) -> list[str]:
        if INTERPRETED:
            return []
        if not torch.cuda.is_available():
            return ["PyTorch sees no GPU"]
        return []

    def reasons(self, op: str, args: object) -> list[str]:
        if isinstance(args, ChainArgs):
            return ["convolutions run one by one here"]
        if isinstance(args, ConvArgs):
            return _conv_reasons(args)
        if isinstance(args, DenseBlockArgs):
            return _dense_block_reasons(args)
        if isinstance(args, ActivationArgs):
            if args.grad.shape[1] > _BACKWARD_CHANNELS:
                return ["too many channels for a tile"]
            return dtype_reasons([args.grad], plan.DTYPES) or _unproved("backward", args.grad)
        assert isinstance(args, tuple)
        x: Tensor = args[0]
        if op == "residual_add":
            return dtype_reasons([x, *(r for r, _ in args[1])], plan.DTYPES) or _unproved("sum", x)
        # values are moved as they are, or made from float32
        kind = "pictures" if op in ("image_to_float", "float_to_image") else "shuffles"
        return move_reasons(op, x) or selfcheck.reasons(x.device, kind, torch.float32)

    def slower(self, op: str, args: object) -> list[str]:
        if isinstance(args, ActivationArgs) and args.grad.numel() < _BACKWARD_ELEMENTS:
            return ["launching takes longer than one pass saves"]
        return cuda_choice.slower(self.name, op, args)

    def prepare(self, op: str, args: Any) -> Callable[[Any], Tensor]:
        if op == "conv2d":
            return _Conv2d(args)
        return _DenseBlock(args) if op == "dense_block" else super().prepare(op, args)

    def conv2d(self, args: ConvArgs) -> Tensor:
        return _Conv2d(args)(args)

    def dense_block(self, args: DenseBlockArgs) -> Tensor:
        return _DenseBlock(args)(args)

    def activation_backward(self, args: ActivationArgs) -> tuple[Tensor, Tensor, Tensor | None]:
        record("triton/activation_backward")
        return moves.activation_backward(args)

    def pixel_shuffle(self, input: Tensor, factor: int) -> Tensor:
        record("triton/pixel_shuffle")
        return moves.shuffle(input, factor)

    def pixel_unshuffle(self, input: Tensor, factor: int) -> Tensor:
        record("triton/pixel_unshuffle")
        return moves.unshuffle(input, factor)

    def residual_add(self, input: Tensor, residuals: Sequence[tuple[Tensor, float]], scale: float) -> Tensor:
        record("triton/residual_add")
        return moves.add(input, residuals, scale)

    def image_to_float(self, image: Tensor) -> Tensor:
        record("triton/image_to_float")
        return moves.to_float(image)

    def float_to_image(self, input: Tensor, dtype: torch.dtype) -> Tensor:
        record("triton/float_to_image")
        return moves.to_image(input, dtype)


class _Conv2d:
    """conv2d of arguments like the first."""

    def __init__(self, a: ConvArgs) -> None:
        self.shape = a.output_shape()
        self.format = memory_format_of(a.input)
        self.converts = dense_strides(self.shape, self.format) != dense_strides(
            self.shape, torch.channels_last
        )
        self.plans: dict[str, ConvPlan] = {}  # precision -> plan: torch's word on TF32 may change

    def __call__(self, a: ConvArgs) -> Tensor:
        y = empty_like(self.shape, a.input)
        made = self.plans.get(plan.precision_of(a.input.dtype))
        if made is None:
            made = ConvPlan(a, y)
            self.plans[made.precision] = made
        made.run(a, y)
        return with_format(y, self.format) if self.converts else y


class _DenseBlock:
    """dense_block of arguments like the first. Each layer reads the block's input and what has grown so far,
    slices of one buffer: nothing is concatenated."""

    def __init__(self, a: DenseBlockArgs) -> None:
        self.format = memory_format_of(a.input)
        self.plans: dict[tuple[int, str], ConvPlan] = {}  # of each layer, as _Conv2d has them

    def _run(self, i: int, layer: ConvArgs, grown: Tensor, y: Tensor) -> None:
        """The convolution of layer.input and, behind its channels, of `grown`, into y."""
        made = self.plans.get((i, plan.precision_of(y.dtype)))
        if made is None:
            load = plan.load_of(layer)
            c = plan.choose(layer, load)
            reads_both = load == "boxes" and layer.input.shape[1] % c.bk == 0 and plan.takes_boxes(grown)
            if grown.shape[1] and not reads_both:
                layer.input = pixel_major(torch.cat([layer.input, grown], 1))
                made = ConvPlan(layer, y)
            else:
                made = ConvPlan(layer, y, load, c, grown.shape[1])
            self.plans[i, made.precision] = made
        elif made.second != grown.shape[1]:
            layer.input = pixel_major(torch.cat([layer.input, grown], 1))
        made.run(layer, y, grown if made.second else None)

    def __call__(self, a: DenseBlockArgs) -> Tensor:
        x = pixel_major(a.input)
        n, _, h, w = x.shape
        widths = [weight.shape[0] for weight in a.weights[:-1]]
        grown = empty_like((n, max(sum(widths), 1), h, w), x)
        end = 0
        for i, weight in enumerate(a.weights):
            width = weight.shape[0]
            y = grown[:, end : end + width] if i < len(widths) else empty_like((n, width, h, w), x)
            self._run(i, _layer_of_block(a, i, x), grown[:, :end], y)
            end += width
        return with_format(y, self.format)


def _layer_of_block(a: DenseBlockArgs, i: int, x: Tensor) -> ConvArgs:
    """Layer i, its input being x and what has grown."""
    layer = ConvArgs(x, a.weights[i], a.biases[i], padding=(a.weights[i].shape[2] // 2,) * 4)
    if i < len(a.weights) - 1:
        layer.activation, layer.negative_slope = "leaky_relu", a.negative_slope
    else:
        layer.scale, layer.residuals = a.scale, [(x, a.input_scale), *a.residuals]
    return layer


def _conv_reasons(a: ConvArgs) -> list[str]:
    reasons = dtype_reasons([a.input], plan.DTYPES)
    if a.groups > 1:
        reasons.append(f"{a.groups} groups: only 1 has a kernel")
    if a.upsample > 1 and (max(a.stride) > 1 or max(a.dilation) > 1):
        reasons.append("upsample needs stride 1 and dilation 1")
    tensors = [a.input, *(r for r, _ in a.residuals), *([] if a.base is None else [a.base])]
    if plan.overflows(tensors, [a.output_shape()], a.upsample * a.pixel_shuffle):
        reasons.append(_TOO_LONG)
    return reasons or _unproved(plan.load_of(a), a.input)


def _dense_block_reasons(a: DenseBlockArgs) -> list[str]:
    reasons = dense_block_reasons(a, plan.DTYPES)
    n, c, h, w = a.input.shape
    grown = sum(weight.shape[0] for weight in a.weights[:-1])
    # what a layer reads may have to be concatenated
    if plan.overflows([a.input, *(r for r, _ in a.residuals)], [(n, c + grown, h, w)]):
        reasons.append(_TOO_LONG)
    if reasons:
        return reasons
    return [reason for load in sorted(_loads_of_block(a)) for reason in _unproved(load, a.input)]


def _loads_of_block(a: DenseBlockArgs) -> set[str]:
    """The ways in which a layer may read: its input as it lies, or concatenated."""
    loads = {plan.load_of(_layer_of_block(a, i, a.input)) for i in range(len(a.weights))}
    if loads & {"boxes", "pointers"}:
        n, _, h, w = a.input.shape
        widths = [weight.shape[1] for weight in a.weights[1:]]
        joined = [torch.empty((n, c, h, w), device="meta", dtype=a.input.dtype) for c in widths]
        index = a.input.device.index or 0
        loads |= {"boxes" if plan.takes_boxes(x, index) else "pointers" for x in joined}
    return loads


def _unproved(kind: str, x: Tensor) -> list[str]:
    return selfcheck.reasons(x.device, kind, x.dtype)
