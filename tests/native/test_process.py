# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What the extension does to the process: one OpenMP runtime, torch's thread count, fork, no torch at all."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")

LAYER = """
import torch
torch.set_num_threads(1)
from sr_kernels import ops
x = torch.randn(1, 64, 90, 80).contiguous(memory_format=torch.channels_last)
weight = torch.randn(64, 64, 3, 3) / 24
def layer():
    return ops.conv2d(x, weight, padding=1, backend="cpu")
"""


def python(code, **environment):
    """The output of a fresh interpreter."""
    import os

    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_one_openmp_runtime():
    out = python(
        LAYER
        + """
torch.set_num_threads(2)
layer()
maps = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
print(*sorted(p for p in maps if any(k in p.rsplit("/", 1)[-1] for k in ("libgomp", "libomp", "libiomp"))))
from sr_kernels import _C
print(_C.openmp_library())
"""
    )
    mapped, used = out.splitlines()
    assert len(mapped.split()) == 1, mapped
    assert used == mapped


def test_threads_are_torchs():
    """Workers live on between parallel regions, so the process's threads show how many one used."""
    out = python(
        """
import os
def threads():
    return len(os.listdir("/proc/self/task"))
"""
        + LAYER
        + """
layer()
alone = threads()
torch.set_num_threads(4)
layer()
print(threads() - alone)
""",
        OPENBLAS_NUM_THREADS="1",
    )
    assert out.strip() == "3"


def test_fork_after_use():
    out = python(
        LAYER
        + """
import os
torch.set_num_threads(2)
expected = layer()
child = os.fork()
if child == 0:  # NumPy compares: torch's own parallel ops do not survive a fork
    os._exit(0 if (layer().numpy() == expected.numpy()).all() else 1)
print(os.waitpid(child, 0)[1])
assert torch.equal(layer(), expected)
"""
    )
    assert out.strip() == "0"


def test_serial_without_torch():
    """The extension alone, with NumPy's memory: no torch, no OpenMP runtime, the same answer."""
    out = python(
        """
import importlib.util, sys
import numpy as np
spec = importlib.util.find_spec("sr_kernels")
import glob, os
path = glob.glob(os.path.join(spec.submodule_search_locations[0], "_C*.so"))[0]
loader = importlib.util.spec_from_file_location("_C", path)
C = importlib.util.module_from_spec(loader)
loader.loader.exec_module(C)
assert "torch" not in sys.modules
x = np.arange(4 * 40000, dtype=np.float32)
y = np.empty_like(x)
C.add(0, x.ctypes.data, x.ctypes.data, 0, y.ctypes.data, x.size, 2.0, 0.5, 0.0, 0, 8)
assert (y == 2.5 * x).all()
print(repr(C.openmp_library()))
"""
    )
    assert out.strip() == "''"


def test_environment_only_lowers_the_instruction_set():
    code = "from sr_kernels.backends import cpu; print(cpu.current_isa().name, *(i.name for i in cpu.ISAS))"
    best, *all_isas = python(code).split()
    assert best == all_isas[-1]
    for name in ("scalar", "avx2", "avx512"):
        chosen = python(code, SR_KERNELS_CPU_ISA=name).split()[0]
        assert chosen == (name if name in all_isas else best)


def test_a_wrong_instruction_set_is_named():
    code = "from sr_kernels.backends import cpu\ntry: cpu.current_isa()\nexcept ValueError as e: print(e)"
    message = python(code, SR_KERNELS_CPU_ISA="sse9")
    assert "SR_KERNELS_CPU_ISA='sse9'" in message
    assert "avx2" in message


def test_eight_threads_at_once():
    import threading

    import torch

    from sr_kernels import ops

    x = torch.randn(1, 32, 40, 50).contiguous(memory_format=torch.channels_last)
    weights = [torch.randn(32, 32, 3, 3) / 17 for _ in range(8)]
    expected = [ops.conv2d(x, w, padding=1, backend="cpu") for w in weights]
    wrong = []

    def work(index):
        for _ in range(20):
            y = ops.conv2d(x, weights[index], padding=1, backend="cpu")
            wrong.extend([] if torch.equal(y, expected[index]) else [index])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
