# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What setup.py compiles the CUDA kernels for, and what it does where nvcc fails; the tools are stand-ins."""

import os
import runpy
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import setuptools
from setuptools.dist import Distribution
from setuptools.errors import CompileError

from tests.native.cuda.emulated import ROOT

NVCC = """case "$*" in
--list-gpu-arch) printf 'compute_%s\\n' 80 86 90 ;;
--version) echo release 13.0 ;;
*) echo unsupported host compiler >&2; exit 1 ;;
esac"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """tool(name, script) puts a stand-in before all others."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("CUDA_HOME", "CUDA_PATH", "SR_KERNELS_CUDA_ARCHS"):
        monkeypatch.delenv(name, raising=False)

    def tool(name, script):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return tool


@pytest.fixture
def build(monkeypatch):
    """setup.py's names, of a build in place."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setattr(sys, "argv", ["setup.py", "build_ext"])
    monkeypatch.setenv("SR_KERNELS_BUILD_NATIVE", "0")
    names = runpy.run_path(str(ROOT / "setup.py"))
    monkeypatch.setitem(names["cuda_archs"].__wrapped__.__globals__, "is_in_place", lambda: True)
    monkeypatch.setitem(names["cuda_archs"].__wrapped__.__globals__, "remove_stale", lambda name: None)
    return names


def test_gpus_that_no_kernel_is_written_for_are_left_out(tools, build, capfd):
    tools("nvcc", NVCC)
    tools("nvidia-smi", "printf '%s\\n' 9.0 7.5 8.6 8.6")
    assert build["cuda_archs"]() == (["86", "90a"], "")
    assert "sm_75" in capfd.readouterr().err


def test_a_machine_with_such_a_gpu_alone_builds_no_cuda_kernels(tools, build):
    tools("nvcc", NVCC)
    tools("nvidia-smi", "echo 7.5")
    archs, reason = build["cuda_archs"]()
    assert archs == []
    assert "no able GPU" in reason


def test_an_nvcc_that_does_not_start(tools, build, monkeypatch):
    tools("nvcc", "exit 1")
    tools("nvidia-smi", "echo 8.6")
    archs, reason = build["cuda_archs"]()
    assert archs == []
    assert "--list-gpu-arch" in reason
    build["cuda_archs"].cache_clear()
    monkeypatch.setenv("SR_KERNELS_CUDA_ARCHS", "86")
    with pytest.raises(CompileError, match="--list-gpu-arch"):
        build["cuda_archs"]()


@pytest.mark.parametrize("archs", ["75", "8.6", "sm_86", "80 hopper"])
def test_architectures_that_are_none(tools, build, monkeypatch, archs):
    tools("nvcc", NVCC)
    monkeypatch.setenv("SR_KERNELS_CUDA_ARCHS", archs)
    with pytest.raises(
        SystemExit, match=rf"{archs.split()[-1]} is none.* from 80 on, as 80 86 89 90a 120 is"
    ):
        build["cuda_archs"]()


def test_what_the_toolkit_does_not_know_is_an_error_where_it_was_asked_for(tools, build, monkeypatch):
    tools("nvcc", NVCC)
    monkeypatch.setenv("SR_KERNELS_CUDA_ARCHS", "86, 120")
    with pytest.raises(SystemExit, match="cannot compile for 120"):
        build["cuda_archs"]()


def test_hopper_without_its_own_kernels_is_said(tools, build, monkeypatch, capfd):
    tools("nvcc", NVCC)
    for archs, said in (("90a", False), ("86 90", True), ("90 90a", False)):
        build["cuda_archs"].cache_clear()
        monkeypatch.setenv("SR_KERNELS_CUDA_ARCHS", archs)
        assert build["cuda_archs"]() == (archs.split(), "")
        assert ("90a, not 90" in capfd.readouterr().err) == said


def test_a_machine_without_nvcc(tools, build, monkeypatch):
    monkeypatch.setitem(build["cuda_archs"].__wrapped__.__globals__, "find_nvcc", lambda: None)
    tools("nvidia-smi", "echo 8.6")
    archs, reason = build["cuda_archs"]()
    assert archs == []
    assert "nvcc is neither in CUDA_HOME nor on PATH: install" in reason
    build["cuda_archs"].cache_clear()
    monkeypatch.setenv("SR_KERNELS_CUDA_ARCHS", "86")
    with pytest.raises(SystemExit, match="SR_KERNELS_CUDA_ARCHS=86, but nvcc is neither.*install"):
        build["cuda_archs"]()


@pytest.mark.parametrize("optional", [True, False])
def test_what_nvcc_cannot_compile_is_left_out_unless_it_was_asked_for(
    tools, build, capfd, tmp_path, monkeypatch, optional
):
    tools("nvcc", NVCC)
    tools("nvidia-smi", "echo 8.6")
    extension = setuptools.Extension("sr_kernels._cuda", ["csrc/cuda/module.cpp"], optional=optional)
    command = build["BuildNative"](Distribution())
    stale = tmp_path / "stale.so"
    stale.write_text("of an earlier build")
    monkeypatch.setattr(command, "get_ext_fullpath", lambda name: str(stale), raising=False)
    if optional:
        command.build_extension(extension)
        assert not stale.exists()
        assert "unsupported host compiler" in capfd.readouterr().err
    else:
        with pytest.raises(CompileError, match="unsupported host compiler"):
            command.build_extension(extension)


@pytest.mark.parametrize(
    ("archs", "native", "optional"),
    [(None, "auto", True), ("native", "auto", True), ("86", "auto", False), (None, "1", False)],
)
def test_when_the_cuda_kernels_are_optional(tools, build, monkeypatch, archs, native, optional):
    tools("nvcc", NVCC)
    tools("nvidia-smi", "echo 8.6")
    if archs is not None:
        monkeypatch.setenv("SR_KERNELS_CUDA_ARCHS", archs)
    monkeypatch.setenv("SR_KERNELS_BUILD_NATIVE", native)
    found = {extension.name: extension for extension in build["extensions"]()}
    assert found["sr_kernels._cuda"].optional is optional


def test_no_more_compilers_at_a_time_than_there_is_room_for(build):
    room, lock, now, most, order = build["Room"](5), threading.Lock(), [0], [0], []

    def compiled(index, count):
        with room.of(count):
            with lock:
                order.append(index)
                now[0] += count
                most[0] = max(most[0], now[0])
            time.sleep(0.01)
            with lock:
                now[0] -= count

    counts = [5, 1, 3, 1, 5, 2, 2, 1]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(compiled, range(8), counts))
    assert most[0] <= 5
    assert sorted(order) == list(range(8))


def test_nor_fewer_where_there_is_room_for_more(build):
    """Each waits for the others inside; one that is kept out would end the wait with an error."""
    room, together = build["Room"](5), threading.Barrier(3, timeout=30)

    def compiled(count):
        with room.of(count):
            together.wait()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(compiled, [2, 1, 2]))
