# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The native CPU kernels (csrc/cpu): pixel-major inside, chosen by instruction set and by shape."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import sr_kernels._C as _C
from sr_kernels import config
from sr_kernels.backends import cpu_chain, cpu_pack, cpu_plan, phases, selfcheck
from sr_kernels.backends.base import (
    Backend,
    ChainArgs,
    ConvArgs,
    DenseBlockArgs,
    dense_strides,
    memory_format_of,
    move_reasons,
    pixel_major,
    shuffled,
    unshuffled,
    with_format,
)
from sr_kernels.backends.cpu_isa import ISAS, Isa
from sr_kernels.backends.cpu_plan import ConvPlan
from sr_kernels.backends.registry import record

_MAX_KERNEL = 9
# Additions in a row before a sum is set aside. Measured from 64 to 512 channels on normal and positive data:
# 128 stays at eager's own error (of its more exact layout), 384 below 2.4 times, 512 reaches 3.2.
_CHAIN = {"highest": 128, "high": 384, "medium": 1 << 30}
# Below, eager's few additions are so exact that the transforms alone are off by more than 4 times as much.
_WINOGRAD_INPUTS = 12
# So few pixels of so many channels take as long as their weights take to come, of which Winograd's algorithm
# has four times as many: direct kernels took 0.25 to 0.8 of its time for 64 and more channels of 4x4 and 6x6,
# as long for 8x8. (PyTorch's take 1.1 to 5 times as long as these for weights as they are made, which it
# reorders at every call, and 0.5 to 0.9 times for weights in channels_last.)
_FEW_PIXELS, _MANY_WEIGHTS = 36, 64 * 64
# Inputs that fill the products of bfloat16 values well enough; windows whose rows fit a strip of input.
_BF16_INPUTS = 16
_BF16_REACH = 16
# Bytes of an input that PyTorch converts to channels_last faster than the result is computed.
_CONVERTED = 32 << 20
# A gradient's weights are packed at every step: that many pixels pay for it, whatever the channels. Where
# eager sums a gradient tap by tap (up to that many elements, or cropped), it is twice as exact as otherwise;
# it is more exact as well without padding, for few outputs.
_GRADIENT_PIXELS = 512
_GRADIENT_ELEMENTS = 20480
_GRADIENT_INPUTS = 32
# A window wider than this is no picture's; PyTorch's own kernels take it.
_MAX_REACH = 1 << 16


_isa: Isa | None = None


def current_isa() -> Isa:
    """The best instruction set that the machine has, SR_KERNELS_CPU_ISA allows and the self-check passed."""
    global _isa
    if _isa is None:
        allowed = config.CPU_ISAS[: config.CPU_ISAS.index(config.get("SR_KERNELS_CPU_ISA")) + 1]
        able = [isa for isa in ISAS if isa.name in allowed]
        while len(able) > 1 and not selfcheck.passes(able[-1]):
            able.pop()
        _isa = able[-1]
    return _isa


@contextlib.contextmanager
def limit_isa(name: str) -> Iterator[None]:
    """Within it, the kernels of that instruction set run, in every thread; for tests and benchmarks.

    Raises ValueError where the machine has no such set.
    """
    global _isa
    found = [isa for isa in ISAS if isa.name == name]
    if not found:
        raise ValueError(f"name must be one of {[isa.name for isa in ISAS]} on this machine, got {name!r}")
    before, _isa = _isa, found[0]
    try:
        yield
    finally:
        _isa = before


def _empty(shape: Sequence[int], memory_format: torch.memory_format, like: Tensor) -> Tensor:
    return torch.empty_strided(
        shape, dense_strides(shape, memory_format), dtype=like.dtype, device=like.device
    )


