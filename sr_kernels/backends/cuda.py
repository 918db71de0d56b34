# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The native CUDA kernels (csrc/cuda): tensor cores, channels_last inside, float16 and bfloat16."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sr_kernels.backends import cuda_check, cuda_plan
from sr_kernels.backends.base import (
    Backend,
    ChainArgs,
    ConvArgs,
    DenseBlockArgs,
    dense_strides,
    memory_format_of,
    with_format,
)
from sr_kernels.backends.cuda_plan import ConvPlan, lay_out, pixel_major, place
from sr_kernels.backends.registry import record

_MAX_KERNEL = 9
_MAX_EXTENT = 1 << 29  # of a picture, with its window
_MOST_PLANS = 1024
_plans: dict[Hashable, ConvPlan] = {}


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
            return _conv_reasons(args) or cuda_check.reasons(args.input.device, cuda_plan.is_plain(args))
        if isinstance(args, DenseBlockArgs):
            return _dense_block_reasons(args) or cuda_check.reasons(args.input.device, plain=True)
        assert isinstance(args, tuple)
        x: Tensor = args[0]
        if op == "residual_add" and x.dtype not in cuda_plan.DTYPES:
            return [f"the kernels take float32, bfloat16 and float16, not {x.dtype}"]
        if op == "float_to_image" and x.dtype != torch.float32:
            return [f"pictures are made of float32, not of {x.dtype}"]
        if x.dtype.itemsize > 8:
            return [f"elements of {x.dtype} are wider than 8 bytes"]
        return cuda_check.reasons(x.device)

    def conv2d(self, args: ConvArgs) -> Tensor:
        memory_format = memory_format_of(args.input)
        y = _empty(args.output_shape(), torch.channels_last, args.input)
        _conv_into(args, y)
        return with_format(y, memory_format)

    def dense_block(self, args: DenseBlockArgs) -> Tensor:
        """Each layer writes its channels of one wide buffer: nothing is concatenated."""
        memory_format = memory_format_of(args.input)
        n, c, h, w = args.input.shape
        widths = [weight.shape[0] for weight in args.weights[:-1]]
        total = c + sum(widths)
        wide = args.input.new_empty((n, h, w, total + -total % 8)).permute(0, 3, 1, 2)
        wide[:, :c].copy_(args.input)
        y = _empty(args.input.shape, torch.channels_last, args.input)
        end = c
        for i, (weight, bias) in enumerate(zip(args.weights, args.biases, strict=True)):
            layer = ConvArgs(wide[:, :end], weight, bias, padding=(weight.shape[2] // 2,) * 4)
            if i < len(widths):
                layer.activation, layer.negative_slope = "leaky_relu", args.negative_slope
                _conv_into(layer, wide[:, end : end + widths[i]])
                end += widths[i]
            else:
                layer.scale = args.scale
                layer.residuals = [(wide[:, :c], args.input_scale), *args.residuals]
                _conv_into(layer, y)
        return with_format(y, memory_format)

    def pixel_shuffle(self, input: Tensor, factor: int) -> Tensor:
        record("cuda/pixel_shuffle")
        return shuffle(input, factor)

    def pixel_unshuffle(self, input: Tensor, factor: int) -> Tensor:
        record("cuda/pixel_unshuffle")
        return unshuffle(input, factor)

    def residual_add(self, input: Tensor, residuals: Sequence[tuple[Tensor, float]], scale: float) -> Tensor:
        record("cuda/residual_add")
        return add(input, residuals, scale)

    def image_to_float(self, image: Tensor) -> Tensor:
        record("cuda/image_to_float")
        return to_float(image)

    def float_to_image(self, input: Tensor, dtype: torch.dtype) -> Tensor:
        record("cuda/float_to_image")
        return to_image(input, dtype)


def _empty(shape: Sequence[int], memory_format: torch.memory_format, like: Tensor) -> Tensor:
    return like.new_empty_strided(tuple(shape), dense_strides(shape, memory_format))


def _conv_reasons(a: ConvArgs) -> list[str]:
    reasons = _dtype_reasons(a.input)
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
    extents = [*a.input.shape[2:], *a.output_shape()[2:], *map(abs, a.padding)]
    if max(extents) >= _MAX_EXTENT:
        reasons.append(f"an extent or padding is {_MAX_EXTENT} or more")
    return reasons


def _dense_block_reasons(a: DenseBlockArgs) -> list[str]:
    reasons = _dtype_reasons(a.input)
    if len(a.residuals) > 1:
        reasons.append("the kernels add two residuals at most, and the block's input is one of them")
    if any(w.shape[2] != w.shape[3] or w.shape[2] % 2 == 0 or w.shape[2] > _MAX_KERNEL for w in a.weights):
        reasons.append(f"kernels must be square, odd and at most {_MAX_KERNEL}")
    if max(a.input.shape[2:]) >= _MAX_EXTENT:
        reasons.append(f"an extent is {_MAX_EXTENT} or more")
    return reasons


def _dtype_reasons(x: Tensor) -> list[str]:
    """All tensors have one dtype, see ops/_check.py."""
    if x.dtype in (torch.float16, torch.bfloat16):
        return []
    return [f"the kernels take float16 and bfloat16, not {x.dtype}"]


def _conv_into(a: ConvArgs, y: Tensor) -> None:
    """Runs the op into y (N, Co/r^2, Ho*r, Wo*r), each pixel's channels side by side."""
    if y.numel() == 0:
        record("cuda/conv2d_sm80")
        return
    x = lay_out(a.input)
    residuals = [(pixel_major(residual), weight) for residual, weight in a.residuals]
    base = None if a.base is None else pixel_major(a.base)
    a = replace(a, input=x, residuals=residuals, base=base)
    key = (
        x.shape, x.stride(), x.dtype, x.device, a.weight.shape, y.stride(),
        *((r.stride(), weight) for r, weight in residuals), base is not None and (base.shape, base.stride()),
        *a.stride, *a.padding, a.upsample, a.activation, a.negative_slope, a.scale, a.activation_after_add,
        a.pixel_shuffle, a.base_mode,
    )  # fmt: skip
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        plan = _plans[key] = ConvPlan(a, x, y, cuda_check.left_out(x.device))
    record(f"cuda/{plan.kernel.name}")
    plan.run(a, x, y)


def add(input: Tensor, residuals: Sequence[tuple[Tensor, float]], scale: float) -> Tensor:
    """residual_add."""
    memory_format = memory_format_of(input)
    x, *others = (with_format(t, memory_format) for t in (input, *(r for r, _ in residuals)))
    y = _empty(x.shape, memory_format, x)
    if y.numel():
        r1, r2 = others[0].data_ptr(), others[1].data_ptr() if len(others) > 1 else 0
        b1, b2 = residuals[0][1], residuals[1][1] if len(residuals) > 1 else 0.0
        dtype = cuda_plan.DTYPES[x.dtype]
        cuda_plan.native.add(*place(x), x.data_ptr(), r1, r2, y.data_ptr(), x.numel(), scale, b1, b2, dtype)
    return y


def to_float(image: Tensor) -> Tensor:
    """image_to_float."""
    h, w, c = image.shape
    image = image.contiguous()
    y = torch.empty((1, h, w, c), dtype=torch.float32, device=image.device)
    bits = 8 * image.dtype.itemsize
    cuda_plan.native.image_to_float(*place(image), image.data_ptr(), y.data_ptr(), y.numel(), bits)
    return with_format(y.permute(0, 3, 1, 2), torch.channels_last)


def to_image(input: Tensor, dtype: torch.dtype) -> Tensor:
    """float_to_image."""
    _, c, h, w = input.shape
    x = with_format(input, torch.channels_last)
    y = torch.empty((h, w, c), dtype=dtype, device=x.device)
    bits = 8 * dtype.itemsize
    cuda_plan.native.float_to_image(*place(x), x.data_ptr(), y.data_ptr(), y.numel(), bits)
    return y


def shuffle(x: Tensor, factor: int) -> Tensor:
    """pixel_shuffle."""
    n, c, h, w = x.shape
    x = with_format(x, memory_format_of(x))
    y = _empty((n, c // (factor * factor), h * factor, w * factor), memory_format_of(x), x)
    _shuffle(x, y, factor, inverse=False)
    return y


def unshuffle(x: Tensor, factor: int) -> Tensor:
    """pixel_unshuffle."""
    n, c, h, w = x.shape
    x = with_format(x, memory_format_of(x))
    y = _empty((n, c * factor * factor, h // factor, w // factor), memory_format_of(x), x)
    _shuffle(y, x, factor, inverse=True)
    return y


def _shuffle(coarse: Tensor, fine: Tensor, factor: int, *, inverse: bool) -> None:
    n, c, h, w = fine.shape
    if fine.numel():
        cuda_plan.native.shuffle(
            *place(fine), coarse.data_ptr(), fine.data_ptr(), (n, h // factor, w // factor, c),
            coarse.stride(), fine.stride(), factor, fine.dtype.itemsize, inverse,
        )  # fmt: skip
