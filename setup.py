# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Builds the native extensions, sr_kernels._C and, with nvcc, sr_kernels._cuda; needs a C++17 compiler and
pybind11, and nothing of torch.

SR_KERNELS_BUILD_NATIVE: "auto" (default) builds them where the tools are found, and a pure Python package
otherwise; "1" makes missing tools an error; "0" never builds them. SR_KERNELS_CUDA_ARCHS: what nvcc compiles
for; where neither names it, a failure of nvcc leaves the CUDA kernels out. See docs/building.md.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

from distutils.ccompiler import new_compiler  # isort: skip  (setuptools' own copy, once setuptools is imported)
from distutils.sysconfig import customize_compiler  # isort: skip

CSRC = Path("csrc")  # relative to this file: builds run where it lies, and objects don't hold its address
OBJECTS = Path("build") / "objects"
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")

FLAGS = [
    *("-std=c++17", "-O3", "-g0", "-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    # Small loops decide, and lines cut in two cost them 1 to 2 %.
    *("-falign-functions=64", "-falign-loops=64"),
    *(["-march=x86-64"] if IS_X86 else []),  # the baseline, whatever flags Python itself was built with
]
# csrc/cpu/isa/NAME.cpp -> what that unit alone may use; the unit is chosen at run time, by cpuid.
ISA_FLAGS = {"scalar": list[str]()}
if IS_X86:
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    ISA_FLAGS["avx512"] = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"]
# Units that are left out, with a word, where the compiler is too old for their flags.
YOUNG_ISA_FLAGS = dict[str, list[str]]()
if IS_X86:
    YOUNG_ISA_FLAGS["avx512bf16"] = [*ISA_FLAGS["avx512"], "-mavx512bf16"]
    YOUNG_ISA_FLAGS["amx"] = [*YOUNG_ISA_FLAGS["avx512bf16"], "-mamx-tile", "-mamx-bf16"]

NVCC_FLAGS = [
    *("-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra"),
    *("-Xcompiler=-Wno-unknown-pragmas,-Wno-unused-parameter", "-cudart=static"),
]
# Compiled for that one alone, and left out where it is not wanted; of both lists what takes long comes first.
CUDA_UNITS_90A = ("conv2d_sm90_rare.cu", "conv2d_sm90_straight.cu", "conv2d_sm90_staged.cu", "conv2d_sm90.cu")
CUDA_UNITS = (
    *("conv2d_sm80_float16.cu", "conv2d_sm80_bfloat16.cu", "conv2d_tail.cu", "conv2d_sm80.cu"),
    *("shuffle.cu", "pointwise.cu", "module.cpp"),
)
CUDA_ARCHS = ["80", "86", "89", "90a", "120"]
LEAST_ARCH = 80  # that the kernels are written for
PROCESS_MEMORY = 3 << 29  # bytes that one of nvcc's compilers may take

PROBE = """
#include <Python.h>
#include <string>
#if __cplusplus < 201703L
#error "C++17 is needed"
#endif
std::string probe() { return Py_GetVersion(); }
"""


@functools.cache
def isa_flags() -> dict[str, list[str]]:
    """ISA_FLAGS and those of YOUNG_ISA_FLAGS that the compiler knows."""
    compiler = new_compiler()
    customize_compiler(compiler)
    found = dict(ISA_FLAGS)
    for name, flags in YOUNG_ISA_FLAGS.items():
        command = [*cxx_of(compiler), *flags, "-x", "c++", "-fsyntax-only", os.devnull]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            found[name] = flags
        else:
            say(f"no {name} kernels in this build: {command[0]!r} does not know their flags")
    return found


def sources() -> list[Path]:
    """The translation units; on a machine of another architecture its ISA units only."""
    isa = [CSRC / "cpu" / "isa" / f"{name}.cpp" for name in isa_flags()]
    known = {"scalar", "avx2", "avx512", "avx512bf16", "amx"}
    unknown = {p.stem for p in CSRC.glob("cpu/isa/*.cpp")} - known
    if unknown:
        raise CompileError(f"csrc/cpu/isa: no flags in setup.py for {sorted(unknown)}")
    return [CSRC / "module.cpp", *sorted(CSRC.glob("cpu/*.cpp")), *(p for p in isa if p.exists())]


def headers() -> list[Path]:
    return sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".inl", ".cuh"))


