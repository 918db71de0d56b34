# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A few milliseconds of proof before a kernel is used: each of an instruction set against NumPy in float64.

The result is kept on disk by CPU, instruction set and build, so that it is paid for once per machine.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import platform
import tempfile
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from sr_kernels import config

if TYPE_CHECKING:
    from sr_kernels.backends.cpu_isa import Isa

_lock = threading.Lock()
_results: dict[str, str] = {}  # instruction set -> why it failed, "" where it passed
_FILE = "selfcheck.json"


def passes(isa: Isa) -> bool:
    """Whether the kernels of this set may be used; a failure is warned of once."""
    return not failure(isa)


def failure(isa: Isa) -> str:
    """What the self-check of this set found wrong, "" where it passed; run at first use."""
    found = _results.get(isa.name)
    if found is None:
        with _lock:
            found = _results.get(isa.name)
            if found is None:
                # The file holds passes alone: a failure is looked at anew in each process.
                found = _results[isa.name] = "" if remembered(_key(isa)) else _check(isa)
    return found


def report() -> dict[str, str]:
    """Every instruction set of this machine with "passed" or what failed."""
    from sr_kernels.backends.cpu_isa import ISAS

    return {isa.name: failure(isa) or "passed" for isa in ISAS}


@functools.cache
def _cpu_model() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.lower().startswith(("model name", "cpu part")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _key(isa: Isa) -> str:
    from sr_kernels import _C

    return f"{_cpu_model()} | {isa.name} | {_C.build_id}"


def _path() -> str:
    return os.path.join(config.get("SR_KERNELS_CACHE_DIR"), _FILE)


def _read() -> list[str]:
    with contextlib.suppress(OSError, ValueError), open(_path()) as file:
        found: Any = json.load(file)
        passed = found.get("passed") if isinstance(found, dict) else None
        if isinstance(passed, list) and all(isinstance(key, str) for key in passed):
            return passed
    return []


def remembered(key: str) -> bool:
    """Whether a check under this key has passed on this machine."""
    return key in _read()


def remember(key: str) -> None:
    """Notes that the check under this key has passed."""
    # A folder that cannot be written costs the next process a few milliseconds, nothing else.
    with contextlib.suppress(OSError):
        path = _path()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=_FILE)
        with os.fdopen(handle, "w") as file:
            json.dump({"passed": sorted({*_read(), key})}, file, indent=1)
        os.replace(temporary, path)


def _check(isa: Isa) -> str:
    problems = [_check_kernel(isa, kernel, 0) for kernel in isa.kernels]
    # What converts 16 bits is the same code in all kernels of a kind.
    first = {(kernel.kind, kernel.unit): kernel for kernel in reversed(isa.kernels)}
    problems += [
        _check_kernel(isa, kernel, dtype)
        for kernel in first.values()
        for dtype in ((1,) if kernel.kind == "bf16" else (1, 2))
    ]
    problems += [_check_epilogue(isa, i, name) for i, name in enumerate(_TRUE_ACTIVATIONS)]
    problems += _check_memory_ops(isa)
    wrong = [problem for problem in problems if problem]
    if not wrong:
        remember(_key(isa))
        return ""
    reason = "; ".join(wrong)
    warnings.warn(
        f"sr_kernels: the {isa.name} CPU kernels failed their self-check on this machine and are left out: "
        f"{reason}",
        RuntimeWarning,
        stacklevel=2,
    )
    return reason


def _elements(a: np.ndarray, dtype: int) -> np.ndarray:
    """a, float32, as the elements of csrc/params.h's dtype; cut off, not rounded."""
    if dtype == 1:
        return (a.view(np.uint32) >> 16).astype(np.uint16)
    return a.astype(np.float16) if dtype == 2 else a


def _floats(a: np.ndarray, dtype: int) -> np.ndarray:
    """The values of such elements, float32."""
    return (a.astype(np.uint32) << 16).view(np.float32) if dtype == 1 else a.astype(np.float32)


