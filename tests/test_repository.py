# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Habits that hold for every file: licence headers, length, one table of environment variables."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("sr_kernels", "csrc", "tests", "benchmarks")
CODE = (".py", ".pyi", ".h", ".inl", ".cpp", ".cu", ".cuh")
HEADER = ("Copyright (c) 2026 the sr_kernels authors.", "SPDX-License-Identifier: Apache-2.0")
LONGEST = 600


def files() -> list[Path]:
    found = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in CODE]
    return sorted([*found, ROOT / "setup.py", ROOT / "Makefile", ROOT / ".ci" / "run"])


def environment() -> dict:
    """The table of config.py, run by itself so that the defaults are those of the environment now."""
    return runpy.run_path(str(ROOT / "sr_kernels" / "config.py"))["ENVIRONMENT"]


def test_every_file_has_the_licence_header():
    def headed(path: Path) -> bool:
        lines = [line.lstrip("#/ ") for line in path.read_text().splitlines()]
        return tuple(lines[line_after_shebang(lines) :][:2]) == HEADER

    def line_after_shebang(lines: list[str]) -> int:
        return 1 if lines[:1] and lines[0].startswith("!") else 0

    assert not [str(path.relative_to(ROOT)) for path in files() if not headed(path)]


def test_no_file_is_too_long_to_read():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files()}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


def test_every_environment_variable_is_in_the_table():
    table = set(environment())
    used = {
        (name, str(path.relative_to(ROOT)))
        for path in files()
        for name in re.findall(r"\bSR_KERNELS_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())
    }
    assert {name for name, _ in used} >= {"SR_KERNELS_BUILD_NATIVE", "SR_KERNELS_BACKEND"}
    assert not sorted((name, path) for name, path in used if name not in table)


def test_the_documented_table_is_the_table(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    rows = [
        f"| `{v.name}` | {v.meaning} | `{v.default}` | {'build' if v.build_time else 'run'} |"
        for v in environment().values()
    ]
    text = (ROOT / "docs" / "environment.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows, "\n".join(rows)


def test_the_version_has_its_place_in_the_changelog():
    version = runpy.run_path(str(ROOT / "sr_kernels" / "_version.py"))["__version__"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", version)
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in ("Unreleased", version)


def test_the_lower_bounds_of_the_makefile_and_the_package_agree():
    """torch's version in the Makefile satisfies the package's own requirement."""
    wanted = re.search(r"^TORCH \?= torch==(\d+)\.(\d+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    least = re.search(r'"torch>=(\d+)\.(\d+)', (ROOT / "pyproject.toml").read_text())
    assert wanted is not None
    assert least is not None
    assert tuple(map(int, wanted.groups())) >= tuple(map(int, least.groups()))
