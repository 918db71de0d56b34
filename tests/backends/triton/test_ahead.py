# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The shipped configurations, compiled for chips that need not be here: what the machine code holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.triton import ahead

ROOT = Path(__file__).resolve().parents[3]
SHARED = {80: 166_912, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}  # bytes a block may have
PRODUCTS = {80: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}


@pytest.fixture(scope="module")
def reports():
    command = [sys.executable, "-m", "tests.backends.triton.ahead", *map(str, SHARED)]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("chip", SHARED)
def test_compiled_code(reports, chip):
    """Tensor cores in 16-bit layers, boxes where there are any, wide stores, no spills, memory that fits."""
    mine = [report for report in reports if report["chip"] == chip]
    assert {report["name"] for report in mine} == {" ".join(name) for name in ahead.names(chip)}
    for report in mine:
        found = report["instructions"]
        assert report["shared"] <= SHARED[chip], report
        layer, dtype = report["name"].rsplit(" ", 1)
        if layer in ahead.LAYERS or layer == "memory":  # an entry of a table was measured, spills and all
            assert not found["LDL"], report
        if layer == "memory":
            if report["kernel"] in ("shuffle_pixels_kernel", "add_kernel"):
                assert found["STG.E.128"], report
                assert found["LDG.E.128"], report
            continue
        assert (found[PRODUCTS[chip]] > 0) == (dtype != "float32"), report
        if layer.startswith("boxes "):
            assert found["UTMALDG"], report
        if chip >= 90 and layer in ("body 64", "growth 160", "dense 192", "tail shuffle", "pointwise"):
            assert found["UTMALDG"], report
        if layer.startswith(("body", "growth", "dense", "upsampler")):
            assert found["STG.E.128"], report
