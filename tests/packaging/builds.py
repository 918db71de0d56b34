# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Running builds and what they made: no download, no variable of ours from outside."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, cwd: Path, expect: int | None = 0, **variables: str) -> subprocess.CompletedProcess:
    """The finished command, stdout and stderr as text; its exit status is `expect` (None: any but 0)."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("SR_KERNELS_")}
    env |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1"}
    env |= {"SR_KERNELS_CUDA_ARCHS": "none", **variables}  # nvcc takes minutes; it has tests of its own
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True)
    as_expected = done.returncode != 0 if expect is None else done.returncode == expect
    assert as_expected, f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@dataclass
class Environment:
    """A virtual environment that sees the packages of the one under test, but not its sr_kernels."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def install(self, *what: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
        options = ("--no-build-isolation", "--no-deps", "--ignore-installed", "-v")
        pip = (sys.executable, "-m", "pip", "--python", self.python)
        return run(*pip, "install", *options, *what, cwd=cwd, **variables)

    def execute(self, code: str, *options: str, **variables: str) -> subprocess.CompletedProcess:
        return run(self.python, *options, "-c", code, cwd=self.folder, **variables)
