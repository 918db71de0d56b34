# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a call of a CUDA convolution needs: its kernel, weights in the order that it reads, parameters."""

from __future__ import annotations

import functools
import importlib
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_kernels.backends.base import ConvArgs, dense_strides, is_pixel_major, pixel_major
from sr_kernels.backends.kept import cached, zeros
from sr_kernels.backends.params import DTYPES as DTYPES
from sr_kernels.backends.params import conv_params, size_of
from sr_kernels.backends.phases import (
    Phase,
    channel_order,
    enlarging,
    is_enlarging,
    phases,
    weights_of_phases,
)

native: Any = None  # the extension
missing = ""  # or why there is none
try:
    native = importlib.import_module("sr_kernels._cuda")
except ModuleNotFoundError:
    missing = "the CUDA kernels are not in this build: install the CUDA toolkit and install sr_kernels again"
except ImportError as error:
    missing = f"the CUDA extension does not load: {error}"

HALVES = (torch.float16, torch.bfloat16)  # of the convolutions
_CURVES = ("silu", "gelu", "tanh", "sigmoid")
_THIN = 4  # inputs that are gathered, see conv2d_gathers in csrc/cuda/conv2d_sm80.cu
_ANYWHERE = 1 << 20
_PIECE = 8  # elements of 16 bytes


@dataclass(frozen=True, slots=True)
class Kernel:
    """A row of the table of convolution kernels, see csrc/cuda/launch.h and module.cpp."""

    index: int
    name: str
    channels: int
    depth: int
    full: bool
    special: bool  # made for some layers alone, and the best for them
    capability: int  # the only one that it runs on, 10 * major + minor; 0: any
    wide: bool  # for more inputs than `depth` alone
    staged: bool  # its results are staged, rows of its weights in the order of channels


@functools.cache
def kernels() -> tuple[Kernel, ...]:
    """Those of the extension."""
    return tuple(Kernel(i, *row) for i, row in enumerate(native.conv2d_kernels()))


def kernels_on(device: torch.device) -> list[Kernel]:
    """Those that are made for the device; on the host, where kernels are emulated, all."""
    if device.type != "cuda":
        return list(kernels())
    major, minor = torch.cuda.get_device_capability(device)
    return [k for k in kernels() if k.capability in (0, 10 * major + minor)]


def is_plain(a: ConvArgs) -> bool:
    """Whether kernels that are not `full` finish it."""
    return a.activation not in _CURVES and a.base is None and (a.pixel_shuffle == 1 or not a.residuals)


def choose(able: Sequence[Kernel], co: int, inputs: int, plain: bool) -> Kernel:
    """The portable kernel for `inputs` per tap, all taps of a gathered one.

    Least work first: outputs and inputs padded to whole blocks, for each block of outputs what reading the
    pixels costs, about as much as 16 outputs, and for each step as much as 8 inputs. Then the widest block.
    """

    def cost(k: Kernel) -> tuple[float, ...]:
        blocks, steps = math.ceil(co / k.channels), math.ceil(inputs / k.depth)
        return blocks * (k.channels + 16) * steps * (k.depth + 8), -k.channels, k.full

    return min((k for k in able if not k.special and (plain or k.full)), key=cost)


def stream_of(x: Tensor) -> int:
    """The current one of x's device. On the host there is one of each."""
    if not x.is_cuda:
        return 0
    if _raw_stream is not None:
        return int(_raw_stream(x.device.index))
    return torch.cuda.current_stream(x.device).cuda_stream


# The address alone: torch.cuda.current_stream makes an object of it, which takes longer than a launch.
_raw_stream: Callable[[int], int] | None = getattr(torch._C, "_cuda_getCurrentRawStream", None)


def place(x: Tensor) -> tuple[int, int]:
    """(device, stream) of a launch on x."""
    return (x.device.index if x.is_cuda else 0), stream_of(x)


def empty(shape: Sequence[int], strides: Sequence[int], like: Tensor) -> Tensor:
    """What a kernel writes, of like's dtype and device: results and buffers come from here alone, so that the
    tests can fill them and see what is written around them."""
    return like.new_empty_strided(shape, strides)


def is_thin(x: Tensor) -> bool:
    """Whether the kernels gather x element by element, from anywhere."""
    return x.shape[1] <= _THIN


def fits(x: Tensor) -> bool:
    """Whether the kernels read x in place, by its strides; one that is not thin also has to lie at a multiple
    of 16 bytes."""
    if is_thin(x):
        return is_pixel_major(x)
    aligned = all(s % _PIECE == 0 for s, size in zip(x.stride(), x.shape, strict=True) if s != 1 and size > 1)
    return x.stride(1) == 1 and aligned


