# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""One contender in a fresh process: the memory that a call takes, and oneDNN's names of what ran."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from sr_kernels.bench import peers
from sr_kernels.bench.contender import Call
from sr_kernels.bench.problem import Case
from sr_kernels.bench.results import OURS
from sr_kernels.config import set_precision

_LIMIT = 300  # seconds
_VERBOSE = ("eager", "eager_cl", "eager_bf16")  # whose convolutions are oneDNN's own


@dataclass(frozen=True)
class Alone:
    """What a fresh process found."""

    peak_mib: float
    kernels: tuple[str, ...]  # oneDNN's convolutions, where PyTorch calls them


@dataclass(frozen=True)
class Task:
    """What the process is to do. variant: which of the contender's calls; files: what is exported already."""

    case: Case
    contender: str
    variant: int
    threads: int
    backend: str
    files: Mapping[str, Path]
    precision: str = "high"


def run(task: Task) -> Alone:
    """The task in a process of its own, with the allocator as the system has it.

    Raises RuntimeError with the process's last words where it fails.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if task.contender in _VERBOSE:
        environment["ONEDNN_VERBOSE"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "sr_kernels.bench.alone"],
        input=pickle.dumps(task),
        capture_output=True,
        timeout=_LIMIT,
        env=environment,
    )
    printed = done.stdout.decode(errors="replace")
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"{task.contender} alone: {words[-1] if words else f'status {done.returncode}'}")
    return Alone(json.loads(printed.splitlines()[-1])["peak_mib"], onednn_kernels(printed))


def onednn_kernels(printed: str) -> tuple[str, ...]:
    """The implementations of the call's convolutions, in order, from what ONEDNN_VERBOSE=1 prints."""
    last = printed.rpartition("the call:")[2]
    return tuple(re.findall(r"^onednn_verbose,(?:v\d,)?primitive,exec,cpu,convolution,([^,]+),", last, re.M))


def peak(task: Task) -> float:
    """MiB by which the process grows during its first call, beside what building left."""
    torch.set_num_threads(task.threads)
    set_precision(task.precision)
    with torch.no_grad():
        problem = task.case.build()
        problem.files.update(task.files)
        peer = [task.contender] if task.contender != OURS else list(peers.FP32)
        known = {c.name: c for c in peers.contenders(peer, task.backend)}
        contender = known[task.contender]
        built = contender.build(problem)
        variants: Iterable[Call] = [built] if isinstance(built, Call) else built
        call = next(islice(variants, task.variant, None))
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark begins anew
        before = _status("VmRSS")
        print("the call:", flush=True)
        call()
        return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """KiB, of /proc/self/status."""
    match = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert match, f"/proc/self/status has no {name}"
    return int(match[1])


if __name__ == "__main__":
    found = peak(pickle.loads(sys.stdin.buffer.read()))
    print(json.dumps({"peak_mib": round(found, 1)}), flush=True)
