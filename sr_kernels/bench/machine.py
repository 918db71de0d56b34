# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The machine and its settings: what is recorded beside every figure, and what is set the same for all."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from importlib import metadata
from pathlib import Path

import torch

from sr_kernels import __version__
from sr_kernels.backends import available_backends

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_pages() -> bool:
    """Tells glibc's allocator to keep freed memory; False where there is no glibc.

    Otherwise every large result comes as fresh pages, and the kernel's clearing of them is timed with it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def environment() -> dict[str, str]:
    """Versions and hardware."""
    found = {
        "processor": processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sr_kernels": __version__,
        "extension": extension(),
    }
    for name in ("torch", "numpy"):
        found[name] = metadata.version(name)
    return found


def processor() -> str:
    """The processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1] if match else platform.machine()


def extension() -> str:
    """The instruction set of our CPU kernels, or why there are none."""
    if reasons := available_backends()["cpu"]:
        return f"none: {'; '.join(reasons)}"
    from sr_kernels.backends.cpu import current_isa

    return current_isa().name


def load() -> float:
    """Programs that want to run, averaged over a minute."""
    return os.getloadavg()[0]


def set_threads(threads: int) -> int:
    """Threads for everybody, at most the cores that there are; the number set."""
    torch.set_num_threads(max(1, min(threads, len(os.sched_getaffinity(0)))))
    return torch.get_num_threads()
