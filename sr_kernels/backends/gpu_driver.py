# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The version of the GPU's driver: what was proved or measured under another one says nothing."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import re
from pathlib import Path


@functools.cache
def version() -> str:
    """NVIDIA's, such as "580.159.04", or the CUDA version that it speaks, such as "CUDA 13.0"; "unknown"
    where there is none."""
    with contextlib.suppress(OSError):
        found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", Path("/proc/driver/nvidia/version").read_text())
        if found:
            return found[1]
    with contextlib.suppress(OSError, AttributeError):
        number = ctypes.c_int()
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) == 0:
            return f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"
    return "unknown"