class CpuBackend(Backend):
    """Fused kernels of csrc/cpu, or the reasons why a call is none of theirs."""

    name = "cpu"

    def unavailable(self) -> list[str]:
        if selfcheck.passes(ISAS[0]):
            return []
        return [f"the self-check of the {ISAS[0].name} kernels failed: {selfcheck.failure(ISAS[0])}"]

    def reasons(self, op: str, args: object) -> list[str]:
        if isinstance(args, ConvArgs):
            return _conv_reasons(args)
        if isinstance(args, DenseBlockArgs):
            return _dense_block_reasons(args)
        if isinstance(args, ChainArgs):
            refused = [reason for layer in args.layers for reason in _conv_reasons(layer)]
            return refused or cpu_chain.reasons(args.layers)
        assert isinstance(args, tuple)
        x: Tensor = args[0]
        if op == "residual_add":
            return _dtype_reasons([x, *(r for r, _ in args[1])])
        return move_reasons(op, x)

    def slower(self, op: str, args: object) -> list[str]:
        if isinstance(args, ConvArgs):
            return _conv_slower(args)
        if isinstance(args, ChainArgs):
            return cpu_chain.slower(args.layers)
        if op == "residual_add":
            assert isinstance(args, tuple)
            _, residuals, scale = args
            if scale == 1.0 and len(residuals) == 1:
                return ["PyTorch's own add does this in one pass too"]
        return []

    def gains(self, args: ConvArgs) -> bool:
        n, c, h, w = args.output_shape()
        large = n * h * w >= _GRADIENT_PIXELS and n * c * h * w > _GRADIENT_ELEMENTS
        inside = min(args.padding) >= 0 and (
            max(args.padding) <= 1 or args.weight.shape[1] >= _GRADIENT_INPUTS
        )
        if not (large and inside):
            return False
        kind = _kernel_of(args).kind
        return kind == "winograd" or (kind == "bf16" and args.input.dtype == torch.float32)  # "medium"

    def prepare(self, op: str, args: Any) -> Callable[[Any], Tensor]:
        if op == "conv2d":
            return _Conv2d(args)
        return _DenseBlock(args) if op == "dense_block" else super().prepare(op, args)

    def conv2d(self, args: ConvArgs) -> Tensor:
        return _Conv2d(args)(args)

    def conv2d_chain(self, args: ChainArgs) -> Tensor:
        memory_format = memory_format_of(args.layers[0].input)
        last = args.layers[-1]
        y = _empty(last.output_shape(), torch.channels_last, last.weight)
        strips = cpu_chain.strips(args.layers, torch.get_num_threads())
        _chain_into(args.layers, y, strips)
        return with_format(y, memory_format)

    def dense_block(self, args: DenseBlockArgs) -> Tensor:
        return _DenseBlock(args)(args)

    def pixel_shuffle(self, input: Tensor, factor: int) -> Tensor:
        return _shuffle("pixel_shuffle", input, shuffled(input.shape, factor), factor, inverse=False)

    def pixel_unshuffle(self, input: Tensor, factor: int) -> Tensor:
        return _shuffle("pixel_unshuffle", input, unshuffled(input.shape, factor), factor, inverse=True)

    def residual_add(self, input: Tensor, residuals: Sequence[tuple[Tensor, float]], scale: float) -> Tensor:
        memory_format = memory_format_of(input)
        x, *others = (with_format(t, memory_format) for t in (input, *(r for r, _ in residuals)))
        y = _empty(x.shape, memory_format, x)
        r1, r2 = others[0].data_ptr(), others[1].data_ptr() if len(others) > 1 else 0
        b1, b2 = residuals[0][1], residuals[1][1] if len(residuals) > 1 else 0.0
        isa = current_isa()
        record(f"cpu/residual_add/{isa.unit}")
        _C.add(
            isa.index,
            x.data_ptr(),
            r1,
            r2,
            y.data_ptr(),
            x.numel(),
            scale,
            b1,
            b2,
            cpu_plan.DTYPES[x.dtype],
            torch.get_num_threads(),
        )
        return y

    def image_to_float(self, image: Tensor) -> Tensor:
        h, w, c = image.shape
        image = image.contiguous()
        y = torch.empty((1, h, w, c), dtype=torch.float32)
        isa = current_isa()
        record(f"cpu/image_to_float/{isa.unit}")
        bits = 8 * image.dtype.itemsize
        _C.image_to_float(isa.index, image.data_ptr(), y.data_ptr(), y.numel(), bits, torch.get_num_threads())
        return with_format(y.permute(0, 3, 1, 2), torch.channels_last)

    def float_to_image(self, input: Tensor, dtype: torch.dtype) -> Tensor:
        _, c, h, w = input.shape
        x = with_format(input, torch.channels_last)
        y = torch.empty((h, w, c), dtype=dtype)
        isa = current_isa()
        record(f"cpu/float_to_image/{isa.unit}")
        bits = 8 * dtype.itemsize
        _C.float_to_image(isa.index, x.data_ptr(), y.data_ptr(), y.numel(), bits, torch.get_num_threads())
        return y


