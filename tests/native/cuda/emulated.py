# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The CUDA sources compiled by the host's compiler: csrc/cuda/emulate.h runs each kernel block by block."""

import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
CSRC = ROOT / "csrc"
CUDA = (
    *("conv2d_sm80.cu", "conv2d_sm80_float16.cu", "conv2d_sm80_bfloat16.cu", "conv2d_tail.cu"),
    *("conv2d_sm90_straight.cu", "conv2d_sm90_rare.cu", "conv2d_sm90_staged.cu", "conv2d_sm90.cu"),
    *("pointwise.cu", "shuffle.cu", "module.cpp"),
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

# When asynchronous copies land, and in which order threads take turns; see csrc/cuda/emulate.h.
ORDERS = {
    f"{copies} {turns}": {"SRK_EMULATE_EARLY": early, "SRK_EMULATE_DOWN": down}
    for copies, early in (("late", "0"), ("early", "1"))
    for turns, down in (("up", "0"), ("down", "1"))
}


def require() -> None:
    """Skips the test where the kernels' sources cannot be compiled."""
    if compiler() is None:
        pytest.skip("no C++ compiler with _Float16 here to compile the CUDA sources")


def compiler() -> str | None:
    """The host's C++ compiler, where it knows half precision (_Float16)."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            probe = [name, "-x", "c++", "-fsyntax-only", "-"]
            done = subprocess.run(probe, input="_Float16 x;", text=True, capture_output=True)
            return name if done.returncode == 0 else None
    return None


def _inputs(source: Path, seen: set[Path] | None = None) -> set[Path]:
    """source and what it includes of csrc, directly or not."""
    seen = {source} if seen is None else seen | {source}
    for name in re.findall(r'#\s*include "([^"]+)"', source.read_text()):
        if (CSRC / name).exists() and CSRC / name not in seen:
            seen = _inputs(CSRC / name, seen)
    return seen


def _kept(name: str, inputs: Iterable[Path], *command: str | Path) -> Path:
    """What a command makes, kept under a hash of it and of its inputs."""
    h = hashlib.sha256("\0".join(map(str, command)).encode())
    for path in sorted(inputs):
        h.update(path.read_bytes())
    made = ROOT / "build" / "emulated" / h.hexdigest()[:24] / name
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as temporary:
            subprocess.run([*command, "-o", f"{temporary}/{name}"], check=True)
            (Path(temporary) / name).rename(made)
    return made


def program(source: Path) -> Path:
    """A program of one source beside the kernels' headers."""
    cxx = compiler()
    assert cxx is not None
    return _kept(source.stem, _inputs(source), cxx, *PLAIN_FLAGS, f"-I{CSRC}", source)


def build() -> ModuleType:
    """The extension with emulated kernels, its objects kept in build/emulated."""
    import pybind11

    cxx = compiler()
    assert cxx is not None
    include = [f"-I{CSRC}", f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]

    def compiled(unit: Path) -> Path:
        return _kept(f"{unit.name}.o", _inputs(unit), cxx, *FLAGS, *include, "-c", unit)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        objects = list(pool.map(compiled, UNITS))
    made = _kept(f"_cuda_emulated{sysconfig.get_config_var('EXT_SUFFIX')}", objects, cxx, "-shared", *objects)
    return _loaded(made)


def kernels_in(module: ModuleType) -> dict[int, str]:
    """Where each kernel that the extension was compiled with lies, and its name."""
    path = str(module.__file__)
    listing = subprocess.run(["nm", "-C", path], check=True, capture_output=True, text=True).stdout
    symbols = re.findall(r"^([0-9a-f]+) [tTwW] (.+)$", listing, flags=re.MULTILINE)
    entry = next(int(at, 16) for at, name in symbols if name == "PyInit__cuda_emulated")
    base = ctypes.cast(ctypes.CDLL(path).PyInit__cuda_emulated, ctypes.c_void_p).value
    assert base is not None
    kernel = re.compile(
        r"void srk::(sm90::conv3x3|cuda::(\(anonymous namespace\)::)?(conv2d_sm80|\w+_kernel))<"
    )
    return {base - entry + int(at, 16): name for at, name in symbols if kernel.match(name)}


def _loaded(made: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_cuda_emulated", made)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
