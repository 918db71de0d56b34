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
from sr_kernels.bench import runtimes

_FEATURES = (
    "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd",
    "bf16",
)  # fmt: skip
# What makes everybody that can be limited use AVX2 alone; libraries read these when they are loaded.
_AVX2 = {
    "SR_KERNELS_CPU_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # PyTorch's and OpenVINO's
}
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


def limits(isa: str) -> dict[str, str]:
    """The environment that limits a process to an instruction set. Raises ValueError for an unknown one."""
    if isa != "avx2":
        raise ValueError(f"instruction set {isa!r} is not known; known is avx2")
    return dict(_AVX2)


def limited() -> bool:
    """Whether this process is limited to AVX2."""
    return all(os.environ.get(name) == value for name, value in _AVX2.items())


def environment() -> dict[str, str]:
    """Versions and hardware."""
    found = {
        "processor": processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "features": " ".join(f for f in _FEATURES if f in features()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()) or "unknown",
        "governor": governor(),
        "load": f"{load():.2f}",
        "python": platform.python_version(),
        "sr_kernels": __version__,
        "extension": extension(),
    }
    for name in ("torch", "numpy"):
        found[name] = metadata.version(name)
    return {**found, **runtimes.versions()}


def processor() -> str:
    """The processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1] if match else platform.machine()


def features() -> set[str]:
    """The processor's flags, as the system names them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return set(match[1].split()) if match else set()


def has_bfloat16() -> bool:
    """Whether the processor multiplies bf16 numbers."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & features())


def governor() -> str:
    """What decides the processor's clock, "unknown" where the system does not show it."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return "unknown"


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