def _check_kernel(isa: Isa, kernel: Any, dtype: int) -> str:
    """A 3x3 layer with PReLU and a residual on a ragged picture: two tiles and an odd pixel a row."""
    from sr_kernels import _C
    from sr_kernels.backends import cpu_pack

    rng = np.random.default_rng(0)
    depthwise = kernel.kind == "depthwise"
    lanes = isa.lanes
    co = kernel.channels if kernel.kind == "thin" else kernel.channels + 1
    ci = co if depthwise else lanes + 3
    h, w = 3, 2 * kernel.pixels + 1
    x, residual, bias, slope = (
        rng.standard_normal(s).astype(np.float32) for s in ((h, w, ci), (h, w, co), (co,), (co,))
    )
    given, added = _elements(x, dtype), _elements(residual, dtype)
    x, residual = _floats(given, dtype), _floats(added, dtype)
    weight = rng.standard_normal((co, 1 if depthwise else ci, 3, 3)).astype(np.float32)
    if kernel.kind == "bf16":  # of values that it does not round
        given = _elements(x := _floats(_elements(x, 1), 1), dtype)
        weight = _floats(_elements(weight, 1), 1)
    padded = np.pad(x.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    truth = np.zeros((h, w, co))
    for ky in range(3):
        for kx in range(3):
            window, tap = padded[ky : ky + h, kx : kx + w], weight[:, :, ky, kx].astype(np.float64)
            truth += window * tap[:, 0] if depthwise else window @ tap.T
    truth += bias
    magnitude = float(np.abs(truth).max())
    truth = np.where(truth > 0, truth, truth * slope) * 0.5 + residual

    block = kernel.block
    padding = -co % block

    def vector(v: np.ndarray) -> np.ndarray:
        return np.pad(v, (0, padding))

    if kernel.kind == "thin":
        packed = np.pad(weight, ((0, 0), (0, -ci % lanes), (0, 0), (0, 0))).reshape(co, -1, lanes, 3, 3)
        packed = packed.transpose(3, 4, 1, 0, 2)
    elif kernel.kind == "winograd":
        g = cpu_pack.FILTER_TRANSFORM
        packed = np.full((len(g) ** 2, -(-co // block), ci, block), np.nan, np.float32)
        strides = tuple(stride // 4 for stride in weight.strides)
        _C.pack_winograd(isa.index, weight.ctypes.data, packed.ctypes.data, (co, ci), strides, block, g)
    elif kernel.kind == "bf16":
        packed = np.pad(_elements(weight, 1), ((0, padding), (0, -ci % kernel.depth), (0, 0), (0, 0)))
        packed = packed.reshape(-1, block, packed.shape[1] // 2, 2, 3, 3).transpose(0, 4, 5, 2, 1, 3)
    else:
        group = lanes if depthwise else block
        packed = np.pad(weight, ((0, padding), (0, 0), (0, 0), (0, 0)))
        packed = packed.reshape(-1, group, packed.shape[1], 3, 3).transpose(0, 3, 4, 2, 1)
    packed, bias, slope = np.ascontiguousarray(packed), vector(bias), vector(slope)
    y = _elements(np.full((h, w, co), np.nan, np.float32), dtype)

    p = _C.ConvParams()
    p.x, p.y, p.res1, p.dtype = _view(given), _view(y), _view(added), dtype
    p.set_weights(packed.ctypes.data, bias.ctypes.data, slope.ctypes.data)
    p.set_input(1, h, w, ci)
    p.set_output(h, w, co)
    p.set_window(3, 3, 1, 1, 1, 1, 1, 1)
    p.set_epilogue(3, False, 0.0, 0.5, 1.0, 0.0, 1)
    p.kernel = kernel.index
    _C.conv2d(isa.index, p)
    # A sum of k terms in float32 is off by at most k roundings of its magnitude, a wrong index by far more.
    # (Winograd's transforms enlarge the terms about tenfold, and there are four times fewer.)
    bound = 9 * ci * 2.0**-23 * magnitude
    bound += (0.0, 2.0**-8, 2.0**-11)[dtype] * float(np.abs(truth).max())
    error = float(np.abs(_floats(y, dtype) - truth).max())
    wrong = (
        f"{kernel.name} of {('float32', 'bfloat16', 'float16')[dtype]}: error {error:.3g} above {bound:.3g}"
    )
    return "" if error <= bound else wrong


_erf = np.vectorize(math.erf)
# In the order of reference.ACTIVATIONS; slopes are 0.25.
_TRUE_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.25 * z),
    "prelu": lambda z: np.where(z > 0, z, 0.25 * z),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "gelu": lambda z: 0.5 * z * (1 + _erf(z / math.sqrt(2))),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
}


def _check_epilogue(isa: Isa, index: int, name: str) -> str:
    """A 1x1 layer of 12 outputs with this activation, shuffled by 2, on a base enlarged to it."""
    from sr_kernels import _C

    kernel = next(k for k in isa.kernels if k.kind == "direct")
    rng = np.random.default_rng(index)
    h, w, ci, s, colours = 3, kernel.pixels + 2, 5, 2, 3
    co = colours * s * s
    x, base = (rng.standard_normal(shape).astype(np.float32) for shape in ((h, w, ci), (h, w, colours)))
    weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((co, ci), (co,)))
    z = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
    shuffled = _TRUE_ACTIVATIONS[name](z).reshape(h, w, colours, s, s).transpose(0, 3, 1, 4, 2)
    truth = shuffled.reshape(h * s, w * s, colours) + base.repeat(s, 0).repeat(s, 1)

    order = np.arange(co).reshape(colours, s * s).T.ravel()  # packed channel -> the op's
    padding = -co % kernel.block
    packed = np.pad(weight[order], ((0, padding), (0, 0))).reshape(-1, kernel.block, ci).transpose(0, 2, 1)
    packed, packed_bias = np.ascontiguousarray(packed), np.pad(bias[order], (0, padding))
    slopes = np.full(co + padding, 0.25, np.float32)
    y = np.full((h * s, w * s, colours), np.nan, np.float32)
    p = _C.ConvParams()
    p.x, p.y, p.base = _view(x), _view(y), _view(base)
    p.set_weights(packed.ctypes.data, packed_bias.ctypes.data, slopes.ctypes.data)
    p.set_input(1, h, w, ci)
    p.set_output(h, w, co)
    p.set_window(1, 1, 1, 1, 1, 1, 0, 0)
    p.set_epilogue(index, False, 0.25, 1.0, 0.0, 0.0, s)
    p.set_base(2, s, h, w)
    p.kernel = kernel.index
    _C.conv2d(isa.index, p)
    bound = 2 * ci * 2.0**-23 * float(np.abs(z).max() + np.abs(truth).max())
    error = float(np.abs(y - truth).max())
    return "" if error <= bound else f"{name} with a shuffle and a base: error {error:.3g} above {bound:.3g}"


def _check_memory_ops(isa: Isa) -> list[str]:
    """Pixel shuffle both ways in both layouts, the weighted sum, and pictures to floats and back."""
    from sr_kernels import _C

    wrong = []
    rng = np.random.default_rng(0)
    c, h, w, s = 3, 2, 5, 2
    fine = rng.standard_normal((c, h * s, w * s)).astype(np.float32)
    coarse = fine.reshape(c, h, s, w, s).transpose(0, 2, 4, 1, 3).reshape(c * s * s, h, w)
    for axes in ((0, 1, 2), (1, 2, 0)):  # planes, then pixels
        back = np.argsort(axes)
        a, b = (np.ascontiguousarray(t.transpose(axes)) for t in (coarse, fine))
        for inverse, source, target in ((False, a, b), (True, b, a)):
            given, made = source.copy(), np.full_like(target, np.nan)
            sides = (made, given) if inverse else (given, made)
            strides = [(0, *(t.transpose(back).strides[i] // 4 for i in range(3))) for t in sides]
            _C.shuffle(
                isa.index,
                sides[0].ctypes.data,
                sides[1].ctypes.data,
                (1, h, w, c),
                *strides,
                s,
                4,
                inverse,
                1,
            )
            if not np.array_equal(made, target):
                wrong.append("pixel_unshuffle" if inverse else "pixel_shuffle")

    x, r1, r2 = rng.standard_normal((3, 101)).astype(np.float32)
    y = np.full(101, np.nan, np.float32)
    pointers = x.ctypes.data, r1.ctypes.data, r2.ctypes.data, y.ctypes.data
    _C.add(isa.index, *pointers, 101, 0.5, -2.0, 0.25, 0, 1)
    if not np.allclose(y, 0.5 * x - 2.0 * r1 + 0.25 * r2, rtol=1e-5, atol=1e-5):
        wrong.append("residual_add")

    for dtype in (np.uint8, np.uint16):
        full = float(np.iinfo(dtype).max)
        picture: np.ndarray = np.linspace(0, full, 101).astype(dtype)
        floats, again = np.full(101, np.nan, np.float32), np.zeros(101, dtype)
        bits = 8 * picture.itemsize
        _C.image_to_float(isa.index, picture.ctypes.data, floats.ctypes.data, 101, bits, 1)
        _C.float_to_image(isa.index, floats.ctypes.data, again.ctypes.data, 101, bits, 1)
        if not np.allclose(floats, picture.astype(float) / full, rtol=1e-6) or not np.array_equal(
            again, picture
        ):
            wrong.append(f"pictures of {bits} bits")
    return wrong


def _view(a: np.ndarray) -> Any:
    """A C-contiguous picture (H, W, C) as the kernels see it."""
    from sr_kernels import _C

    return _C.View(a.ctypes.data, a.size, a.shape[1] * a.shape[2], a.shape[2])
