# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""sr-kernels doctor: what this installation has, what it lacks and why, and whether anything is broken."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from sr_kernels import __version__, config

_FEATURES = (
    "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
    "asimd", "bf16", "i8mm", "sve",
)  # fmt: skip
Lines = Iterator[tuple[str, str]]


class _Broken(Exception):
    """A fault that the user should mend."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Register `doctor` with the command line's subparsers."""
    return commands.add_parser(
        "doctor",
        help="versions, CPU, extension, backends, self-checks",
        description="Print what this installation has and lacks. The exit status is 1 where something is "
        "broken: a library that does not load, a kernel that fails its self-check, weights that are missing. "
        "What was left out of the build is not broken.",
    )


def run(args: argparse.Namespace) -> int:
    """Print every section; 1 where one found something broken."""
    broken: list[str] = []
    for title, section in SECTIONS:
        print(title)
        try:
            for name, value in section():
                print(f"  {name:<24} {value}")
        except Exception as error:  # a broken part must not hide the others
            fault = " ".join(str(error).split())
            broken.append(
                fault if isinstance(error, _Broken) else f"{title}: {type(error).__name__}: {fault}"
            )
            print(f"  broken: {broken[-1]}")
    print()
    for fault in broken:
        print(f"broken: {fault}")
    print(f"{len(broken)} broken" if broken else "nothing is broken")
    return 1 if broken else 0


def _versions() -> Lines:
    yield "sr_kernels", __version__
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in ("torch", "triton", "numpy", "pillow", "safetensors"):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "triton":
                raise _Broken(
                    f"{name} is not installed: install sr_kernels again with its dependencies"
                ) from None
            yield name, "not installed; GPU kernels written in Triton need it"


def _cpu() -> Lines:
    import torch

    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        if model := re.search(r"^(?:model name|CPU part)\s*:\s*(.*)$", text, re.MULTILINE):
            yield "model", model[1]
        if flags := re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE):
            found = set(flags[1].split())
            yield "features", " ".join(f for f in _FEATURES if f in found) or "none that matter here"
    yield "cores", str(os.cpu_count())
    yield "threads", f"{torch.get_num_threads()} (PyTorch's)"


def _gpu() -> Lines:
    import torch

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda or torch.version.hip else "; this PyTorch is built for the CPU alone"
        yield "devices", f"none that PyTorch sees{built}"
        return
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        yield f"device {index}", f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}"


def _extension() -> Lines:
    if importlib.util.find_spec("sr_kernels._C") is None:
        yield "built", "no: PyTorch's own kernels run. Install a C++ compiler and install sr_kernels again."
        return
    try:
        native = importlib.import_module("sr_kernels._C")
    except ImportError as error:
        raise _Broken(f"the native extension does not load: {error}; install sr_kernels again") from error
    yield "built", f"yes, {getattr(native, '__file__', '')}"
    yield "build id", str(getattr(native, "build_id", "unknown"))
    from sr_kernels.backends import cpu, cpu_isa

    yield "instruction sets", ", ".join(isa.name for isa in cpu_isa.ISAS)
    yield "chosen", cpu.current_isa().name
    yield "kernels", ", ".join(kernel.name for kernel in cpu.current_isa().kernels)


def _cuda() -> Lines:
    from sr_kernels.backends import cuda_plan

    native = cuda_plan.native
    if native is None:
        if importlib.util.find_spec("sr_kernels._cuda") is not None:
            raise _Broken(f"{cuda_plan.missing}; install sr_kernels again")
        yield "built", f"no: {cuda_plan.missing}"
        return
    yield "built", f"yes, {native.__file__}"
    yield "build id", native.build_id
    for arch in native.archs.split():
        major, minor = divmod(int(arch.rstrip("af")), 10)
        later = "" if not arch.isdecimal() else f" and later {major}.x"
        yield f"code for sm_{arch}", f"chips of compute capability {major}.{minor}{later}"
    if plain := [arch for arch in native.archs.split() if arch.isdecimal()]:
        yield "PTX", f"of sm_{plain[0]}, which the drivers of newer chips compile"
    for capability in sorted({kernel.capability for kernel in cuda_plan.kernels()}):
        chips = f" for {capability // 10}.{capability % 10} alone" if capability else ""
        names = [kernel.name for kernel in cuda_plan.kernels() if kernel.capability == capability]
        yield f"kernels{chips}", ", ".join(names)