def _dtype_reasons(tensors: Sequence[Tensor | None]) -> list[str]:
    """All have one dtype, see ops/_check.py."""
    found = sorted({str(t.dtype) for t in tensors if t is not None and t.dtype not in cpu_plan.DTYPES})
    return [f"the native kernels take float32, bfloat16 and float16, not {', '.join(found)}"] if found else []


def _conv_reasons(a: ConvArgs) -> list[str]:
    reasons = _dtype_reasons(
        [a.input, a.weight, a.bias, a.prelu_weight, a.base, *(r for r, _ in a.residuals)]
    )
    co, _, kh, kw = a.weight.shape
    if max(kh, kw) > _MAX_KERNEL:
        reasons.append(f"kernel {kh}x{kw} is larger than {_MAX_KERNEL}x{_MAX_KERNEL}")
    if max(a.dilation) * _MAX_KERNEL > _MAX_REACH or max(map(abs, a.padding)) > _MAX_REACH:
        reasons.append(f"dilation {tuple(a.dilation)} or padding {tuple(a.padding)} exceeds {_MAX_REACH}")
    if max(a.stride) > 2:
        reasons.append(f"stride {tuple(a.stride)} is above 2")
    if a.groups > 1 and not a.groups == a.input.shape[1] == co:
        reasons.append(f"{a.groups} groups: only 1 and depthwise (groups == channels) have a kernel")
    elif a.groups > 1 and a.pixel_shuffle > 1:
        reasons.append("a depthwise convolution has no pixel shuffle")
    if a.upsample > 1 and (a.groups > 1 or max(a.stride) > 1 or max(a.dilation) > 1):
        reasons.append("upsample needs stride 1, dilation 1 and groups 1")
    return reasons


def _conv_slower(a: ConvArgs) -> list[str]:
    if a.groups > 1 and max(a.weight.shape[2:]) > 3:
        return ["PyTorch's own depthwise kernel is faster above 3x3"]
    if a.input.dtype == torch.bfloat16 and _bfloat16_is_slower(a):
        return ["PyTorch's own bfloat16 kernels are faster on this machine (AVX512-BF16, AMX)"]
    # A shuffle, an upsample or few outputs win more than the two conversions cost; a plain layer does not.
    plain = a.upsample == 1 and a.pixel_shuffle == 1 and a.weight.shape[0] > 4
    if plain and memory_format_of(a.input) == torch.contiguous_format and not _repays_conversion(a):
        return ["a contiguous (NCHW) input would be converted to channels_last, and the result back"]
    return []


def _bfloat16_is_slower(a: ConvArgs) -> bool:
    """Plain layers beside PyTorch's own bfloat16 kernels, without what follows the convolution. Its tiles
    (AMX) take 0.5 to 1.0 times as long as ours. Ours in float32 take 2 to 3 times as long as AVX512-BF16's,
    but 0.9 times by Winograd from 48 channels (1.1 at 32) and with up to 4 outputs."""
    isa = current_isa()
    if not torch.cpu._is_avx512_bf16_supported() or a.upsample > 1 or a.pixel_shuffle > 1:
        return False
    if isa.fast_bf16 and _bf16(a):
        return isa.bf16 == "amx"
    co, ci = a.weight.shape[:2]
    return not (
        (co <= 4 and ci >= 16 and a.groups == 1) or (min(co, ci) >= 32 and _winograd(a, *a.conv_size()))
    )


def _repays_conversion(a: ConvArgs) -> bool:
    """Winograd kernels win more than both conversions cost where a pixel has many channels and the copies
    stay in the caches: 1.4 times at 64 channels of 180x320, 0.8 times at 720x1280."""
    small = a.input.numel() * 4 <= _CONVERTED
    return small and min(a.weight.shape[:2]) >= 32 and _winograd(a, *a.conv_size())


def _dense_block_reasons(a: DenseBlockArgs) -> list[str]:
    reasons = _dtype_reasons([a.input, *a.weights, *a.biases, *(r for r, _ in a.residuals)])
    if len(a.residuals) > 1:
        reasons.append("the kernels add two residuals at most, and the block's input is one of them")
    if any(w.shape[2] != w.shape[3] or w.shape[2] % 2 == 0 or w.shape[2] > _MAX_KERNEL for w in a.weights):
        reasons.append(f"kernels must be square, odd and at most {_MAX_KERNEL}")
    return reasons


