# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What nvcc makes of the CUDA sources: ptxas's report and the instructions of each kernel."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.native.cuda.emulated import CSRC, ROOT

FLAGS = ("-std=c++17", "-O3", "-Xptxas=-v", "-Werror=all-warnings")
PORTABLE = ("conv2d_sm80_float16", "conv2d_sm80_bfloat16", "conv2d_tail", "pointwise", "shuffle")
HOPPER = ("conv2d_sm90_straight", "conv2d_sm90_rare", "conv2d_sm90_staged")


@dataclass(frozen=True)
class Kernel:
    """A kernel as ptxas reports it, and its instructions, in order, with their modifiers."""

    name: str
    registers: int
    spilled: int  # bytes
    shared: int  # bytes that are there before a launch adds its own
    code: tuple[str, ...]

    def count(self, pattern: str) -> int:
        """Instructions that begin with this pattern."""
        return sum(1 for line in self.code if re.match(pattern, line))


def disassembler() -> str | None:
    """cuobjdump of the toolkit, or the one that Triton brings along."""
    found = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if found is None and triton is not None and triton.origin is not None:
        brought = Path(triton.origin).parent / "backends" / "nvidia" / "bin"
        found = shutil.which("cuobjdump", path=str(brought))
    return found


@functools.cache
def kernels(unit: str, arch: str) -> tuple[Kernel, ...]:
    """Those of csrc/cuda/UNIT.cu, or of a unit named by its path, for sm_ARCH, compiled once and kept in
    build/cubins under a hash."""
    cubin, report = _compiled(unit, arch)
    tool = disassembler()
    assert tool is not None
    path = os.pathsep.join([str(Path(tool).parent), os.environ.get("PATH", "")])  # it calls nvdisasm
    command = [tool, "-sass", str(cubin)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    codes = _functions(done.stdout)
    reports = re.split(r"Compiling entry function '", report)[1:]
    assert {r.partition("'")[0] for r in reports} == set(codes)
    return tuple(_kernel(r, codes[r.partition("'")[0]]) for r in reports)


def _kernel(report: str, code: tuple[str, ...]) -> Kernel:
    def number(pattern: str) -> int:
        found = re.search(pattern, report)
        return int(found[1]) if found else 0

    spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    name = report.partition("'")[0]
    return Kernel(name, number(r"Used (\d+) registers"), spilled, number(r"(\d+) bytes smem"), code)


def _functions(listing: str) -> dict[str, tuple[str, ...]]:
    """Of cuobjdump's listing, each function's instructions without addresses and predicates."""
    found = {}
    for part in re.split(r"^\s*Function : ", listing, flags=re.MULTILINE)[1:]:
        lines = re.findall(
            r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^;]*);", part, flags=re.MULTILINE
        )
        found[part.split(maxsplit=1)[0]] = tuple(lines)
    return found


def host_code(unit: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Compiles csrc/cuda/UNIT, for Hopper alone and without optimising; nothing is kept."""
    nvcc = shutil.which("nvcc")
    assert nvcc is not None
    target = "-gencode=arch=compute_90a,code=sm_90a"
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, FLAGS[0], FLAGS[-1], "-O0", "-x", "cu", target, f"-I{CSRC}", *flags, "-DSRK_SM90"]
        command += ["-c", str(CSRC / "cuda" / unit), "-o", f"{folder}/object"]
        return subprocess.run(command, capture_output=True, text=True)


def _compiled(unit: str, arch: str) -> tuple[Path, str]:
    """(its cubin, ptxas's report)."""
    nvcc = shutil.which("nvcc")
    assert nvcc is not None
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    source = CSRC / "cuda" / f"{unit}.cu"
    h = hashlib.sha256("\0".join((version, arch, *FLAGS)).encode())
    for path in sorted({source, *CSRC.rglob("*.h"), *CSRC.rglob("*.cuh")}):
        h.update(path.read_bytes())
    folder = ROOT / "build" / "cubins" / h.hexdigest()[:24]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
            command = [nvcc, *FLAGS, target, f"-I{CSRC}", "-cubin", str(source), "-o", str(made / "cubin")]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
            (made / "report").write_text(done.stdout + done.stderr)
            if not folder.exists():
                made.rename(folder)
    return folder / "cubin", (folder / "report").read_text()
