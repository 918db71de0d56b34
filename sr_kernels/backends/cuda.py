# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The native CUDA kernels (csrc/cuda): tensor cores, channels_last inside, float16 and bfloat16."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sr_kernels.backends import cuda_check, cuda_choice, cuda_moves, cuda_plan
from sr_kernels.backends.base import (
    Backend,
    ChainArgs,
    ConvArgs,
    DenseBlockArgs,
    dense_block_reasons,
    dense_strides,
    dtype_reasons,
    is_pixel_major,
    memory_format_of,
    move_reasons,
    pixel_major,
    shuffled,
    unshuffled,
    with_format,
)
from sr_kernels.backends.cuda_plan import (
    ConvPlan,
    fits,
    is_aligned,
    is_thin,
    lay_out,
    place,
    reads_two,
)
from sr_kernels.backends.registry import record

_MAX_KERNEL = 9


class CudaBackend(Backend):
    """Fused kernels of csrc/cuda, or the reasons why a call is none of theirs."""

    name = "cuda"

    def unavailable(self) -> list[str]:
        if cuda_plan.native is None:
            return [cuda_plan.missing]
        if not torch.cuda.is_available() or torch.version.hip:
            return ["PyTorch sees no NVIDIA GPU"]
        return []

    def reasons(self, op: str, args: object) -> list[str]:
        if isinstance(args, ChainArgs):
            return ["convolutions run one by one here"]
        if isinstance(args, ConvArgs):
            device = args.input.device
            return (
                _conv_reasons(args)
                or cuda_check.reasons(device, cuda_plan.is_plain(args))
                or cuda_plan.refusals(args, cuda_check.left_out(device))
            )
        if isinstance(args, DenseBlockArgs):
            device = args.input.device
            return (
                dense_block_reasons(args, cuda_plan.HALVES, _MAX_KERNEL)
                or cuda_check.reasons(device, plain=True)
                or _layer_refusals(args, cuda_check.left_out(device))
            )
        assert isinstance(args, tuple)
        x: Tensor = args[0]
        if op == "residual_add" and (refused := dtype_reasons([x], tuple(cuda_plan.DTYPES))):
            return refused
        return move_reasons(op, x) or _shuffle_refusals(op, *args) or cuda_check.reasons(x.device)

    def slower(self, op: str, args: object) -> list[str]:
        return cuda_choice.slower(self.name, op, args)

    def prepare(self, op: str, args: Any) -> Callable[[Any], Tensor]:
        if op == "conv2d":
            return _Conv2d(args)
        return _DenseBlock(args) if op == "dense_block" else super().prepare(op, args)

    def conv2d(self, args: ConvArgs) -> Tensor:
        return _Conv2d(args)(args)

    def dense_block(self, args: DenseBlockArgs) -> Tensor:
        return _DenseBlock(args)(args)

    def pixel_shuffle(self, input: Tensor, factor: int) -> Tensor:
        record("cuda/pixel_shuffle")
        return cuda_moves.shuffle(input, factor)

    def pixel_unshuffle(self, input: Tensor, factor: int) -> Tensor:
        record("cuda/pixel_unshuffle")
        return cuda_moves.unshuffle(input, factor)

    def residual_add(self, input: Tensor, residuals: Sequence[tuple[Tensor, float]], scale: float) -> Tensor:
        record("cuda/residual_add")
        return cuda_moves.add(input, residuals, scale)

    def image_to_float(self, image: Tensor) -> Tensor:
        record("cuda/image_to_float")
        return cuda_moves.to_float(image)

    def float_to_image(self, input: Tensor, dtype: torch.dtype) -> Tensor:
        record("cuda/float_to_image")
        return cuda_moves.to_image(input, dtype)