def is_enlarging(a: ConvArgs) -> bool:
    """Whether nearest x2 and 3x3 run as one convolution of four times the outputs and a pixel shuffle: where
    Winograd's computes it, 4 times fewer multiplications; the phases of the upsample save 2.25."""
    return phases.is_enlarging(a) and _winograd(replace(a, upsample=1), a.input.shape[2], a.input.shape[3])


def as_shuffle(a: ConvArgs) -> ConvArgs:
    """a, or that one convolution."""
    if not is_enlarging(a):
        return a
    weight, bias, prelu = cpu_pack.enlarging(a.weight, a.bias, a.prelu_weight)
    return replace(a, weight=weight, bias=bias, prelu_weight=prelu, upsample=1, pixel_shuffle=2)


def _winograd(a: ConvArgs, oh: int, ow: int) -> bool:
    """Whether F(4, 3) computes this layer: within the precision in force, for more than a few pixels, and
    without many outputs that lie in tiles and outside the picture."""
    co, ci, kh, kw = a.weight.shape
    return (
        kh == kw == 3
        and ci >= _WINOGRAD_INPUTS
        and (a.input.shape[0] * oh * ow > _FEW_PIXELS or co * ci < _MANY_WEIGHTS)
        and a.groups == a.upsample == 1
        and max(*a.stride, *a.dilation) == 1
        and (oh + -oh % 4) * (ow + -ow % 4) <= 2 * oh * ow
        and config.get_precision() != "highest"
    )


def _kind(a: ConvArgs) -> str:
    """The kind of kernel for a layer, by shape, dtype and the precision in force."""
    if a.groups > 1:
        return "depthwise"
    if _bf16(a):
        return "bf16"
    return "winograd" if _winograd(a, *a.conv_size()) else "direct"


def _bf16(a: ConvArgs) -> bool:
    """Whether products of bfloat16 values compute this layer, and in less time than float32 does."""
    rounded = a.input.dtype == torch.float32 and config.get_precision() == "medium"
    exact = a.input.dtype == torch.bfloat16 and a.upsample == 1  # phases sum weights: these need rounding
    co, ci, kh, kw = a.weight.shape
    reach = max((kh - 1) * a.dilation[0], (kw - 1) * a.dilation[1])
    isa = current_isa()
    if not isa.fast_bf16 or not (rounded or exact) or a.groups > 1 or reach > _BF16_REACH:
        return False
    # Vectors multiply twice as fast as in float32, where Winograd's algorithm is 2.5 to 3 times as fast.
    return ci >= _BF16_INPUTS and (isa.bf16 == "amx" or (co > 4 and not _winograd(a, *a.conv_size())))


def _kernel_of(a: ConvArgs) -> cpu_pack.Kernel:
    co, ci = a.weight.shape[:2]
    return current_isa().kernel_for(co, ci, _kind(a))


def make_plan(a: ConvArgs, y: Tensor) -> ConvPlan:
    """The plan of a, in the precision in force, for results like y."""
    kernel = _kernel_of(a)
    return ConvPlan(a, y, kernel, f"cpu/{kernel.name}/{kernel.unit}", _CHAIN[config.get_precision()])


def _conv_into(a: ConvArgs, y: Tensor) -> None:
    """Runs the op into y (N, Co/r^2, Ho*r, Wo*r), each pixel's channels side by side."""
    make_plan(a, y).run(a, y)


def _chain_into(layers: Sequence[ConvArgs], y: Tensor, strips: cpu_chain.Strips) -> None:
    """Runs layers[i + 1] on what layers[i] gives, strip by strip, the last into y as `_conv_into` does."""
    isa = current_isa()
    record(f"cpu/chain/{isa.unit}")
    results = [*(layer.input for layer in layers[1:]), y]
    bound = [
        make_plan(layer, result).bind(layer, result) for layer, result in zip(layers, results, strict=True)
    ]
    if y.numel():
        steps = [step for steps, _, _ in bound for step in steps]
        addresses = [address for _, addresses, _ in bound for address in addresses]
        _C.conv2d_chain(
            isa.index, steps, addresses, strips.rows, strips.height, strips.columns, torch.get_num_threads()
        )


