# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A few milliseconds of proof before a kernel is used: each of an instruction set against NumPy in float64.

The result is kept on disk by CPU, instruction set and build, so that it is paid for once per machine.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import tempfile
import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from sr_kernels import config

if TYPE_CHECKING:
    from sr_kernels.backends.cpu import Isa

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
                found = _results[isa.name] = "" if _key(isa) in _read() else _check(isa)
    return found


def report() -> dict[str, str]:
    """Every instruction set of this machine with "passed" or what failed."""
    from sr_kernels.backends.cpu import ISAS

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


def _remember(key: str) -> None:
    # A folder that cannot be written costs the next process a few milliseconds, nothing else.
    with contextlib.suppress(OSError):
        path = _path()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=_FILE)
        with os.fdopen(handle, "w") as file:
            json.dump({"passed": sorted({*_read(), key})}, file, indent=1)
        os.replace(temporary, path)


def _check(isa: Isa) -> str:
    wrong = [problem for kernel in isa.kernels if (problem := _check_kernel(isa, kernel))]
    if not wrong:
        _remember(_key(isa))
        return ""
    reason = "; ".join(wrong)
    warnings.warn(
        f"sr_kernels: the {isa.name} CPU kernels failed their self-check on this machine and are left out: "
        f"{reason}",
        RuntimeWarning,
        stacklevel=2,
    )
    return reason


def _check_kernel(isa: Isa, kernel: Any) -> str:
    """A 3x3 layer with PReLU and a residual on a ragged picture: two tiles and an odd pixel a row."""
    from sr_kernels import _C

    rng = np.random.default_rng(0)
    depthwise = kernel.kind == "depthwise"
    lanes = isa.lanes
    co = kernel.channels if kernel.kind == "thin" else kernel.channels + 1
    ci = co if depthwise else lanes + 3
    h, w = 3, 2 * kernel.pixels + 1
    x, residual, bias, slope = (
        rng.standard_normal(s).astype(np.float32) for s in ((h, w, ci), (h, w, co), (co,), (co,))
    )
    weight = rng.standard_normal((co, 1 if depthwise else ci, 3, 3)).astype(np.float32)
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
    else:
        group = lanes if depthwise else block
        packed = np.pad(weight, ((0, padding), (0, 0), (0, 0), (0, 0)))
        packed = packed.reshape(-1, group, packed.shape[1], 3, 3).transpose(0, 3, 4, 2, 1)
    packed, bias, slope = np.ascontiguousarray(packed), vector(bias), vector(slope)
    y = np.full((h, w, co), np.nan, np.float32)

    def view(a: np.ndarray) -> Any:
        return _C.View(a.ctypes.data, a.size, a.shape[1] * a.shape[2], a.shape[2])

    p = _C.ConvParams()
    p.x, p.y, p.res1 = view(x), view(y), view(residual)
    p.set_weights(packed.ctypes.data, bias.ctypes.data, slope.ctypes.data)
    p.set_input(1, h, w, ci)
    p.set_output(h, w, co)
    p.set_window(3, 3, 1, 1, 1, 1, 1, 1)
    p.set_epilogue(3, False, 0.0, 0.5, 1.0, 0.0, 1)
    p.kernel = kernel.index
    _C.conv2d(isa.index, p)
    # A sum of k terms in float32 is off by at most k roundings of its magnitude, a wrong index by far more.
    bound = 9 * ci * 2.0**-23 * magnitude
    error = float(np.abs(y - truth).max())
    return "" if error <= bound else f"{kernel.name}: error {error:.3g} above {bound:.3g}"
