# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The rooms of the project: which part may import which, and what the native code may include."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sr_kernels"
CSRC = ROOT / "csrc"

CORE = {"config", "reference", "_version"}
# A room (a module or folder of sr_kernels) and the rooms that it may import. The package's own __init__ is
# the door to all of them.
ROOMS = {
    "_version": set(),
    "config": set(),
    "reference": set(),
    "backends": {*CORE, "_C", "_cuda"},
    "ops": {*CORE, "backends"},
    "nn": {*CORE, "backends", "ops"},
    "models": {*CORE, "backends", "ops", "nn", "weights"},
    "optimizer": {*CORE, "_C", "backends", "ops", "nn"},
    "image": set(),
    "weights": set(),
    "pipeline": {*CORE, "backends", "image", "ops", "nn", "models"},
    "train": {*CORE, "backends", "image", "ops", "nn", "models"},
    "bench": {*CORE, "backends", "image", "ops", "nn", "models", "optimizer", "pipeline"},
    "cli": {
        *CORE,
        "_C",
        "backends",
        "image",
        "ops",
        "nn",
        "models",
        "optimizer",
        "pipeline",
        "train",
        "bench",
    },
    "__main__": {"cli"},
}
# The same inside a room that has rooms of its own.
INNER = {
    "optimizer": {
        "samples": set(),
        "copies": set(),
        "graph": {"samples"},
        "rewrites": {"graph"},
        "plan": {"graph"},
        "recorded": {"graph"},
        "region": {"graph", "rewrites", "plan", "recorded"},
        "report": {"region"},
        "module": {"region", "report"},
        "proof": {"samples", "copies", "graph", "region", "report", "module"},
        "main": {"samples", "copies", "graph", "region", "report", "module", "proof"},
        "export": {"samples", "copies", "region", "report", "module", "proof"},
    },
}


def imports(source: str, package: str) -> list[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere in a module of `package`, relative forms resolved,
    and of literal arguments of import_module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            stem = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*stem, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            name = str(node.args[0].value)
            found.append((node.lineno, package + name if name.startswith(".") else name))
    return found


def trespasses(source: str, path: Path) -> list[str]:
    """What the module at `path` (relative to the package) imports from rooms that are closed to it."""
    room = path.parts[0].removesuffix(".py")
    package = ".".join(["sr_kernels", *path.parts[:-1]])
    inner = path.parts[1].removesuffix(".py") if room in INNER else "__init__"
    found = []
    for line, name in imports(source, package):
        top, *rest = name.split(".")
        if top != "sr_kernels":
            continue
        target = rest[0] if rest else ""
        # `from sr_kernels import __version__` and other names of the door itself
        target = "_version" if target == "__version__" else target
        if target != room:
            if target not in ROOMS[room]:
                found.append(f"{path}:{line}: {room} imports {name}")
        elif inner != "__init__":  # a room's door
            within = rest[1] if len(rest) > 1 else "__init__"
            if within != inner and within not in INNER[room][inner]:
                found.append(f"{path}:{line}: {room}/{inner} imports {name}")
    return found


def modules() -> list[Path]:
    return sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def test_every_module_has_a_room():
    assert {path.parts[0].removesuffix(".py") for path in modules()} <= set(ROOMS)
    for room, within in INNER.items():
        found = {path.parts[1].removesuffix(".py") for path in modules() if path.parts[0] == room}
        assert found == {"__init__", *within}


def test_no_module_imports_from_a_closed_room():
    found = [t for path in modules() for t in trespasses((PACKAGE / path).read_text(), path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ops/conv2d.py", "from sr_kernels.nn import ConvAct2d"),
        ("ops/conv2d.py", "from sr_kernels import models"),
        ("ops/conv2d.py", "from .. import cli"),
        ("ops/conv2d.py", "from ..train.data import x"),
        ("ops/conv2d.py", "import sr_kernels.pipeline as p"),
        ("image/reading.py", "import sr_kernels"),
        ("image/reading.py", "def f():\n    from sr_kernels.ops import image_to_float"),
        ("nn/layers.py", "import importlib\nimportlib.import_module('sr_kernels.models')"),
        ("models/srvgg.py", "from sr_kernels import upscale"),
        ("ops/conv2d.py", "from sr_kernels import _C"),
        ("optimizer/graph/graphs.py", "from sr_kernels.optimizer.plan.steps import Step"),
        ("optimizer/plan/steps.py", "from sr_kernels.optimizer import region"),
        ("optimizer/plan/steps.py", "from ..proof.parity import Reference"),
        ("optimizer/region.py", "from sr_kernels.optimizer import optimize"),
    ],
)
def test_a_closed_room_is_noticed(path, source):
    assert len(trespasses(source, Path(path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ops/conv2d.py", "from sr_kernels.backends import select"),
        ("ops/conv2d.py", "from . import schema"),
        ("ops/conv2d.py", "from .. import __version__, config"),
        ("backends/cpu.py", "from sr_kernels import _C"),
        ("cli/main.py", "from ..pipeline import upscale"),
        ("image/reading.py", "from .colour import to_rgb\nimport torch"),
        ("optimizer/plan/steps.py", "from sr_kernels.optimizer.graph import graphs\nfrom . import sizes"),
        ("optimizer/__init__.py", "from sr_kernels.optimizer.main import optimize"),
    ],
)
def test_an_open_room_is_open(path, source):
    assert trespasses(source, Path(path)) == []


# The native code.


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*([<"][^>"]+[>"])', path.read_text(), re.MULTILINE)


def native_files() -> list[Path]:
    return sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".inl", ".cpp", ".cu", ".cuh"))


def closure(path: Path) -> set[Path]:
    """path and the files of csrc that it includes, directly or not."""
    seen, open_ = set(), [path]
    while open_:
        file = open_.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in (n[1:-1] for n in includes(file) if n.startswith('"')):
            found = [p for p in (file.parent / name, CSRC / name) if p.exists()]
            assert found, f"{file.relative_to(ROOT)} includes {name!r}, which is not in csrc"
            open_.append(found[0].resolve())
    return seen


# Headers that define types, macros and intrinsics only: nothing that one unit's flags could leave behind
# for the linker to share with another unit.
ISA_HEADERS = {"<cstdint>", "<stdint.h>", "<cstddef>", "<stddef.h>", "<immintrin.h>", "<arm_neon.h>"}


def test_native_code_knows_no_torch():
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in native_files()
        for name in includes(path)
        if re.match(r'[<"](torch|ATen|c10|caffe2)/', name)
    ]
    assert not found, "\n".join(found)


BINDINGS = {CSRC / name for name in ("module.cpp", "cuda/module.cpp", "bind_params.h", "bind_facts.h")}


def test_only_the_bindings_know_python():
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in native_files()
        if path not in BINDINGS
        for name in includes(path)
        if re.match(r"<(pybind11/|Python\.h)", name)
    ]
    assert not found, "\n".join(found)


def test_units_with_their_own_flags_include_no_library_code():
    units = sorted((CSRC / "cpu" / "isa").glob("*.cpp"))
    assert units
    found = [
        f"{file.relative_to(ROOT)}: {name}"
        for unit in units
        for file in closure(unit)
        for name in includes(file)
        if name.startswith("<") and name not in ISA_HEADERS
    ]
    assert not found, "\n".join(sorted(set(found)))


@pytest.mark.parametrize("name", ["setup.py", "Makefile", "pyproject.toml", ".ci/run"])
def test_no_build_for_this_machine_only(name):
    text = (ROOT / name).read_text()
    assert "march=native" not in text
    assert "-ffast-math" not in text