def _triton() -> Lines:
    if importlib.util.find_spec("triton") is None:
        yield "installed", "no; PyTorch's wheels for GPUs bring it"
        return
    import torch

    from sr_kernels.backends import registry

    found = registry.find("triton")
    if isinstance(found, registry.Absent):  # such as a Triton without tensor descriptors
        yield "usable", f"no: {found.reason}; the kernels need Triton 3.4 or newer"
        return
    from sr_kernels.backends.triton import configs, launch, plan

    if launch.INTERPRETED:
        yield "mode", "TRITON_INTERPRET is set: kernels are interpreted on the CPU, for tests alone"
        return
    yield "tables", ", ".join(configs.chips()) or "none"
    if not torch.cuda.is_available():
        yield "devices", "none that PyTorch sees; the kernels are not used"
    for index in range(torch.cuda.device_count()):
        chip = plan.chip(index)
        table = f"{len(configs.shipped(chip))} layers in the package's table" if configs.shipped(chip) else (
            "no table in the package: a rule decides; `sr-kernels tune` measures"
        )  # fmt: skip
        own = len(configs.tuned(plan.device_key(index)))
        reads = "tensor descriptors" if plan.has_boxes(index) else "masked loads"
        yield f"device {index}", f"{chip}, {reads}; {table}; {own} of your own"


def _openmp() -> Lines:
    import torch

    torch.get_num_threads()
    found = set()
    with contextlib.suppress(OSError):
        maps = Path("/proc/self/maps").read_text()
        found = set(re.findall(r"(/\S*lib(?:gomp|omp|iomp5)\S*)", maps))
    for path in sorted(found):
        yield "runtime", path
    if not found:
        yield "runtime", "none found; the kernels run on one thread"
    if len(found) > 1:
        raise _Broken(
            f"{len(found)} OpenMP runtimes are loaded, threads will fight: {', '.join(sorted(found))}"
        )


def _backends() -> Lines:
    from sr_kernels.backends import available_backends

    for name, reasons in available_backends().items():
        yield name, f"no: {'; '.join(reasons)}" if reasons else "available"


def _self_checks() -> Lines:
    from sr_kernels.backends import available_backends, cuda_check

    report: dict[str, str] = {}
    if importlib.util.find_spec("sr_kernels._C") is None:
        yield "cpu", "no native kernels to check"
    else:
        from sr_kernels.backends import selfcheck

        report |= selfcheck.report()
    backends = available_backends()
    if not backends["cuda"]:
        report |= cuda_check.report()
    if not backends["triton"]:
        from sr_kernels.backends.triton import selfcheck as triton_check

        report |= triton_check.report()
    yield from report.items()
    failed = [name for name, result in report.items() if result != "passed"]
    if failed:
        raise _Broken(f"self-check failed, these kernels are not used: {', '.join(failed)}")


def _weights() -> Lines:
    from sr_kernels.models import embedded_files, load

    files = embedded_files()
    if not files:
        raise _Broken("the embedded weights are missing: install sr_kernels again, or pass --weights")
    for path in files.values():
        yield path.stem, f"{load(path).scale}x, {path.stat().st_size:,} bytes"


def _environment() -> Lines:
    for name, variable in config.ENVIRONMENT.items():
        if name not in os.environ:
            yield name, f"unset, so {variable.default}"
            continue
        try:
            config.get(name)
        except ValueError as error:
            raise _Broken(str(error)) from error
        yield name, os.environ[name]


SECTIONS: tuple[tuple[str, Callable[[], Lines]], ...] = (
    ("Versions", _versions),
    ("Processor", _cpu),
    ("GPU", _gpu),
    ("Native extension", _extension),
    ("CUDA kernels", _cuda),
    ("Triton kernels", _triton),
    ("OpenMP", _openmp),
    ("Backends", _backends),
    ("Self-checks", _self_checks),
    ("Embedded weights", _weights),
    ("Environment", _environment),
)
