# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The emulation of Hopper's instructions itself: what is sound gives known results, what is not is named."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.native.cuda import emulated

# By the names that faults.cpp prints; the first three are what an H100 says in probe_descriptors.cu.
EXPECTED = {
    "shifted": "right",
    "pitch 18": "right",
    "shift as base": "wrong sums",
    "sums": "right",
    "store fence": "is not fenced from tensor cores and copies",
    "product fence": "a matrix product without a fence before it",
    "product wait": "wrong sums",
    "operand": "an operand changes before its product is done",
    "copy": "right",
    "zeros outside": "right",
    "publish": "the copy engine does not see the mbarrier",
    "copy wait": "another picture",
    "parity": "a block ends before what it has copied is there",
    "source": "results change before the copy engine has read them",
    "read": "a thread ends before its results have been read",
    "mark": "an mbarrier is overwritten",
    "arrivals": "more arrivals than an mbarrier expects",
    "count": "threads wait for ever: warp 0 for barrier 1, warp 1",
    "disagree": "threads disagree on a barrier's count",
    "registers": "threads wait for ever: warp 0 for registers",
    "left": "a block ends while threads have arrived at a barrier alone",
    "hang": "threads wait for ever: warp 0 for an mbarrier at 65536",
    "none": "right",
    "none fenced": "is not fenced from tensor cores and copies",
    "first fenced": "an ordinary store of thread 1 is not fenced from tensor cores and copies",
    "second fenced": "an ordinary store of thread 0 is not fenced from tensor cores and copies",
    "both fenced": "right",
    "turns": "right",
    "another's wait": "right",
    "overwritten": "right",
}
# Where copies land at once, what waits are for is not seen.
EARLY = {"copy wait": "right", "parity": "threads wait for ever", "source": "right", "read": "right"}
# What one order alone shows.
DIFFERS = {
    "late up": {},
    "late down": {"another's wait": "another picture"},
    "early up": {**EARLY, "overwritten": "another picture"},
    "early down": EARLY,
}


@pytest.mark.parametrize("order", emulated.ORDERS)
def test_what_the_emulation_says(order):
    emulated.require()
    program = emulated.program(Path(__file__).parent / "faults.cpp")
    env = {**os.environ, **emulated.ORDERS[order]}
    done = subprocess.run([program], env=env, check=True, capture_output=True, text=True)
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    expected = {**EXPECTED, **DIFFERS[order]}
    assert said.keys() == expected.keys()
    assert {name: words for name, words in said.items() if expected[name] not in words} == {}