def flags_of(source: Path) -> list[str]:
    """The unit's own flags; the caller's CXXFLAGS come last."""
    isa = isa_flags()[source.stem] if source.parent.name == "isa" else []
    return [*FLAGS, *isa, *shlex.split(os.environ.get("CXXFLAGS", ""))]


def included(source: Path, seen: set[Path] | None = None) -> set[Path]:
    """source and every file of csrc that it includes, directly or not."""
    seen = set() if seen is None else seen
    if source not in seen:
        seen.add(source)
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', source.read_text(), re.MULTILINE):
            for folder in (source.parent, CSRC):
                if (folder / name).exists():
                    included(Path(os.path.normpath(folder / name)), seen)
                    break
    return seen


def digest(files: set[Path], *words: str) -> str:
    h = hashlib.sha256("\0".join(words).encode())
    for path in sorted(files):
        h.update(f"\0{path.as_posix()}\0".encode() + path.read_bytes())
    return h.hexdigest()


def cxx_of(compiler) -> list[str]:
    return list(getattr(compiler, "compiler_so_cxx", None) or compiler.compiler_so)


def missing_tools() -> str:
    """Why the extension cannot be built here; empty when it can."""
    try:
        import pybind11  # noqa: F401
    except ImportError:
        return "pybind11 is not installed"
    compiler = new_compiler()
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "probe.cpp", Path(folder) / "probe.so"
        source.write_text(PROBE)
        include = f"-I{sysconfig.get_path('include')}"
        flags = [*FLAGS, *(flag for isa in ISA_FLAGS.values() for flag in isa)]
        command = [*cxx_of(compiler), *flags, include, "-shared", str(source), "-o", str(output), "-ldl"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except OSError as error:
            return f"the C++ compiler {command[0]!r} does not start: {error.strerror}"
        except subprocess.CalledProcessError as error:
            lines = error.stderr.splitlines()
            first = next((line for line in lines if "error" in line), "".join(lines[:1]))
            return f"{command[0]!r} cannot build an extension: {first}"
    return ""


def native_wanted() -> bool:
    """SR_KERNELS_BUILD_NATIVE and the tools found decide; nothing is chosen without a word."""
    choice = os.environ.get("SR_KERNELS_BUILD_NATIVE") or "auto"
    if choice not in ("auto", "0", "1"):
        raise SystemExit(f'SR_KERNELS_BUILD_NATIVE is {choice!r}: give "auto", "1" or "0"')
    if choice == "0":
        say("SR_KERNELS_BUILD_NATIVE=0: a pure Python package, without native kernels")
        return False
    reason = missing_tools()
    if reason and choice == "1":
        raise SystemExit(f"SR_KERNELS_BUILD_NATIVE=1, but {reason}")
    if reason:
        say(f"NO NATIVE KERNELS in this build: {reason}. The package will run PyTorch's own ops.")
        say("To build them: install a C++17 compiler and Python's headers, then install the package again.")
    return not reason


def say(message: str) -> None:
    print(f"sr_kernels: {message}", file=sys.stderr, flush=True)


def is_in_place() -> bool:
    return bool({"editable_wheel", "--inplace"} & set(sys.argv))


def find_nvcc() -> str | None:
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [str(Path(home) / "bin") for home in homes if home]
    path = os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    return shutil.which("nvcc", path=path)


def present_archs() -> list[str]:
    """Those of the GPUs in this machine."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    archs = {int(major + minor) for major, minor in re.findall(r"^(\d+)\.(\d)$", found, re.MULTILINE)}
    for arch in sorted(arch for arch in archs if arch < LEAST_ARCH):
        say(f"no CUDA kernels for the GPU of sm_{arch}: they need sm_{LEAST_ARCH}")
    return ["90a" if arch == 90 else str(arch) for arch in sorted(archs) if arch >= LEAST_ARCH]


def cuda_is_explicit() -> bool:
    """Whether the caller names what to compile for: then it must be compiled."""
    return os.environ.get("SR_KERNELS_CUDA_ARCHS", "native").strip() != "native"


def output_of(*command: str) -> str:
    """What a command prints. Raises CompileError where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        output = f"{getattr(error, 'stdout', None) or ''}{getattr(error, 'stderr', None) or ''}"
        raise CompileError(f"{shlex.join(command)}: {error}\n{output}") from error


@functools.cache
def cuda_archs() -> tuple[list[str], str]:
    """(architectures to compile for, why none); nothing is chosen without a word."""
    text = os.environ.get("SR_KERNELS_CUDA_ARCHS")
    explicit = cuda_is_explicit()
    if explicit:
        archs = re.split(r"[\s,;]+", text.strip()) if text.strip() not in ("", "none") else []
        if not archs:
            return [], f"SR_KERNELS_CUDA_ARCHS={text}"
        for arch in archs:
            if not re.fullmatch(r"\d+[af]?", arch) or int(arch.rstrip("af")) < LEAST_ARCH:
                raise SystemExit(
                    f"SR_KERNELS_CUDA_ARCHS={text}: {arch} is none; give compute capabilities without point "
                    f"from {LEAST_ARCH} on, as {' '.join(CUDA_ARCHS)} is"
                )
    else:
        archs = present_archs() if text or is_in_place() else CUDA_ARCHS
        if not archs:
            return [], "no able GPU in this machine to compile for; SR_KERNELS_CUDA_ARCHS names others"
    nvcc = find_nvcc()
    if nvcc is None:
        missing = "nvcc is neither in CUDA_HOME nor on PATH: install the CUDA toolkit or set CUDA_HOME"
        if explicit:
            raise SystemExit(f"SR_KERNELS_CUDA_ARCHS={text}, but {missing}")
        return [], missing
    try:
        listed = output_of(nvcc, "--list-gpu-arch")
    except CompileError as error:
        if explicit:
            raise
        return [], str(error)
    able = [arch for arch in archs if f"compute_{arch.rstrip('af')}\n" in listed]
    if unable := [arch for arch in archs if arch not in able]:
        if explicit:
            raise SystemExit(f"SR_KERNELS_CUDA_ARCHS={text}: {nvcc} cannot compile for {', '.join(unable)}")
        say(f"{nvcc} cannot compile for {', '.join(unable)}: a newer CUDA toolkit can")
    if "90" in able and "90a" not in able:
        say("no kernels made for Hopper in this build: they need 90a, not 90, in SR_KERNELS_CUDA_ARCHS")
    return able, "" if able else f"{nvcc} compiles for none of {', '.join(archs)}"


def code_of(archs: list[str]) -> list[str]:
    """Machine code for each, and PTX of the first, which drivers compile for chips that are not listed."""
    codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    portable = [arch for arch in archs if arch.isdecimal()][:1]
    return [*codes, *(f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in portable)]


def processes() -> int:
    """Compilers that may run side by side."""
    free = PROCESS_MEMORY
    with contextlib.suppress(OSError, TypeError):
        free = int(re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) << 10
    return max(1, min(os.cpu_count() or 1, free // PROCESS_MEMORY))


class BuildNative(build_ext):
    """Each unit with its own flags, several at once; an object is kept while its inputs are the same."""

    def build_extension(self, ext: Extension) -> None:
        if not ext.name.endswith("._cuda"):
            self.build_cpu(ext)
            return
        try:
            self.build_cuda(ext)
        except CompileError as error:
            if not ext.optional:
                raise
            say(f"NO CUDA KERNELS in this build: nvcc fails. {error}")
            remove_stale("_cuda")
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)  # of an earlier build

    def build_cpu(self, ext: Extension) -> None:
        import pybind11

        units = [Path(source) for source in ext.sources]
        cxx = cxx_of(self.compiler)
        version = subprocess.run([*cxx, "--version"], capture_output=True, text=True, check=True).stdout
        tools = [*cxx, version, pybind11.__version__, sysconfig.get_config_var("EXT_SUFFIX")]
        every_flag = [flag for unit in units for flag in flags_of(unit)]
        build_id = digest({*units, *headers()}, *tools, *every_flag)[:16]
        include = [str(CSRC), pybind11.get_include()]

        def compile_unit(unit: Path) -> Path:
            flags = flags_of(unit)
            if unit.name == "module.cpp":
                flags.append(f'-DSRK_BUILD_ID="{build_id}"')

            def compiled(folder: str) -> str:
                [made] = self.compiler.compile(
                    [str(unit)], output_dir=folder, include_dirs=include, extra_postargs=flags
                )
                return made

            return kept_object(unit, digest(included(unit), *tools, *flags)[:24], compiled)

        with ThreadPoolExecutor(self.parallel or os.cpu_count() or 1) as pool:
            objects = [str(made) for made in pool.map(compile_unit, units)]
        self.compiler.force = True  # an older object may be the right one again: times say nothing here
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), libraries=["dl"], target_lang="c++"
        )
        say(f"built {ext.name}, {len(units)} units, build {build_id}")

    def build_cuda(self, ext: Extension) -> None:
        import pybind11

        units = [Path(source) for source in ext.sources]
        archs = cuda_archs()[0]
        nvcc = [find_nvcc(), *(["-ccbin", os.environ["CXX"]] if os.environ.get("CXX") else [])]
        tools = [*nvcc[1:], output_of(nvcc[0], "--version")]
        python = [pybind11.__version__, sysconfig.get_config_var("EXT_SUFFIX")]
        include = [f"-I{CSRC}", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
        inputs = {*units, *(p for unit in units for p in included(unit))}
        build_id = digest(inputs, *tools, *python, *NVCC_FLAGS, *code_of(archs))[:16]
        jobs = self.parallel or processes()
        room = Room(jobs)
        say(f"CUDA kernels for {' '.join(archs)} by {nvcc[0]}, {jobs} compilers at a time")

        def compile_unit(unit: Path) -> Path:
            own_archs = ["90a"] if unit.name in CUDA_UNITS_90A else archs
            threads = min(jobs, len(own_archs))  # compilers of one nvcc
            own = [*NVCC_FLAGS, *code_of(own_archs)]
            if unit.name == "module.cpp":
                names = {"MODULE": "_cuda", "BUILD_ID": f'"{build_id}"', "CUDA_ARCHS": f'"{" ".join(archs)}"'}
                names |= {"SM90": "1"} if "90a" in archs else {}
                own += [f"-DSRK_{name}={value}" for name, value in names.items()]
            own_tools = [*tools, *(python if unit.name == "module.cpp" else [])]  # kernels know no Python

            def compiled(folder: str) -> str:
                made = Path(folder) / f"{unit.stem}.o"
                with room.of(threads):
                    output_of(*nvcc, *own, f"--threads={threads}", *include, "-c", str(unit), "-o", str(made))
                return str(made)

            return kept_object(unit, digest(included(unit), *own_tools, *own)[:24], compiled)

        with ThreadPoolExecutor(len(units)) as pool:
            objects = [str(made) for made in pool.map(compile_unit, units)]
        target = self.get_ext_fullpath(ext.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        # The runtime is linked in and not shown to others: torch may bring one of another version.
        output_of(*nvcc, "-shared", "-cudart=static", "-Xlinker=--exclude-libs,ALL", *objects, "-o", target)
        say(f"built {ext.name} for {' '.join(archs)}, {len(units)} units, build {build_id}")


class Room:
    """For as many compilers at a time, given out in the order of the asking."""

    def __init__(self, count: int) -> None:
        self.free, self.turn = threading.Semaphore(count), threading.Lock()

    @contextlib.contextmanager
    def of(self, count: int) -> Iterator[None]:
        with self.turn:
            for _ in range(count):
                self.free.acquire()
        try:
            yield
        finally:
            self.free.release(count)


def kept_object(unit: Path, name: str, compiled: Callable[[str], str]) -> Path:
    """The object of a unit whose inputs have this name; compiled(folder) makes it where there is none."""
    kept = OBJECTS / name
    if not kept.exists():
        OBJECTS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=OBJECTS) as folder:
            made = compiled(folder)
            (Path(folder) / "kept").mkdir()
            os.replace(made, Path(folder) / "kept" / f"{unit.stem}.o")
            if not kept.exists():
                os.replace(Path(folder) / "kept", kept)
    return kept / f"{unit.stem}.o"


def remove_stale(name: str) -> None:
    """What an earlier build in place left would still be used."""
    if is_in_place():
        for stale in Path("sr_kernels").glob(f"{name}.*.so"):
            stale.unlink()


def extensions() -> list[Extension]:
    if not native_wanted():
        remove_stale("_C")
        remove_stale("_cuda")
        return []
    depends = [path.as_posix() for path in headers()]
    units = [path.as_posix() for path in sources()]
    found = [Extension("sr_kernels._C", sources=units, depends=depends, language="c++")]
    archs, reason = cuda_archs()
    if archs:
        names = [*(CUDA_UNITS_90A if "90a" in archs else ()), *CUDA_UNITS]
        units = [(CSRC / "cuda" / name).as_posix() for name in names]
        optional = not cuda_is_explicit() and os.environ.get("SR_KERNELS_BUILD_NATIVE") != "1"
        cuda = Extension(
            "sr_kernels._cuda", sources=units, depends=depends, language="c++", optional=optional
        )
        found.append(cuda)
    else:
        say(f"no CUDA kernels in this build: {reason}")
        remove_stale("_cuda")
    return found


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildNative})