class _Conv2d:
    """conv2d of arguments like the first; a plan for each way in which addresses decide what runs: whether
    the input is read in place or from a copy, and whether what is added lies at multiples of 16 bytes."""

    def __init__(self, a: ConvArgs) -> None:
        self.shape = a.output_shape()
        self.is_empty = 0 in self.shape
        self.strides = dense_strides(self.shape, torch.channels_last)
        self.format = memory_format_of(a.input)
        self.converts = dense_strides(self.shape, self.format) != self.strides
        self.fits, self.thin = fits(a.input), is_thin(a.input)
        added = _added(a)
        self.adds, self.copies = bool(added), not all(map(is_pixel_major, added))
        self.plans: dict[tuple[bool, bool], ConvPlan] = {}

    def __call__(self, a: ConvArgs) -> Tensor:
        y = cuda_plan.empty(self.shape, self.strides, a.input)
        in_place = self.fits and (self.thin or is_aligned(a.input))
        if self.copies or not in_place:
            a = _laid_out(a)
        key = in_place, not self.adds or all(map(is_aligned, _added(a)))
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans[key] = ConvPlan(a, y, cuda_check.left_out(y.device))
        record(plan.name)
        if not self.is_empty:
            plan.run(a, y)
        return with_format(y, self.format) if self.converts else y


def _added(a: ConvArgs) -> list[Tensor]:
    residuals = [residual for residual, _ in a.residuals]
    return residuals if a.base is None else [*residuals, a.base]


def _laid_out(a: ConvArgs) -> ConvArgs:
    """a, its tensors as the kernels read them."""
    residuals = [(pixel_major(residual), weight) for residual, weight in a.residuals]
    base = None if a.base is None else pixel_major(a.base)
    return replace(a, input=lay_out(a.input), residuals=residuals, base=base)


@dataclass(frozen=True, slots=True)
class _BlockPlan:
    """The convolutions of a dense block. copies: where a layer's kernel cannot read two tensors, the input is
    copied into the buffer's first channels."""

    copies: bool
    layers: Sequence[ConvPlan]