def lay_out(x: Tensor) -> Tensor:
    """x where the kernels can read it, else a copy that they can."""
    if fits(x) and (is_thin(x) or is_aligned(x)):
        return x
    if is_thin(x):
        return pixel_major(x)
    n, c, h, w = x.shape
    wide = x.new_empty((n, h, w, c + -c % _PIECE)).permute(0, 3, 1, 2)
    return wide[:, :c].copy_(x)


def is_aligned(x: Tensor) -> bool:
    """Whether x lies at a multiple of 16 bytes."""
    return x.data_ptr() % 16 == 0


def _vector(x: Tensor | None, like: Tensor, co: int, kernel: Kernel, shuffle: int) -> Tensor:
    """Bias or PReLU weights (co,) or fewer, each for as many outputs, float32, in packed order, padded with
    zeros to whole blocks, of the Hopper kernel's 64 rows too."""
    padding = -co % math.lcm(kernel.channels, 64)
    if x is None:
        return zeros(co + padding, like.device)

    def make() -> Tensor:
        each = x.detach().float().repeat_interleave(co // x.shape[0])
        return F.pad(channel_order(each, shuffle), (0, padding)).contiguous()

    return cached(x, ("cuda vector", co, padding, shuffle), make)


def pack(w: Tensor, kernel: Kernel, gathers: bool, shuffle: int) -> Tensor:
    """w (Co, Ci, kh, kw) in the kernel's order, see csrc/cuda/launch.h."""
    w = channel_order(w, shuffle)
    if kernel.capability == 90:
        return pack_sm90(w, kernel.channels, kernel.staged)
    w = w.permute(0, 2, 3, 1).flatten(1)[..., None] if gathers else w.flatten(2)  # (Co, k, taps)
    w = F.pad(w, (0, 0, 0, -w.shape[1] % kernel.depth, 0, -w.shape[0] % kernel.channels))
    w = w.unflatten(1, (-1, kernel.depth)).unflatten(0, (-1, kernel.channels))
    return w.permute(0, 2, 4, 1, 3).contiguous()


def pack_sm90(w: Tensor, rows: int, staged: bool) -> Tensor:
    """w (Co, Ci, 3, 3) in the order of blocks of `rows` outputs, chunks of 64 inputs, and in them of
    `weight_index` and `row_channel` of csrc/cuda/conv2d_sm90.cuh."""
    if rows == 32:  # stacked: columns of taps, from the last one up
        w = w.flip(2).transpose(2, 3)
    w = F.pad(w.flatten(2), (0, 0, 0, -w.shape[1] % 64, 0, -w.shape[0] % rows))
    # output: block, sixteen of it, then bits of row_channel; input: chunk, unit of eight, place in it
    if staged:
        w = w.unflatten(1, (-1, 8, 8)).unflatten(0, (-1, rows // 16, 2, 8))
        w = w.permute(0, 4, 7, 1, 2, 3, 5, 6)  # block chunk tap sixteen half row%8 unit place
    else:
        w = w.unflatten(1, (-1, 8, 8)).unflatten(0, (-1, rows // 16, 4, 2, 2))
        w = w.permute(0, 5, 8, 1, 3, 2, 4, 6, 7).flatten(5, 6)  # the same
    row = torch.arange(8, device=w.device)[:, None]
    return w[:, :, :, :, :, row, row.mT ^ row].contiguous()


class ConvPlan:
    """A convolution but for its addresses: all that shapes, strides and numbers decide."""

    def __init__(
        self, a: ConvArgs, y: Tensor, left_out: Sequence[str] = (), second: Tensor | None = None
    ) -> None:
        """a: its input as laid out, residuals and base pixel-major; y: of the result's shape and strides.
        left_out: names of kernels that must not be used. second: has the inputs that follow a.input's, where
        `reads_two`.
        """
        able = _able(a, left_out)
        form, self.steps, made_for = _form(a, y, able, second)
        self.enlarges = form is not a
        a = form
        co = a.weight.shape[0]
        left, _, top, _ = a.padding
        self.outputs, self.settings = co, (a.pixel_shuffle, a.upsample, top, left)
        self.gathers = [made_for is None and bool(native.conv2d_gathers(step)) for step in self.steps]
        self.kernel = made_for or _portable(a, self.steps[0], able)
        self.name = f"cuda/{self.kernel.name}"
        for step in self.steps:
            step.kernel = self.kernel.index
        self.parts = tuple(_parts(a))
        packing = self.kernel.name, co, tuple(self.gathers), self.parts, *self.settings
        self._weights_key = "cuda weights", *packing  # co: of an enlarging form four times the weight's
        self._packed: dict[int, _Packed] = {}

    def packed(self, weight: Tensor, bias: Tensor | None, prelu: Tensor | None) -> _Packed:
        """What its steps read beside pictures: weights, bias and, where it has any, PReLU's slopes."""
        known = self._packed.get(id(weight))
        same = known is not None and known.is_of(weight, bias, prelu)
        # What a graph is captured with has to outlive its replays: `cached` sees to that.
        if known is not None and same and known.tails and not _is_captured(weight):
            return known
        shuffle = self.settings[0]
        vectors = [_vector(bias, weight, self.outputs, self.kernel, shuffle)]
        if prelu is not None:
            vectors.append(_vector(prelu, weight, self.outputs, self.kernel, shuffle))
        parts = cached(weight, self._weights_key, lambda: self._pack(weight))
        self._keep(weight, bias, prelu, (parts, vectors) if same else ())
        return _Packed(None, bias, prelu, (), _tails(parts, vectors), (parts, vectors))

    def _keep(self, weight: Tensor, bias: Tensor | None, prelu: Tensor | None, made: Any) -> None:
        """Notes the tensors, and at their second use what was made of them."""
        given = [t for t in (weight, bias, prelu) if t is not None]
        if any(t.is_inference() for t in given) or _is_captured(weight):
            return
        if made and weight.is_cuda:
            torch.cuda.current_stream(weight.device).synchronize()  # what is kept is ready for every stream
        reference = weakref.ref(weight, functools.partial(_forget, self._packed, id(weight)))
        held = made, [t.detach() for t in given]
        tails = _tails(*made) if made else []
        self._packed[id(weight)] = _Packed(reference, bias, prelu, _stamp(weight, bias, prelu), tails, held)

    def _pack(self, weight: Tensor) -> list[Tensor]:
        shuffle, upsample, top, left = self.settings
        w = weight.detach().float()
        parts = [enlarging(w)] if self.enlarges else weights_of_phases(w, upsample, top, left)
        return [
            pack(parts[i], self.kernel, gathers, shuffle).to(weight.dtype)
            for i, gathers in zip(self.parts, self.gathers, strict=True)
        ]

    def run(self, a: ConvArgs, y: Tensor, second: Tensor | None = None) -> None:
        """Launches it on tensors like those that it was planned for."""
        pictures = [a.input.data_ptr(), y.data_ptr(), 0, 0, 0, 0]
        for i, (residual, _) in enumerate(a.residuals):
            pictures[2 + i] = residual.data_ptr()
        if a.base is not None:
            pictures[4] = a.base.data_ptr()
        if second is not None:
            pictures[5] = second.data_ptr()
        packed = self.packed(a.weight, a.bias, a.prelu_weight)
        native.conv2d_steps(*place(y), self.steps, [(*pictures, *tail) for tail in packed.tails])


@dataclass(frozen=True, slots=True)
class _Packed:
    """What a plan's steps read beside pictures. Of unchanged tensors the plan itself keeps it, which saves
    each call what `cached` asks of each tensor; it holds their storages, see there."""

    weight: weakref.ref[Tensor] | None
    bias: Tensor | None
    prelu: Tensor | None
    stamp: tuple[int, ...]
    tails: Sequence[tuple[int, int, int]]  # addresses of weights, bias and slopes, for each step
    held: Any

    def is_of(self, weight: Tensor, bias: Tensor | None, prelu: Tensor | None) -> bool:
        """Whether it was made of these tensors, unchanged since."""
        return (
            self.weight is not None
            and self.weight() is weight
            and self.bias is bias
            and self.prelu is prelu
            and self.stamp == _stamp(weight, bias, prelu)
        )


def _stamp(weight: Tensor, bias: Tensor | None, prelu: Tensor | None) -> tuple[int, ...]:
    """Of tensors whose shapes are known: it changes whenever they are written to or moved."""
    stamp: tuple[int, ...] = weight.data_ptr(), weight._version
    for t in (bias, prelu):
        if t is not None:
            stamp += t.data_ptr(), t._version
    return stamp


def _tails(parts: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[tuple[int, int, int]]:
    bias, prelu = vectors[0].data_ptr(), vectors[1].data_ptr() if len(vectors) > 1 else 0
    return [(part.data_ptr(), bias, prelu) for part in parts]


def _forget(packed: dict[int, _Packed], key: int, _: object) -> None:
    packed.pop(key, None)


def _is_captured(x: Tensor) -> bool:
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def _parts(a: ConvArgs) -> dict[int, Phase]:
    """The phases by their place among all, those without output pixels left out, which an upsample to a
    single row or column has; of an empty result all."""
    kh, kw = a.weight.shape[2:]
    found = dict(enumerate(phases(kh, kw, a.upsample, a.padding[2], a.padding[0])))
    return {i: phase for i, phase in found.items() if 0 not in size_of(a, phase)} or found


def _able(a: ConvArgs, left_out: Sequence[str]) -> list[Kernel]:
    return [k for k in kernels_on(a.input.device) if k.name not in left_out]


def reads_two(a: ConvArgs, y: Tensor, left_out: Sequence[str], second: Tensor) -> bool:
    """Whether a kernel takes the convolution, see ConvPlan, where its last inputs lie in a second tensor."""
    return _form(a, y, _able(a, left_out), second)[2] is not None


def _form(
    a: ConvArgs, y: Tensor, able: Sequence[Kernel], second: Tensor | None
) -> tuple[ConvArgs, list[Any], Kernel | None]:
    """(a, or a as one convolution with a pixel shuffle where a special kernel takes that; its steps; the
    special kernel that takes it, if one does)."""
    forms = [a]
    if is_enlarging(a):
        co, *rest = a.weight.shape
        weight = a.weight.new_empty((4 * co, *rest), device="meta")
        forms.insert(0, replace(a, weight=weight, upsample=1, pixel_shuffle=2))
    for form in forms:
        steps = [_step(form, y, phase, second) for phase in _parts(form).values()]
        kernel = _made_for(steps, able)
        if kernel is not None:
            break
    return form, steps, kernel


def _made_for(steps: Sequence[Any], able: Sequence[Kernel]) -> Kernel | None:
    """The first kernel made for some layers alone that takes all steps."""

    def takes(kernel: Kernel, step: Any) -> bool:
        step.kernel = kernel.index
        return not native.conv2d_refusal(step)

    return next((k for k in able if k.special and all(takes(k, step) for step in steps)), None)


def _portable(a: ConvArgs, step: Any, able: Sequence[Kernel]) -> Kernel:
    """The portable kernel for a, whose first step is given."""
    co, ci = a.weight.shape[:2]
    first = next(iter(_parts(a).values()))
    inputs = ci * first.kh * first.kw if native.conv2d_gathers(step) else ci
    return choose(able, co, inputs, is_plain(a))


def has_special(a: ConvArgs, left_out: Sequence[str]) -> bool:
    """Whether a kernel made for some layers alone, and none of `left_out`, takes a; by shapes and strides, no
    tensor is touched."""
    return _form(*_untouched(a), _able(a, left_out), None)[2] is not None


def refusals(a: ConvArgs, left_out: Sequence[str]) -> list[str]:
    """Why the portable kernels, none of `left_out`, do not take a; by shapes and strides, no tensor is
    touched. They are asked where a special one takes it too: that may refuse it at another address."""
    if 0 in a.output_shape():
        return []
    b, y = _untouched(a)
    steps = [_step(b, y, phase, None) for phase in _parts(b).values()]
    kernel = _portable(b, steps[0], _able(a, left_out))
    found = []
    for step in steps:
        step.kernel = kernel.index
        found.append(native.conv2d_refusal(step))
    return [reason for reason in dict.fromkeys(found) if reason]


def _untouched(a: ConvArgs) -> tuple[ConvArgs, Tensor]:
    """(a, its result), tensors without memory that lie as the kernels read and write them."""

    def like(t: Tensor) -> Tensor:
        return pixel_major(torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"))

    residuals = [(like(residual), weight) for residual, weight in a.residuals]
    base = None if a.base is None else like(a.base)
    b = replace(a, input=lay_out(like(a.input)), residuals=residuals, base=base)
    shape = a.output_shape()
    strides = dense_strides(shape, torch.channels_last)
    return b, torch.empty_strided(shape, strides, dtype=a.input.dtype, device="meta")


def _step(a: ConvArgs, y: Tensor, phase: Phase, second: Tensor | None) -> Any:
    """The parameters of a phase, without addresses and kernel."""
    p = conv_params(native, a, y, phase, _view)
    if second is not None:
        p.x2, p.ci1 = _view(second), a.input.shape[1]
    return p


def _view(x: Tensor) -> Any:
    """A view of x whose address only says that there is one, and how it is aligned."""
    sn, _, sy, sx = x.stride()
    return native.View(_ANYWHERE + x.data_ptr() % 16, sn, sy, sx)
