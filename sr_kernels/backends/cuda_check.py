# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A small proof on each GPU before a kernel is used there, against the op in float64.

Passes are kept on disk by GPU, driver, build and what packs and checks. What passes by itself, a capture or a
lack of memory, is a reason for the moment and no verdict: the next call asks again.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

import torch
from torch import Tensor

from sr_kernels import reference
from sr_kernels.backends import cuda_moves, cuda_plan, gpu_driver, selfcheck
from sr_kernels.backends.base import ConvArgs, dense_strides

_lock = threading.RLock()
_results: dict[int, dict[str, str]] = {}  # device -> kernel -> why it failed, "" where it passed
_MEMORY = "memory-bound ops"


def reasons(device: torch.device, plain: bool | None = None) -> list[str]:
    """Why no kernel for plain or for all epilogues (None: for memory-bound ops) may be used on the device."""
    found = results(device)
    if plain is None:
        return [found[_MEMORY]] if found[_MEMORY] else []
    able = [k.name for k in cuda_plan.kernels() if not k.special and (plain or k.full)]
    return [] if any(not found[name] for name in able) else [found[able[0]]]


def left_out(device: torch.device) -> list[str]:
    """The names of the kernels that are not to be used on the device."""
    return [name for name, failure in results(device).items() if failure]


def results(device: torch.device) -> dict[str, str]:
    """Each kernel with why it must not be used, "" where it passed; checked at first use."""
    index = _index(device)
    found = _results.get(index)
    if found is None:
        with _lock:
            found = _results.get(index)
            if found is None:
                found, lasts = _check(device, index)
                if lasts:
                    _results[index] = found
    return found


def report() -> dict[str, str]:
    """Every device and kernel with "passed" or what failed."""
    return {
        f"cuda:{index}, {torch.cuda.get_device_name(index)}, {name}": failure or "passed"
        for index in range(torch.cuda.device_count())
        for name, failure in results(torch.device("cuda", index)).items()
    }


def _index(device: torch.device) -> int:
    if device.type != "cuda":
        return -1
    return torch.cuda.current_device() if device.index is None else device.index


@functools.cache
def _name(index: int) -> str:
    if index < 0:
        return "emulated"
    major, minor = torch.cuda.get_device_capability(index)
    return f"{torch.cuda.get_device_name(index)} | {major}.{minor} | {gpu_driver.version()}"


@functools.cache
def _source() -> str:
    """A hash over what packs, launches and checks: what was proved of others says nothing."""
    h = hashlib.sha256()
    for name in ("cuda.py", "cuda_check.py", "cuda_plan.py", "params.py", "phases.py"):
        h.update(resources.files(__package__).joinpath(name).read_bytes())
    return h.hexdigest()[:16]


