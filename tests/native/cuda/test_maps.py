# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The index maps of the CUDA kernels, from the kernels' own headers."""

import subprocess
from pathlib import Path

from tests.native.cuda import emulated


def test_index_maps():
    emulated.require()
    program = emulated.program(Path(__file__).parent / "maps.cpp")
    done = subprocess.run([program], check=True, capture_output=True, text=True)
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert len(said) == 14
    assert {name: words for name, words in said.items() if words != "right"} == {}