class _Conv2d:
    """conv2d of arguments like the first; a plan per instruction set."""

    def __init__(self, a: ConvArgs) -> None:
        self.shape = a.output_shape()
        self.strides = dense_strides(self.shape, torch.channels_last)
        self.format = memory_format_of(a.input)
        self.converts = dense_strides(self.shape, self.format) != self.strides
        self.shuffles = as_shuffle(a) is not a
        self.plans: dict[Isa, ConvPlan] = {}

    def __call__(self, a: ConvArgs) -> Tensor:
        y = torch.empty_strided(self.shape, self.strides, dtype=a.input.dtype)
        a = as_shuffle(a) if self.shuffles else a
        isa = current_isa()
        plan = self.plans.get(isa)
        if plan is None:
            plan = self.plans[isa] = make_plan(a, y)
        plan.run(a, y)
        return with_format(y, self.format) if self.converts else y


class _DenseBlock:
    """dense_block of arguments like the first: all its convolutions in one native call, each writing into its
    channels of one wide buffer; their plans per instruction set."""

    def __init__(self, a: DenseBlockArgs) -> None:
        n, self.channels, h, w = a.input.shape
        widths = [weight.shape[0] for weight in a.weights[:-1]]
        self.ends = [self.channels + sum(widths[:i]) for i in range(len(widths) + 1)]
        self.wide_shape = n, self.ends[-1], h, w
        self.wide_strides = dense_strides(self.wide_shape, torch.channels_last)
        self.shape = n, self.channels, h, w
        self.strides = dense_strides(self.shape, torch.channels_last)
        self.format = memory_format_of(a.input)
        self.converts = dense_strides(self.shape, self.format) != self.strides
        self.plans: dict[Isa, list[ConvPlan]] = {}

    def _plan(self, a: DenseBlockArgs, wide: Tensor, y: Tensor) -> list[ConvPlan]:
        plans = []
        for i, (weight, end) in enumerate(zip(a.weights, self.ends, strict=True)):
            layer = ConvArgs(wide[:, :end], weight, padding=(weight.shape[2] // 2,) * 4)
            if i < len(self.ends) - 1:
                layer.activation, layer.negative_slope = "leaky_relu", a.negative_slope
                into = wide[:, end : self.ends[i + 1]]
            else:
                layer.scale, into = a.scale, y
                layer.residuals = [(wide[:, : self.channels], a.input_scale), *a.residuals]
            plans.append(make_plan(layer, into))
        return plans

    def __call__(self, a: DenseBlockArgs) -> Tensor:
        wide = torch.empty_strided(self.wide_shape, self.wide_strides, dtype=a.input.dtype)
        y = torch.empty_strided(self.shape, self.strides, dtype=a.input.dtype)
        wide[:, : self.channels].copy_(a.input)
        isa = current_isa()
        plans = self.plans.get(isa)
        if plans is None:
            plans = self.plans[isa] = self._plan(a, wide, y)
        x, bytes_each = wide.data_ptr(), wide.dtype.itemsize
        residual = pixel_major(a.residuals[0][0]) if a.residuals else None
        into = [[x, x + end * bytes_each, 0, 0, 0] for end in self.ends[:-1]]
        into.append([x, y.data_ptr(), x, 0 if residual is None else residual.data_ptr(), 0])
        layers = zip(plans, a.weights, a.biases, strict=True)
        packed = [plan.packed(weight, bias, None)[0] for plan, weight, bias in layers]
        for plan in plans:
            record(plan.name)
        steps = [step for plan in plans for step in plan.steps]
        if steps:
            addresses = [
                cpu_plan.addresses_of(shared, tensors) for shared, tensors in zip(into, packed, strict=True)
            ]
            _C.conv2d_steps(isa.index, steps, addresses, torch.get_num_threads())
        return with_format(y, self.format) if self.converts else y


def _shuffle(op: str, x: Tensor, shape: tuple[int, ...], factor: int, *, inverse: bool) -> Tensor:
    memory_format = memory_format_of(x)
    x = with_format(x, memory_format)
    y = _empty(shape, memory_format, x)
    coarse, fine = (y, x) if inverse else (x, y)
    n, c, h, w = fine.shape
    isa = current_isa()
    record(f"cpu/{op}/{isa.unit}")

    def strides(t: Tensor) -> tuple[int, int, int, int]:
        sn, sc, sy, sx = t.stride()
        return sn, sc, sy, sx

    _C.shuffle(
        isa.index,
        coarse.data_ptr(),
        fine.data_ptr(),
        (n, h // factor, w // factor, c),
        strides(coarse),
        strides(fine),
        factor,
        x.dtype.itemsize,
        inverse,
        torch.get_num_threads(),
    )
    return y