class _DenseBlock:
    """dense_block of arguments like the first: all its convolutions in one native call, each writing into its
    channels of one buffer, so that nothing is concatenated. Plans as `_Conv2d` has them."""

    def __init__(self, a: DenseBlockArgs) -> None:
        n, self.channels, h, w = a.input.shape
        widths = [weight.shape[0] for weight in a.weights[:-1]]
        self.ends = [sum(widths[:i]) for i in range(len(widths) + 1)]  # of what has grown before each layer
        self.shape, self.size = (n, h, w), a.input.element_size()
        self.strides = dense_strides(a.input.shape, torch.channels_last)
        self.format = memory_format_of(a.input)
        self.converts = dense_strides(a.input.shape, self.format) != self.strides
        self.plans: dict[tuple[bool, bool], _BlockPlan] = {}

    def _buffer(self, like: Tensor, copies: bool) -> Tensor:
        """For what grows, behind the input's channels where these are copied."""
        n, h, w = self.shape
        count = self.ends[-1] + (self.channels if copies else 0)
        shape = n, max(count + -count % 8, 8), h, w
        return cuda_plan.empty(shape, dense_strides(shape, torch.channels_last), like)

    def _layers(self, a: DenseBlockArgs, y: Tensor, copies: bool) -> list[_Layer]:
        """a: its tensors as the kernels read them."""
        buffer = self._buffer(a.input, copies)
        skip = self.channels if copies else 0
        layers: list[_Layer] = []
        for i, (weight, end) in enumerate(zip(a.weights, self.ends, strict=True)):
            second = buffer[:, :end] if end and not copies else None
            own = buffer[:, : skip + end] if copies else a.input
            layer = ConvArgs(own, weight, padding=(weight.shape[2] // 2,) * 4)
            if i < len(self.ends) - 1:
                layer.activation, layer.negative_slope = "leaky_relu", a.negative_slope
                into = buffer[:, skip + end : skip + self.ends[i + 1]]
            else:
                layer.scale, into = a.scale, y
                layer.residuals = [(a.input, a.input_scale), *a.residuals]
            layers.append((layer, into, second))
        return layers

    def _plan(self, a: DenseBlockArgs, y: Tensor) -> _BlockPlan:
        left_out = cuda_check.left_out(y.device)
        layers = self._layers(a, y, copies=False)
        two = [(layer, into, left_out, second) for layer, into, second in layers if second is not None]
        copies = not all(reads_two(*layer) for layer in two)
        if copies:
            layers = self._layers(a, y, copies=True)
        return _BlockPlan(copies, [ConvPlan(layer, into, left_out, second) for layer, into, second in layers])

    def __call__(self, a: DenseBlockArgs) -> Tensor:
        x = lay_out(a.input)
        y = cuda_plan.empty(a.input.shape, self.strides, x)
        residuals = [(pixel_major(residual), factor) for residual, factor in a.residuals]
        key = x is a.input, all(is_aligned(residual) for residual, _ in residuals)
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans[key] = self._plan(replace(a, input=x, residuals=residuals), y)
        for layer in plan.layers:
            record(layer.name)
        if y.numel():
            buffer = self._buffer(x, plan.copies)
            own, grown = x.data_ptr(), buffer.data_ptr()
            second = 0 if plan.copies else grown
            if plan.copies:
                buffer[:, : self.channels].copy_(x)
                own, grown = grown, grown + self.channels * self.size
            added = residuals[0][0].data_ptr() if residuals else 0
            pictures = [[own, grown + end * self.size, 0, 0, 0, second] for end in self.ends[:-1]]
            pictures.append([own, y.data_ptr(), x.data_ptr(), added, 0, second])
            layers = zip(plan.layers, a.weights, a.biases, strict=True)
            packed = [layer.packed(weight, bias, None) for layer, weight, bias in layers]
            steps = [step for layer in plan.layers for step in layer.steps]
            each = [(*of, *read.tails[0]) for of, read in zip(pictures, packed, strict=True)]
            cuda_plan.native.conv2d_steps(*place(y), steps, each)
        return with_format(y, self.format) if self.converts else y


_Layer = tuple[ConvArgs, Tensor, Tensor | None]  # a convolution, its result, what follows its input


def _conv_reasons(a: ConvArgs) -> list[str]:
    reasons = dtype_reasons([a.input], cuda_plan.HALVES)
    kh, kw = a.weight.shape[2:]
    if max(kh, kw) > _MAX_KERNEL:
        reasons.append(f"kernel {kh}x{kw} is larger than {_MAX_KERNEL}x{_MAX_KERNEL}")
    if a.groups > 1:
        reasons.append(f"{a.groups} groups: only 1 has a kernel")
    if max(a.stride) > 2:
        reasons.append(f"stride {tuple(a.stride)} is above 2")
    if max(a.dilation) > 1:
        reasons.append(f"dilation {tuple(a.dilation)} is above 1")
    if a.upsample > 1 and max(a.stride) > 1:
        reasons.append("upsample needs stride 1")
    return reasons


def _layer_refusals(a: DenseBlockArgs, left_out: Sequence[str]) -> list[str]:
    """Of a dense block's convolutions; asked at every call, and kept."""
    weights = tuple(weight.shape for weight in a.weights)
    return list(_refusals_by_shape(a.input.shape, weights, tuple(left_out)))


@functools.lru_cache(maxsize=1024)
def _refusals_by_shape(
    shape: torch.Size, weights: tuple[torch.Size, ...], left_out: tuple[str, ...]
) -> tuple[str, ...]:
    n, _, h, w = shape
    found: dict[str, None] = {}
    for weight in weights:
        ci, k = weight[1:3]
        x = torch.empty((n, h, w, ci + -ci % 8), dtype=torch.float16, device="meta").permute(0, 3, 1, 2)
        layer = ConvArgs(x[:, :ci], torch.empty(weight, device="meta"), padding=(k // 2,) * 4)
        found |= dict.fromkeys(cuda_plan.refusals(layer, left_out))
    return tuple(found)


def _shuffle_refusals(op: str, x: Tensor, *others: Any) -> list[str]:
    """Of any op but convolutions; others: the factor, where it is a shuffle."""
    if op not in ("pixel_shuffle", "pixel_unshuffle"):
        return []
    [factor] = others
    fine = shuffled(x.shape, factor) if op == "pixel_shuffle" else x.shape
    n, c, h, w = fine
    strides = [dense_strides(shape, memory_format_of(x)) for shape in (unshuffled(fine, factor), fine)]
    size = n, h // factor, w // factor, c
    reason = cuda_plan.native.shuffle_refusal(size, *strides, factor, x.dtype.itemsize)
    return [reason] if reason else []
