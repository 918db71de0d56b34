# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Builds run on a copy of the project and install into environments of their own."""

import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.builds import ROOT, Environment, run

LEFT_OUT = ("__pycache__", "*.so", "*.egg-info", ".git", ".venv", "build", "dist", "out", ".*_cache")


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    folder = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=tmp_path)
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (site / "tools.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return Environment(folder)


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled units for all the builds here; safe to share, because their names are hashes of all inputs."""
    folder = tmp_path_factory.mktemp("build") / "objects"
    if (ROOT / "build" / "objects").exists():
        shutil.copytree(ROOT / "build" / "objects", folder, ignore=shutil.ignore_patterns("tmp*"))
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def tree(tmp_path: Path, objects: Path) -> Path:
    """A copy of the project, without what its builds left."""
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (copy / "build").mkdir()
    (copy / "build" / "objects").symlink_to(objects)
    return copy


@pytest.fixture
def miniature(tree: Path) -> Path:
    """The project with a few one-line units for its native code, which compile in no time."""
    shutil.rmtree(tree / "csrc")
    files = {
        "module.cpp": 'extern "C" const char* PyInit__C() { return SRK_BUILD_ID; }\n',
        "cpu/threads.cpp": "int threads() { return 1; }\n",
        "cpu/isa/scalar.cpp": '#include "../kernels/all.inl"\n',
        "cpu/kernels/all.inl": '# include "cpu/one.h"\n',
        "cpu/one.h": "enum { one = 1 };\n",
    }
    for name, text in files.items():
        (tree / "csrc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "csrc" / name).write_text(text)
    return tree


@pytest.fixture
def wheel(tree: Path) -> Callable[..., tuple[Path, str]]:
    """Builds the wheel of `tree` with these environment variables: (path, what the build printed)."""

    def build(**variables: str) -> tuple[Path, str]:
        options = ("--no-build-isolation", "--no-deps", "-v", "--wheel-dir", "made")
        done = run(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=tree, **variables)
        [path] = (tree / "made").glob("*.whl")
        return path, done.stdout + done.stderr

    return build
