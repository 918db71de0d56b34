# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""make bench-ops: the layer cases one by one under pytest-benchmark, ours beside eager PyTorch.

Nothing is checked here, and the peers run one after the other: it is for looking at one kernel while working
on it. `make bench` compares.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import pytest
import torch

from benchmarks.cases import CASES
from benchmarks.problems import Problem
from sr_kernels.bench import machine, peers

LAYERS = {case.label(): case for case in CASES if not case.whole}
CONTENDERS = {c.name: c for c in peers.contenders(["eager", "eager_cl"])}


@pytest.fixture(scope="session", autouse=True)
def _settings() -> Iterator[None]:
    """Two threads, or those that OMP_NUM_THREADS says; freed memory kept."""
    before = torch.get_num_threads()
    machine.set_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    machine.keep_pages()
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


@functools.lru_cache(maxsize=1)
def _problem(label: str) -> Problem:
    return LAYERS[label].build()


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("label", LAYERS)
def test_layer(benchmark, label, contender):
    """One call of one contender on one layer."""
    benchmark.group = label
    call = CONTENDERS[contender].build(_problem(label))
    call()
    benchmark(call)
