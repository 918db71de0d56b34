# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The native CPU kernels (csrc/cpu): pixel-major inside, chosen by instruction set and by shape."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sr_kernels import _C, config
from sr_kernels.backends import cpu_chain, cpu_pack, selfcheck
from sr_kernels.backends.base import (
    Backend,
    ChainArgs,
    ConvArgs,
    DenseBlockArgs,
    dense_strides,
    memory_format_of,
    with_format,
)
from sr_kernels.backends.registry import record
from sr_kernels.reference import ACTIVATIONS, BASE_MODES

# In the order of csrc/params.h.
_DTYPE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ACTIVATION = {name: index for index, name in enumerate(ACTIVATIONS)}
_MAX_KERNEL = 9
# Additions in a row before a sum is set aside. Measured from 64 to 512 channels on normal and positive data:
# 128 stays at eager's own error (of its more exact layout), 384 below 2.4 times, 512 reaches 3.2.
_CHAIN = {"highest": 128, "high": 384, "medium": 1 << 30}
# The same for Winograd kernels, whose transforms have used up twice eager's error already: 16 stays below 3.3
# times, 64 reaches 5. It costs no time that could be measured.
_WINOGRAD_CHAIN = 16
# Below, eager's few additions are so exact that the transforms alone are off by more than 4 times as much.
_WINOGRAD_INPUTS = 12
# Bytes of an input that PyTorch converts to channels_last faster than the result is computed.
_CONVERTED = 32 << 20
# A gradient's weights are packed at every step: that many pixels pay for it, whatever the channels. Where eager
# sums a gradient tap by tap (up to that many elements, or cropped), it is twice as exact as otherwise; more exact
# it is as well without padding, for few outputs.
_GRADIENT_PIXELS = 512
_GRADIENT_ELEMENTS = 20480
_GRADIENT_INPUTS = 32
# Bytes of a result that would not be in the caches any more when it is read.
_STREAM = 8 << 20
# A window wider than this is no picture's; PyTorch's own kernels take it.
_MAX_REACH = 1 << 16
_SERIAL_FLOPS = 2_000_000  # below this, waking a second thread costs more than it saves


class Isa:
    """One instruction set of this machine: its index in the extension, vector width and kernels."""

    def __init__(
        self, index: int, name: str, lanes: int, kernels: Sequence[tuple[str, str, int, int]]
    ) -> None:
        self.index = index
        self.name = name
        self.lanes = lanes
        self.kernels = [cpu_pack.Kernel(index, lanes, i, *kernel) for i, kernel in enumerate(kernels)]
        self._chosen: dict[tuple[int, int, bool, bool], cpu_pack.Kernel] = {}

    def kernel_for(self, co: int, ci: int, depthwise: bool, winograd: bool) -> cpu_pack.Kernel:
        """The kernel for these channels; `winograd`: where F(4, 3) computes the layer, see `_winograd`."""
        key = (co, ci, depthwise, winograd)
        kernel = self._chosen.get(key)
        if kernel is None:
            kernel = self._chosen[key] = self._choose(*key)
        return kernel

    def _choose(self, co: int, ci: int, depthwise: bool, winograd: bool) -> cpu_pack.Kernel:
        if depthwise:
            return next(k for k in self.kernels if k.kind == "depthwise")
        if co <= 4 and ci >= self.lanes:
            return next(k for k in self.kernels if k.kind == "thin" and k.channels == co)
        # Fewest padded channels first, then the widest block: it reads each input least often.
        kind = "winograd" if winograd else "direct"
        able = [k for k in self.kernels if k.kind == kind]
        return min(able, key=lambda k: (math.ceil(co / k.channels) * k.channels, -k.channels))


ISAS = [Isa(index, *isa) for index, isa in enumerate(_C.isas())]
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


