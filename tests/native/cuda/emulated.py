# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The CUDA sources compiled by the host's compiler: csrc/cuda/emulate.h runs each kernel block by block."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[3]
CSRC = ROOT / "csrc"
CUDA = (
    *("conv2d_sm80.cu", "conv2d_sm80_float16.cu", "conv2d_sm80_bfloat16.cu", "conv2d_tail.cu"),
    *("conv2d_sm90_straight.cu", "conv2d_sm90_rare.cu", "conv2d_sm90_staged.cu", "conv2d_sm90.cu"),
    *("pointwise.cu", "module.cpp"),
)
UNITS = tuple(CSRC / "cuda" / name for name in CUDA)
PLAIN_FLAGS = (
    *("-x", "c++", "-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-DSRK_EMULATE", "-DSRK_SM90"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-clobbered"),
)
FLAGS = (
    *PLAIN_FLAGS,
    *("-DSRK_MODULE=_cuda_emulated", '-DSRK_BUILD_ID="emulated"', '-DSRK_CUDA_ARCHS="emulated"'),
)


def compiler() -> str | None:
    """The host's C++ compiler, where it knows half precision (_Float16)."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            probe = [name, "-x", "c++", "-fsyntax-only", "-"]
            done = subprocess.run(probe, input="_Float16 x;", text=True, capture_output=True)
            return name if done.returncode == 0 else None
    return None


def build() -> ModuleType:
    """The extension with emulated kernels; kept in build/emulated under a hash of its sources."""
    import pybind11

    cxx = compiler()
    assert cxx is not None
    include = [f"-I{CSRC}", f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]
    sources = sorted({*UNITS, *CSRC.rglob("*.h"), *CSRC.rglob("*.cuh")})
    h = hashlib.sha256("\0".join((cxx, *FLAGS, *include)).encode())
    for source in sources:
        h.update(source.read_bytes())
    folder = ROOT / "build" / "emulated" / h.hexdigest()[:24]
    made = folder / f"_cuda_emulated{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not made.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:

            def compiled(unit: Path) -> str:
                target = f"{temporary}/{unit.name}.o"
                subprocess.run([cxx, *FLAGS, *include, "-c", unit, "-o", target], check=True)
                return target

            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                objects = list(pool.map(compiled, UNITS))
            kept = Path(temporary) / "kept"
            kept.mkdir()
            subprocess.run([cxx, "-shared", *objects, "-o", kept / made.name], check=True)
            if not folder.exists():
                kept.rename(folder)
    spec = importlib.util.spec_from_file_location("_cuda_emulated", made)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
