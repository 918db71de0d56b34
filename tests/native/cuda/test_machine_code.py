# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Every CUDA unit compiled for chips that need not be here: spills, registers and the instructions."""

import os
import re
import shutil
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.native.cuda import machine_code
from tests.native.cuda.machine_code import HOPPER, PORTABLE, Kernel, kernels

# One for each kind of chip: the oldest, Hopper, the newest. 86 and 89 are given the instructions of 80.
ARCHS = ("80", "90a", "120")
UNITS = [(unit, arch) for arch in ARCHS for unit in PORTABLE] + [(unit, "90a") for unit in HOPPER]
MEMORY = ("pointwise", "shuffle")
CONVS = [pair for pair in UNITS if pair[0] not in (*MEMORY, *HOPPER)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH to compile the CUDA kernels"),
    pytest.mark.skipif(
        machine_code.disassembler() is None, reason="no cuobjdump, of the CUDA toolkit or of Triton's package"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """All of them, side by side."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(lambda pair: kernels(*pair), sorted(UNITS, key=lambda pair: pair[0] not in HOPPER)))


def named(unit: str, arch: str, text: str) -> list[Kernel]:
    return [kernel for kernel in kernels(unit, arch) if text in kernel.name]


# Bytes of a thread that ptxas 13.0 puts aside, once a tile, in kernels whose sums take most registers: those
# with the rare epilogues, not stacked, and a portable one that Hopper has better ones for.
SPILLED = {("conv2d_sm90_rare", "90a"): 200}
SPILLED |= {(f"conv2d_sm80_{dtype}", "90a"): 16 for dtype in ("float16", "bfloat16")}


@pytest.mark.parametrize(("unit", "arch"), UNITS)
def test_no_register_is_spilled(unit, arch):
    """Nowhere but where SPILLED says, and there not among products: it is read once behind them."""
    found = kernels(unit, arch)
    assert found
    for kernel in found:
        spills = [i for i, line in enumerate(kernel.code) if re.match("STL|LDL", line)]
        products = [i for i, line in enumerate(kernel.code) if re.match("HMMA|HGMMA", line)]
        assert bool(spills) == bool(kernel.spilled), kernel.name
        assert kernel.spilled <= SPILLED.get((unit, arch), 0), kernel.name
        assert not [i for i in spills if products[0] < i < products[-1]], (kernel.name, kernel.spilled)


def test_what_is_looked_for_is_seen():
    """In kernels that have it."""
    unit = str(Path(__file__).parent / "counterexample")
    for arch in ARCHS:
        found = {kernel.name: kernel for kernel in kernels(unit, arch)}
        assert found["spills"].spilled > 0
        assert found["spills"].count("STL")
        assert found["spills"].count("LDL")
        assert found["shares"].shared - found["spills"].shared == 1024
        assert not found["shares"].spilled
        assert not any(kernel.count("HMMA|HGMMA|LDSM|UTMA|UBLKCP") for kernel in found.values())
        assert not any(kernel.count(r"(LDG|STG)\.E\.128") for kernel in found.values())


@pytest.mark.parametrize("unit", ["conv2d_sm80.cu", "conv2d_sm90.cu", "probe_descriptors.cu", "module.cpp"])
def test_launchers_and_probe_compile(unit):
    """What has no kernels of its own, or none that are launched from Python: warnings are errors."""
    pybind11 = pytest.importorskip("pybind11")
    names = ("-DSRK_MODULE=_cuda", '-DSRK_BUILD_ID="none"', '-DSRK_CUDA_ARCHS="90a"')
    include = (f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}")
    done = machine_code.host_code(unit, *names, *include)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("unit", "arch"), CONVS)
def test_portable_convolutions_use_tensor_cores(unit, arch):
    """Products by tensor cores, pixels and weights 16 bytes at a time."""
    for kernel in kernels(unit, arch):
        bfloat16 = "BFloat16" in kernel.name
        assert kernel.count(r"HMMA\.16816\.F32" + (r"\.BF16" if bfloat16 else r" ")), kernel.name
        if unit != "conv2d_tail":
            assert kernel.count(r"LDSM\.16\.M88\.4"), kernel.name
            assert kernel.count(r"LDGSTS\.E\..*128"), kernel.name
        else:
            assert kernel.count(r"LDG\.E\.128"), kernel.name


@pytest.mark.parametrize(("unit", "arch"), [p for p in CONVS if p[0] != "conv2d_tail"])
def test_portable_convolutions_store_wide(unit, arch):
    """Whole runs of channels: 16 bytes where a thread has eight outputs, see Conv2dShape::Run."""
    for kernel in kernels(unit, arch):
        channels = int(re.search(r"Li(\d+)ELi\d+ELb[01]E", kernel.name)[1])
        groups = channels // (2 if channels > 64 else 1) // 8
        bits = r"\.128" if groups % 4 == 0 else r"\.64" if groups % 2 == 0 else " "
        assert kernel.count(rf"STG\.E{bits}"), kernel.name


def test_memory_bound_kernels_move_sixteen_bytes():
    for arch in ARCHS:
        wide = [k for k in named("pointwise", arch, "add_kernel") if "Li1E" not in k.name]
        assert len(wide) == 3  # a type each; the others take single elements
        for kernel in wide:
            assert kernel.count(r"LDG\.E[.\w]*128"), kernel.name
            assert kernel.count(r"STG\.E[.\w]*128"), kernel.name
        for text, wide in (("to_float_kernel", "STG"), ("to_image_kernel", "LDG")):
            found = [k for k in named("pointwise", arch, text) if "Li1E" not in k.name]
            assert len(found) == 2  # of 8 and of 16 bits; the floats are the wider side
            for kernel in found:
                assert kernel.count(rf"{wide}\.E[.\w]*128"), kernel.name


def test_shuffles_move_sixteen_bytes_where_they_can():
    for arch in ARCHS:
        found = named("shuffle", arch, "shuffle_pieces_kernel")
        assert len(found) == 24  # factors, element sizes, layouts, directions
        for kernel in found:
            assert kernel.count(r"LDG\.E[.\w]*128") == kernel.count("LDG") > 0, kernel.name
            assert kernel.count(r"STG\.E[.\w]*128") == kernel.count("STG") > 0, kernel.name


def test_hopper_uses_warpgroups_and_the_copy_engine():
    """Warpgroup products that ptxas has not serialised, pixels by tensor maps, weights by bulk copies."""
    found = [kernel for unit in HOPPER for kernel in kernels(unit, "90a")]
    for kernel in found:
        bfloat16 = "bfloat16" in kernel.name
        products = [line for line in kernel.code if line.startswith("HGMMA")]
        assert products, kernel.name
        assert all((".BF16" in line.split()[0]) == bfloat16 for line in products), kernel.name
        assert kernel.count(r"UTMALDG\.4D"), kernel.name
        assert kernel.count("UBLKCP"), kernel.name
        assert not kernel.count("HMMA"), kernel.name
        # 384 threads start with an equal part of the registers
        assert kernel.registers <= 65536 // 384 // 8 * 8, kernel.name
    # each group of products is waited for once, not each product
    assert all(k.count("WARPGROUP.DEPBAR") < k.count("HGMMA") / 4 for k in found)


def test_hopper_stores_by_the_copy_engine_or_eight_bytes_at_a_time():
    """Or, where channels do not lie in runs, element by element."""
    for kernel in kernels("conv2d_sm90_staged", "90a"):
        assert kernel.count(r"UTMASTG\.5D"), kernel.name
        assert not kernel.count("STG"), kernel.name
    for unit in ("conv2d_sm90_straight", "conv2d_sm90_rare"):
        stored = {(k.count(r"STG\.E\.64") > 0, k.count(r"STG\.E\.U16") > 0) for k in kernels(unit, "90a")}
        assert stored == {(True, False), (False, True)}, unit
        wide = [k for k in kernels(unit, "90a") if k.count(r"STG\.E\.64")]
        assert len(wide) == len(kernels(unit, "90a")) / 2
        assert all(k.count(r"LDG\.E\.64") for k in wide)


def test_shared_memory_is_the_launch_s_alone():
    """What a launch asks for is all that a kernel takes, so that the launcher's sums hold."""
    for unit, arch in UNITS:
        if unit not in MEMORY:
            assert {k.name: k.shared for k in kernels(unit, arch) if k.shared} == {}