def _pixel_major(x: Tensor) -> Tensor:
    """x (N, C, H, W) itself where each pixel's channels lie side by side, else a channels_last copy."""
    if x.stride(1) == 1 or x.shape[1] == 1:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def _view(x: Tensor) -> _C.View:
    sn, _, sy, sx = x.stride()
    return _C.View(x.data_ptr(), sn, sy, sx)


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
        if op == "float_to_image":
            return [] if x.dtype == torch.float32 else [f"pictures are made of float32, not of {x.dtype}"]
        if x.dtype.itemsize > 8:
            return [f"elements of {x.dtype} are wider than 8 bytes"]
        return []

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
        return large and inside and _kernel_of(args).kind == "winograd"

    def conv2d(self, args: ConvArgs) -> Tensor:
        memory_format = memory_format_of(args.input)
        y = _empty(args.output_shape(), torch.channels_last, args.input)
        _conv_into(_as_shuffle(args), y)
        return with_format(y, memory_format)

    def conv2d_chain(self, args: ChainArgs) -> Tensor:
        memory_format = memory_format_of(args.layers[0].input)
        last = args.layers[-1]
        y = _empty(last.output_shape(), torch.channels_last, last.weight)
        strips = cpu_chain.strips(args.layers, torch.get_num_threads())
        _chain_into(args.layers, y, strips)
        return with_format(y, memory_format)

    def dense_block(self, args: DenseBlockArgs) -> Tensor:
        x = args.input
        n, c, h, w = x.shape
        widths = [weight.shape[0] for weight in args.weights[:-1]]
        wide = _empty((n, c + sum(widths), h, w), torch.channels_last, x)
        wide[:, :c].copy_(x)
        done = c
        for weight, bias, width in zip(args.weights, args.biases, widths, strict=False):
            layer = ConvArgs(wide[:, :done], weight, bias, padding=(weight.shape[2] // 2,) * 4)
            layer.activation, layer.negative_slope = "leaky_relu", args.negative_slope
            _conv_into(layer, wide[:, done : done + width])
            done += width
        last = ConvArgs(
            wide, args.weights[-1], args.biases[-1], padding=(args.weights[-1].shape[2] // 2,) * 4
        )
        last.scale, last.residuals = args.scale, [(wide[:, :c], args.input_scale), *args.residuals[:1]]
        y = _empty(last.output_shape(), torch.channels_last, x)
        _conv_into(last, y)
        return with_format(y, memory_format_of(x))

    def pixel_shuffle(self, input: Tensor, factor: int) -> Tensor:
        n, c, h, w = input.shape
        y_shape = (n, c // (factor * factor), h * factor, w * factor)
        return _shuffle("pixel_shuffle", input, y_shape, factor, inverse=False)

    def pixel_unshuffle(self, input: Tensor, factor: int) -> Tensor:
        n, c, h, w = input.shape
        y_shape = (n, c * factor * factor, h // factor, w // factor)
        return _shuffle("pixel_unshuffle", input, y_shape, factor, inverse=True)

    def residual_add(self, input: Tensor, residuals: Sequence[tuple[Tensor, float]], scale: float) -> Tensor:
        memory_format = memory_format_of(input)
        x, *others = (with_format(t, memory_format) for t in (input, *(r for r, _ in residuals)))
        y = _empty(x.shape, memory_format, x)
        r1, r2 = others[0].data_ptr(), others[1].data_ptr() if len(others) > 1 else 0
        b1, b2 = residuals[0][1], residuals[1][1] if len(residuals) > 1 else 0.0
        isa = current_isa()
        record(f"cpu/residual_add/{isa.name}")
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
            _DTYPE[x.dtype],
            torch.get_num_threads(),
        )
        return y

    def image_to_float(self, image: Tensor) -> Tensor:
        h, w, c = image.shape
        image = image.contiguous()
        y = torch.empty((1, h, w, c), dtype=torch.float32)
        isa = current_isa()
        record(f"cpu/image_to_float/{isa.name}")
        bits = 8 * image.dtype.itemsize
        _C.image_to_float(isa.index, image.data_ptr(), y.data_ptr(), y.numel(), bits, torch.get_num_threads())
        return with_format(y.permute(0, 3, 1, 2), torch.channels_last)

    def float_to_image(self, input: Tensor, dtype: torch.dtype) -> Tensor:
        _, c, h, w = input.shape
        x = with_format(input, torch.channels_last)
        y = torch.empty((h, w, c), dtype=dtype)
        isa = current_isa()
        record(f"cpu/float_to_image/{isa.name}")
        bits = 8 * dtype.itemsize
        _C.float_to_image(isa.index, x.data_ptr(), y.data_ptr(), y.numel(), bits, torch.get_num_threads())
        return y


def _dtype_reasons(tensors: Sequence[Tensor | None]) -> list[str]:
    """All have one dtype, see ops/_check.py."""
    found = sorted({str(t.dtype) for t in tensors if t is not None and t.dtype not in _DTYPE})
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
        return ["PyTorch's own bfloat16 kernels multiply twice as fast on this machine (AVX512-BF16)"]
    # A shuffle, an upsample or few outputs win more than the two conversions cost; a plain layer does not.
    plain = a.upsample == 1 and a.pixel_shuffle == 1 and a.weight.shape[0] > 4
    if plain and memory_format_of(a.input) == torch.contiguous_format and not _repays_conversion(a):
        return ["a contiguous (NCHW) input would be converted to channels_last, and the result back"]
    return []


def _bfloat16_is_slower(a: ConvArgs) -> bool:
    """Plain layers by float32 arithmetic against AVX512-BF16's: 0.3 to 0.5 times as fast, but 1.1 times by
    Winograd from 48 channels (0.9 at 32, without what follows the convolution) and with up to 4 outputs."""
    if not torch.cpu._is_avx512_bf16_supported() or a.upsample > 1 or a.pixel_shuffle > 1:
        return False
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


def _as_shuffle(a: ConvArgs) -> ConvArgs:
    """Nearest x2 and 3x3 as one convolution of four times the outputs and a pixel shuffle, where Winograd's
    then computes it: 4 times fewer multiplications, where the phases of the upsample save 2.25."""
    if (
        a.upsample != 2
        or a.pixel_shuffle != 1
        or a.residuals
        or tuple(a.weight.shape[2:]) != (3, 3)
        or tuple(a.padding) != (1, 1, 1, 1)
    ):
        return a
    weight, bias, prelu = cpu_pack.enlarging(a.weight, a.bias, a.prelu_weight)
    b = replace(a, weight=weight, bias=bias, prelu_weight=prelu, upsample=1, pixel_shuffle=2)
    return b if _winograd(b, a.input.shape[2], a.input.shape[3]) else a


def _winograd(a: ConvArgs, oh: int, ow: int) -> bool:
    """Whether F(4, 3) computes this layer: within the precision in force, and without many outputs that lie
    in tiles and outside the picture."""
    return (
        a.weight.shape[2] == a.weight.shape[3] == 3
        and a.weight.shape[1] >= _WINOGRAD_INPUTS
        and a.groups == a.upsample == 1
        and max(*a.stride, *a.dilation) == 1
        and (oh + -oh % 4) * (ow + -ow % 4) <= 2 * oh * ow
        and config.get_precision() != "highest"
    )


def _kernel_of(a: ConvArgs) -> cpu_pack.Kernel:
    co, ci = a.weight.shape[:2]
    return current_isa().kernel_for(co, ci, a.groups > 1, _winograd(a, *a.conv_size()))


def _aligned(y: Tensor, lanes: int) -> bool:
    """Whether vectors of each pixel's channels begin at multiples of their size."""
    return y.data_ptr() % (4 * lanes) == 0 and all(s % lanes == 0 for s in y.stride() if s > 1)


def _conv_into(a: ConvArgs, y: Tensor) -> None:
    """Runs the op into y (N, Co/r^2, Ho*r, Wo*r), each pixel's channels side by side."""
    isa = current_isa()
    for p in _calls(a, y, isa):
        _C.conv2d(isa.index, p)


def _calls(a: ConvArgs, y: Tensor, isa: Isa) -> Iterator[_C.ConvParams]:
    """The native calls that make up the op, one after the other in the same struct. What they point at lives
    as long as the iterator."""
    co, ci, kh, kw = a.weight.shape
    oh, ow = a.conv_size()
    kernel = isa.kernel_for(co, ci, a.groups > 1, _winograd(a, oh, ow))
    record(f"cpu/{kernel.name}/{isa.name}")
    if y.numel() == 0:
        return
    x = _pixel_major(a.input)
    n, channels, h, w = x.shape
    p = _C.ConvParams()
    keep = [x]  # alive until the kernel has run
    p.x, p.y = _view(x), _view(y)
    p.set_input(n, h, w, channels)
    b = [0.0, 0.0]
    for i, (residual, factor) in enumerate(a.residuals):
        residual = _pixel_major(residual)
        keep.append(residual)
        setattr(p, "res2" if i else "res1", _view(residual))
        b[i] = factor
    if a.base is not None:
        base = _pixel_major(a.base)
        keep.append(base)
        p.base = _view(base)
        mode = 1 + BASE_MODES.index(a.base_mode)
        p.set_base(mode, y.shape[2] // base.shape[2], base.shape[2], base.shape[3])
    p.set_epilogue(
        _ACTIVATION[a.activation],
        a.activation_after_add,
        a.negative_slope,
        a.scale,
        b[0],
        b[1],
        a.pixel_shuffle,
    )
    bias = cpu_pack.vector(a.bias, co, kernel, a.pixel_shuffle)
    prelu = None if a.prelu_weight is None else cpu_pack.vector(a.prelu_weight, co, kernel, a.pixel_shuffle)
    p.kernel, p.dtype = kernel.index, _DTYPE[x.dtype]
    if kernel.kind == "winograd":
        p.chain = _WINOGRAD_CHAIN
        p.stream = x.dtype == torch.float32 and y.numel() * 4 >= _STREAM and _aligned(y, isa.lanes)
    else:
        p.chain = _CHAIN[config.get_precision()]
    flops = 2 * n * oh * ow * co * ci * kh * kw
    p.threads = 1 if flops < _SERIAL_FLOPS else torch.get_num_threads()
    left, _, top, _ = a.padding
    for phase in cpu_pack.phases(a.weight, kernel, a.pixel_shuffle, a.upsample, top, left):
        p.set_weights(phase.weight.data_ptr(), bias.data_ptr(), 0 if prelu is None else prelu.data_ptr())
        p.set_window(phase.kh, phase.kw, *a.stride, *a.dilation, phase.top, phase.left)
        p.set_phase(a.upsample, phase.y, phase.x)
        p.set_output(-((phase.y - oh) // a.upsample), -((phase.x - ow) // a.upsample), co)
        yield p


def _chain_into(layers: Sequence[ConvArgs], y: Tensor, strips: cpu_chain.Strips) -> None:
    """Runs layers[i + 1] on what layers[i] gives, strip by strip, the last into y as `_conv_into` does."""
    isa = current_isa()
    record(f"cpu/chain/{isa.name}")
    results = [*(layer.input for layer in layers[1:]), y]
    calls = [_calls(layer, result, isa) for layer, result in zip(layers, results, strict=True)]
    params = [next(call, None) for call in calls]
    if y.numel():
        _C.conv2d_chain(
            isa.index, params, strips.rows, strips.height, strips.columns, torch.get_num_threads()
        )


def _shuffle(op: str, x: Tensor, shape: tuple[int, ...], factor: int, *, inverse: bool) -> Tensor:
    memory_format = memory_format_of(x)
    x = with_format(x, memory_format)
    y = _empty(shape, memory_format, x)
    coarse, fine = (y, x) if inverse else (x, y)
    n, c, h, w = fine.shape
    isa = current_isa()
    record(f"cpu/{op}/{isa.name}")

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
