# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The wheel with the extension: what is in it, what it links, and that it needs nothing of torch to load."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.builds import ROOT, run

pytestmark = pytest.mark.slow

# What a manylinux wheel may expect of any system; not an OpenMP library, not torch.
SYSTEM = r"(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|ld-linux[-\w]*)\.so(\.\d+)*"


def names_in(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def extension_of(wheel: Path, folder: Path) -> Path:
    [name] = [n for n in names_in(wheel) if n.startswith("sr_kernels/_C.")]
    return Path(zipfile.ZipFile(wheel).extract(name, folder))


def tool(*command: object) -> str:
    assert shutil.which(str(command[0])), f"{command[0]} (binutils) is needed for this test"
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


def test_the_wheel_holds_the_extension_and_the_data(wheel, environment, tmp_path):
    path, _ = wheel(SR_KERNELS_BUILD_NATIVE="1")
    names = names_in(path)
    assert len([n for n in names if n.startswith("sr_kernels/_C.")]) == 1
    weights = {f"sr_kernels/weights/{p.name}" for p in (ROOT / "sr_kernels/weights").glob("*.safetensors")}
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "sr_kernels").rglob("*.py")}
    assert {*weights, *modules, "sr_kernels/py.typed"} <= names
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "csrc/"))]

    extension = extension_of(path, tmp_path)
    dynamic = tool("readelf", "--dynamic", "--wide", extension)
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    assert needed
    assert not [library for library in needed if not re.fullmatch(SYSTEM, library)]
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic

    undefined = tool("nm", "--dynamic", "--undefined-only", "--demangle", extension)
    assert not re.findall(r".*(?:torch|c10|\bat::|GOMP_|__kmpc|omp_).*", undefined)
    exported = tool("nm", "--dynamic", "--defined-only", extension).split()[2::3]
    assert [name for name in exported if not name.startswith("_Z")] == ["PyInit__C"]

    # It loads where there is no torch at all, so no version of it can matter.
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('sr_kernels._C', {str(extension)!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "assert 'torch' not in sys.modules and not any('site-packages' in p for p in sys.path)\n"
        "print(module.build_id)"
    )
    assert re.fullmatch(r"[0-9a-f]{16}\n", environment.execute(code, "-I", "-S").stdout)

    # Installed, it is the one that runs.
    environment.install(path, cwd=tmp_path)
    code = (
        "import torch, sr_kernels, sr_kernels._C as native\n"
        "x, w = torch.ones(1, 4, 8, 8), torch.ones(4, 4, 3, 3)\n"
        "with sr_kernels.record_kernels() as kernels:\n"
        "    sr_kernels.ops.conv2d(x, w, padding=1, backend='cpu')\n"
        "print(native.__file__, *kernels)"
    )
    file, kernel = environment.execute(code, "-W", "error").stdout.split()
    assert Path(file).is_relative_to(environment.folder)
    assert kernel.startswith("cpu/")


def linked(printed: str) -> dict[str, str]:
    """unit -> its object, by the link command that a build printed."""
    [command] = [line for line in printed.splitlines() if " -shared " in line and "build/objects" in line]
    return {Path(name).stem: name for name in re.findall(r"build/objects/\w+/\w+\.o", command)}


def test_no_unit_leaves_code_that_another_could_run(tree, wheel):
    """An inline function emitted by the AVX-512 unit as a weak symbol may be the one that the linker keeps
    for all, and would crash a machine without AVX-512."""
    objects = linked(wheel(SR_KERNELS_BUILD_NATIVE="1")[1])
    units = {path.stem for path in (ROOT / "csrc/cpu/isa").glob("*.cpp")}
    assert units <= set(objects)
    for unit in units:
        symbols = tool("nm", "--defined-only", "--demangle", tree / objects[unit])
        assert not re.findall(r"^\S* *[WVuw] .*$", symbols, re.MULTILINE), unit


def test_a_changed_file_compiles_what_includes_it_and_no_more(miniature):
    def build() -> dict[str, str]:
        command = (sys.executable, "setup.py", "build_ext")
        return linked(run(*command, cwd=miniature, SR_KERNELS_BUILD_NATIVE="1").stdout)

    first = build()
    assert set(first) == {"module", "threads", "scalar"}
    (miniature / "csrc/cpu/one.h").write_text("enum { one = 2 };\n")
    second = build()
    changed = {unit for unit in first if first[unit] != second[unit]}
    assert changed == {"scalar", "module"}  # module.cpp holds the build's identity
    assert build() == second
    (miniature / "csrc/cpu/one.h").write_text("enum { one = 1 };\n")
    assert build() == first  # an object older than the extension is linked again when it is the right one


def test_sdist_then_wheel_by_the_standard_tool(tree, environment, tmp_path):
    run(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        "made",
        cwd=tree,
        SR_KERNELS_BUILD_NATIVE="1",
    )
    [sdist] = (tree / "made").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in ("csrc", "sr_kernels/weights", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {*wanted, "setup.py", "Makefile", "LICENSE", "README.md", ".ci/run"} <= names
    [wheel] = (tree / "made").glob("*.whl")
    assert "none-any" not in wheel.name
    environment.install(wheel, cwd=tmp_path)
    environment.execute("import sr_kernels, sr_kernels._C", "-W", "error")


def test_editable(tree, environment):
    environment.install("--editable", tree, cwd=tree, SR_KERNELS_BUILD_NATIVE="1")
    code = "import sr_kernels, sr_kernels._C as c; print(sr_kernels.__file__); print(c.__file__)"
    for file in environment.execute(code).stdout.split():
        assert Path(file).is_relative_to(tree)
    assert run(environment.folder / "bin/sr-kernels", "--help", cwd=tree).stdout
