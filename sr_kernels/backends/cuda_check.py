# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A small proof on each GPU before a kernel is used there, against the op in float64.

Passes are kept on disk by GPU, driver and build. What passes by itself, a capture or a lack of memory, is a
reason for the moment and no verdict: the next call asks again.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sr_kernels import reference
from sr_kernels.backends import cuda_plan, gpu_driver, selfcheck
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
    key = f"{_name(index)} | cuda | {cuda_plan.native.build_id}"
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
    if kernel.capability:
        layers = list(_hopper_layers(kernel, device))
    else:
        layers = list(_special_layers(kernel) if kernel.special else _portable_layers(kernel))
    for dtype in (torch.float16, torch.bfloat16):
        for layer in layers:
            if wrong := _check_layer(device, layer, dtype, others):
                return f"{dtype} of {layer.ci} inputs, {layer.co} outputs: {wrong}"
    return ""


@dataclass(frozen=True)
class _Layer:
    """3x3, by way of an epilogue: a curve, a shuffle and a base, or PReLU and a residual."""

    ci: int
    co: int
    base_mode: str = ""  # "": PReLU and a residual; "none": a shuffle without a base
    shuffle: int = 2  # where there is one
    samples: int = 1
    repeats: int = 1  # of the samples


def _portable_layers(kernel: cuda_plan.Kernel) -> Iterator[_Layer]:
    """Pixels read as they lie and gathered."""
    for ci in (kernel.depth + 8, 3):
        co = kernel.channels + 8
        yield _Layer(ci, co // 4 * 4, "bilinear") if kernel.full else _Layer(ci, co)


def _special_layers(kernel: cuda_plan.Kernel) -> Iterator[_Layer]:
    """conv2d_tail: each number of outputs and of chunks of inputs."""
    yield from (_Layer(24, 1), _Layer(64, 3), _Layer(104, 4, "bilinear"))


def _hopper_layers(kernel: cuda_plan.Kernel, device: torch.device) -> Iterator[_Layer]:
    """Channels stored in runs of 8 bytes and one by one, and more tiles than multiprocessors, so that a block
    of threads computes several; what it computes first and next are of different samples."""
    ci, stacked = 136 if kernel.wide else 48, kernel.channels == 32
    if kernel.staged:
        yield _Layer(ci, 72, samples=3, repeats=_multiprocessors(device))
        yield _Layer(ci + 16, 256, "none")
        return
    co = (24, 22, 12) if stacked else (72, 70, 48)
    yield _Layer(ci, co[0], samples=3, repeats=_multiprocessors(device))
    yield _Layer(ci + 16, co[1])
    ci = ci + 48 if kernel.wide else 24
    yield _Layer(ci, co[2], "nearest", 2 if stacked else 4)
    for outputs, shuffle in ((16, 4), (12, 2)) if stacked else ((48, 4), (60, 2)):
        yield _Layer(ci, outputs, "bilinear", shuffle)


def _multiprocessors(device: torch.device) -> int:
    return 1 if device.type != "cuda" else torch.cuda.get_device_properties(device).multi_processor_count


def _check_layer(device: torch.device, layer: _Layer, dtype: torch.dtype, others: Sequence[str]) -> str:
    random = _normal(layer.ci)
    n, ci, co, h, w = layer.samples, layer.ci, layer.co, 17, 19

    def given(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64, device="cpu").to(dtype)

    def picture(c: int, h: int, w: int) -> Tensor:
        return given(n, c, h, w).contiguous(memory_format=torch.channels_last)

    weight = (given(co, ci, 3, 3) / (9 * ci) ** 0.5).to(dtype)
    bias = given(co)
    a = ConvArgs(picture(ci, h, w), weight, bias, padding=(1, 1, 1, 1), scale=0.5)
    if layer.base_mode:
        a.activation = "gelu" if layer.base_mode == "bilinear" else "silu"
        a.pixel_shuffle, a.base_mode = layer.shuffle, layer.base_mode
        if layer.base_mode != "none":
            a.base = picture(co // layer.shuffle**2, h, w)
    else:
        a.activation, a.prelu_weight = "prelu", given(co)
        a.residuals = [(picture(co, h, w), -1.5)]
    exact = reference.conv2d(
        a.input.double(), a.weight.double(), bias.double(),
        padding=a.padding, activation=a.activation,
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
    a.input = cuda_plan.lay_out(a.input)
    cuda_plan.ConvPlan(a, y, others).run(a, y)
    # A result is rounded once, its terms in float32 by far less.
    eps = torch.finfo(dtype).eps
    exact = exact.repeat(layer.repeats, 1, 1, 1)
    error = (y.double().cpu() - exact).abs()
    if bool((error <= eps * exact.abs() + 2.0**-11).all()):
        return ""
    return f"largest error {float(error.max()):.3g}"


def check_memory_ops(device: torch.device) -> str:
    """What is wrong with the other ops, "" where nothing is."""
    from sr_kernels.backends import cuda

    random = _normal(0)
    layouts = torch.contiguous_format, torch.channels_last
    # element by element, then 16 bytes at a time
    sizes = [((2, 3, 3, 5), 2), *(((2, 8, 3, 16), factor) for factor in (2, 3, 4))]
    for (shape, s), dtype, layout in itertools.product(sizes, (torch.float16, torch.float32), layouts):
        n, c, h, w = shape
        coarse = torch.randn(n, c * s * s, h, w, generator=random, dtype=torch.float32, device="cpu")
        coarse = coarse.to(dtype).contiguous(memory_format=layout)
        fine = reference.pixel_shuffle(coarse, s)
        if not torch.equal(cuda.shuffle(coarse.to(device), s).cpu(), fine):
            return f"pixel_shuffle by {s}, {dtype}, {layout}"
        fine = fine.contiguous(memory_format=layout)
        if not torch.equal(cuda.unshuffle(fine.to(device), s).cpu(), coarse):
            return f"pixel_unshuffle by {s}, {dtype}, {layout}"
    x, r = torch.randn(2, 1, 3, 5, 7, generator=random, dtype=torch.float64, device="cpu").half()
    y = cuda.add(x.to(device), [(r.to(device), -2.0), (x.to(device), 0.5)], 0.25).cpu()
    exact = 0.75 * x.double() - 2.0 * r.double()
    if not bool(((y.double() - exact).abs() <= 2.0**-10 * exact.abs() + 2.0**-20).all()):
        return "residual_add"
    for dtype in (torch.uint8, torch.uint16):
        top = 255 if dtype == torch.uint8 else 65535
        picture = (
            torch.linspace(0, top, 105, dtype=torch.float64, device="cpu")
            .round()
            .to(torch.int32)
            .to(dtype)
            .view(5, 7, 3)
        )
        floats = cuda.to_float(picture.to(device))
        if not torch.equal(floats.cpu(), reference.image_to_float(picture)):
            return f"image_to_float, {dtype}"
        if not torch.equal(cuda.to_image(floats, dtype).cpu(), picture):
            return f"float_to_image, {dtype}"
    return ""