def without_code(archs: str, capability: int) -> str:
    """Why a build for these architectures, such as "80 90a", has no kernels for a GPU; "" where it has.

    Machine code runs on chips of the same major and no earlier minor, that of "90a" on 9.0 alone; what
    drivers compile, see code_of in setup.py, is there for the first architecture without a letter.
    """
    plain = [int(arch) for arch in archs.split() if arch.isdecimal()]
    exact = [int(arch.rstrip("af")) for arch in archs.split() if not arch.isdecimal()]
    same = any(arch <= capability and arch // 10 == capability // 10 for arch in plain)
    if same or capability in exact or (plain and plain[0] <= capability):
        return ""
    return f"the CUDA kernels are built for {archs}, and this GPU is of {capability}"


def _obstacle(device: torch.device, index: int) -> tuple[str, bool]:
    """(why no kernel can be checked there now, "" where it can; whether that lasts)."""
    if index < 0:
        return "", True
    major, minor = torch.cuda.get_device_capability(index)
    if missing := without_code(cuda_plan.native.archs, 10 * major + minor):
        return missing, True
    with torch.cuda.device(index):
        if torch.cuda.is_current_stream_capturing():
            return "kernels are checked at first use, which cannot be while a graph is captured", False
    return "", True


@torch.no_grad()
def _check(device: torch.device, index: int) -> tuple[dict[str, str], bool]:
    """(`results`, whether they last)."""
    names = [*(kernel.name for kernel in cuda_plan.kernels_on(device)), _MEMORY]
    key = f"{_name(index)} | cuda | {cuda_plan.native.build_id} | {_source()}"
    if selfcheck.remembered(key):
        return dict.fromkeys(names, ""), True
    obstacle, lasts = _obstacle(device, index)
    if obstacle:
        return dict.fromkeys(names, obstacle), lasts
    found = {}
    for name in names:
        try:
            found[name] = check_memory_ops(device) if name == _MEMORY else check_kernel(device, name)
        except Exception as error:  # a driver fails in ways of its own
            found[name] = f"{type(error).__name__}: {error}"
            if "out of memory" in str(error):
                return dict.fromkeys(names, f"no memory for the kernels' self-check: {error}"), False
    wrong = [f"{name}: {failure}" for name, failure in found.items() if failure]
    if wrong:
        warnings.warn(
            f"sr_kernels: CUDA kernels failed their self-check on {_name(index)} and are left out: "
            f"{'; '.join(wrong)}",
            RuntimeWarning,
            stacklevel=2,
        )
    else:
        selfcheck.remember(key)
    return found, True


def _normal(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def check_kernel(device: torch.device, name: str) -> str:
    """What is wrong with a kernel, "" where nothing is: ragged layers by it, of both types."""
    kernel = next(k for k in cuda_plan.kernels() if k.name == name)
    others = [k.name for k in cuda_plan.kernels() if k.name != name]
    for dtype in (torch.float16, torch.bfloat16):
        for layer in layers_of(kernel, device):
            if wrong := _check_layer(device, layer, dtype, others):
                return f"{dtype} of {layer}: {wrong}"
    return ""


@dataclass(frozen=True)
class _Layer:
    """3x3 with a bias; one without base, shuffle and upsample adds a residual."""

    ci: int
    co: int
    activation: str = "prelu"
    base: str = ""  # "same", "nearest" or "bilinear"; enlarged by the factor of the shuffle or upsample
    shuffle: int = 1
    upsample: int = 1
    second: int = 0  # of the inputs, those of a second tensor
    samples: int = 1
    repeats: int = 1  # of the samples


def layers_of(kernel: cuda_plan.Kernel, device: torch.device) -> list[_Layer]:
    """What a kernel is checked with: every variant that it is compiled in, every epilogue that it has."""
    if kernel.capability:
        return list(_hopper_layers(kernel, device))
    return list(_special_layers() if kernel.special else _portable_layers(kernel))


def _portable_layers(kernel: cuda_plan.Kernel) -> Iterator[_Layer]:
    """Pixels read as they lie and gathered; the phases of an upsample."""
    ci, co = kernel.depth + 8, kernel.channels + 8
    if kernel.full:
        co = co // 4 * 4
        yield _Layer(ci, co, "gelu", "bilinear", 2)
        yield _Layer(3, co, "tanh", "nearest", 2)
        yield _Layer(ci, co, "sigmoid", "same", upsample=2)
        yield _Layer(ci, co, "silu")
    else:
        yield _Layer(ci, co)
        yield _Layer(3, co, "relu")
        yield _Layer(ci, co, "leaky_relu", upsample=2)


def _special_layers() -> Iterator[_Layer]:
    """conv2d_tail: each number of outputs and of chunks of inputs; one output enlarged is four."""
    for ci in (24, 64, 104):
        yield from (_Layer(ci, 1), _Layer(ci, 3, "tanh", "same"), _Layer(ci, 4, "gelu", "bilinear", 2))
    yield _Layer(40, 1, "relu", upsample=2)


def _hopper_layers(kernel: cuda_plan.Kernel, device: torch.device) -> Iterator[_Layer]:
    """Channels stored in runs of 8 bytes and one by one, and more tiles than multiprocessors, so that a block
    of threads computes several; what it computes first and next are of different samples."""
    ci, stacked = 136 if kernel.wide else 48, kernel.channels == 32
    many = _multiprocessors(device)
    if kernel.wide and (stacked or kernel.staged):
        yield _Layer(ci, 24 if stacked else 72, "leaky_relu", second=ci - 64)
    if kernel.staged:
        yield _Layer(ci, 72, samples=3, repeats=many)
        yield _Layer(ci + 16, 256, "silu", shuffle=2)
        yield _Layer(ci, 32, "relu", upsample=2)
        return
    co = (24, 22, 12) if stacked else (72, 70, 48)
    yield _Layer(ci, co[0], samples=3, repeats=many)
    yield _Layer(ci + 16, co[1], "relu")
    ci = ci + 48 if kernel.wide else 24
    yield _Layer(ci, co[2], "silu", "nearest", 2 if stacked else 4)
    for activation, outputs, shuffle in _RARE[stacked]:
        yield _Layer(ci, outputs, activation, "bilinear", shuffle)
    yield _Layer(ci, co[0], "tanh")
    yield _Layer(ci, 5 if stacked else 20, "sigmoid", "same", upsample=2)


# By whether channels are stacked: what is stored in runs, then what is not.
_RARE = {True: (("gelu", 16, 4), ("tanh", 12, 2)), False: (("gelu", 48, 4), ("tanh", 60, 2))}


def _multiprocessors(device: torch.device) -> int:
    return 1 if device.type != "cuda" else torch.cuda.get_device_properties(device).multi_processor_count


_SIZE = 17, 19  # of the pictures


def _check_layer(device: torch.device, layer: _Layer, dtype: torch.dtype, others: Sequence[str]) -> str:
    random = _normal(layer.ci)
    n, ci, co, (h, w) = layer.samples, layer.ci, layer.co, _SIZE

    def given(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64, device="cpu").to(dtype)

    def picture(c: int, h: int, w: int) -> Tensor:
        return given(n, c, h, w).contiguous(memory_format=torch.channels_last)

    # multiples of a power of two: what packs the taps of an upsample adds up to four, without rounding
    weight = ((4 * given(co, ci, 3, 3)).round() / 2.0 ** round(math.log2(12 * ci**0.5))).to(dtype)
    bias = given(co)
    a = ConvArgs(
        picture(ci, h, w), weight, bias, padding=(1, 1, 1, 1), scale=0.5, upsample=layer.upsample,
        activation=layer.activation, negative_slope=0.2, pixel_shuffle=layer.shuffle,
    )  # fmt: skip
    if layer.activation == "prelu":
        a.prelu_weight = given(co)
    enlarged = layer.shuffle * layer.upsample
    if layer.base:
        a.base_mode = "none" if layer.base == "same" else layer.base
        factor = enlarged if layer.base == "same" else 1
        a.base = picture(co // layer.shuffle**2, h * factor, w * factor)
    elif enlarged == 1:
        a.residuals = [(picture(co, h, w), -1.5)]
    exact = reference.conv2d(
        a.input.double(), a.weight.double(), bias.double(),
        padding=a.padding, upsample=a.upsample, activation=a.activation, negative_slope=a.negative_slope,
        prelu_weight=None if a.prelu_weight is None else a.prelu_weight.double(), scale=a.scale,
        residuals=[(r.double(), f) for r, f in a.residuals], pixel_shuffle=a.pixel_shuffle,
        base=None if a.base is None else a.base.double(), base_mode=a.base_mode,
    )  # fmt: skip

    def many(x: Tensor) -> Tensor:
        return x.to(device).repeat(layer.repeats, 1, 1, 1).contiguous(memory_format=torch.channels_last)

    a.weight, a.bias = a.weight.to(device), bias.to(device)
    a.prelu_weight = None if a.prelu_weight is None else a.prelu_weight.to(device)
    a.input, a.residuals = many(a.input), [(many(r), f) for r, f in a.residuals]
    a.base = None if a.base is None else many(a.base)
    shape = a.output_shape()
    y = torch.full((math.prod(shape),), torch.nan, dtype=dtype, device=device)
    y = y.as_strided(shape, dense_strides(shape, torch.channels_last))
    second = cuda_plan.lay_out(a.input[:, -layer.second :]) if layer.second else None
    a.input = cuda_plan.lay_out(a.input[:, : ci - layer.second])
    cuda_plan.ConvPlan(a, y, others, second).run(a, y, second)
    # A result is rounded once, its terms in float32 by far less.
    eps = torch.finfo(dtype).eps
    exact = exact.repeat(layer.repeats, 1, 1, 1)
    error = (y.double().cpu() - exact).abs()
    if bool((error <= eps * exact.abs() + 2.0**-11).all()):
        return ""
    return f"largest error {float(error.max()):.3g}"


def check_memory_ops(device: torch.device) -> str:
    """What is wrong with the other ops, "" where nothing is: 16 bytes at a time, and element by element."""
    for dtype, offset in itertools.product((*cuda_plan.DTYPES, torch.uint8, torch.float64), (0, 1)):
        if wrong := _check_shuffles(device, dtype, offset):
            return wrong
    for dtype, offset in itertools.product(cuda_plan.DTYPES, (0, 1)):
        if wrong := _check_add(device, dtype, offset):
            return wrong
    for dtype, offset in itertools.product((torch.uint8, torch.uint16), (0, 1)):
        if wrong := _check_pictures(device, dtype, offset):
            return wrong
    return ""


def _moved(x: Tensor, device: torch.device, offset: int) -> Tensor:
    """x on the device, `offset` elements behind the start of its storage."""
    memory = torch.empty(offset + x.numel(), dtype=x.dtype, device=device)
    return memory[offset:].as_strided(x.shape, x.stride()).copy_(x)


def _check_shuffles(device: torch.device, dtype: torch.dtype, offset: int) -> str:
    for s, layout in itertools.product((2, 3, 4), (torch.contiguous_format, torch.channels_last)):
        size = (2, 8 * s * s, 3, 16)
        coarse = torch.randint(0, 200, size, generator=_normal(s), device="cpu").to(dtype)
        coarse = coarse.contiguous(memory_format=layout)
        fine = reference.pixel_shuffle(coarse, s).contiguous(memory_format=layout)
        if not torch.equal(cuda_moves.shuffle(_moved(coarse, device, offset), s).cpu(), fine):
            return f"pixel_shuffle by {s}, {dtype}, {layout}"
        if not torch.equal(cuda_moves.unshuffle(_moved(fine, device, offset), s).cpu(), coarse):
            return f"pixel_unshuffle by {s}, {dtype}, {layout}"
    return ""


def _check_add(device: torch.device, dtype: torch.dtype, offset: int) -> str:
    x, r = torch.randn(2, 1, 3, 5, 7, generator=_normal(0), dtype=torch.float64, device="cpu").to(dtype)
    mine = [_moved(t, device, offset) for t in (x, r)]
    y = cuda_moves.add(mine[0], [(mine[1], -2.0), (mine[0], 0.5)], 0.25).cpu()
    exact = 0.75 * x.double() - 2.0 * r.double()
    bound = torch.finfo(dtype).eps * exact.abs() + 2.0**-20
    return "" if bool(((y.double() - exact).abs() <= bound).all()) else f"residual_add, {dtype}"


def _check_pictures(device: torch.device, dtype: torch.dtype, offset: int) -> str:
    values = torch.linspace(0, torch.iinfo(dtype).max, 105, dtype=torch.float64, device="cpu").round()
    picture = values.to(torch.int32).to(dtype).view(5, 7, 3)
    floats = cuda_moves.to_float(_moved(picture, device, offset)).cpu()
    if not torch.equal(floats, reference.image_to_float(picture)):
        return f"image_to_float, {dtype}"
    back = cuda_moves.to_image(_moved(floats, device, offset), dtype)
    return "" if torch.equal(back.cpu(), picture) else f"float_to_image, {dtype}"
