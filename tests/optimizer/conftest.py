# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Small networks on a busy machine: whether they are faster is no matter here, test_timing.py excepted. Every
new tensor holds NaN."""

from __future__ import annotations

import pytest

from sr_kernels import optimize
from sr_kernels.optimizer import samples
from sr_kernels.optimizer.proof import timing
from tests.nn.fake_cuda import fake_cuda as fake_cuda
from tests.optimizer.networks import net


@pytest.fixture(autouse=True)
def _whatever_the_clock_says(request, monkeypatch):
    if request.node.path.name != "test_timing.py":
        for chooses in ("kept", "gainful"):
            monkeypatch.setattr(timing, chooses, lambda model, regions, sample, report: regions)
        monkeypatch.setattr(samples, "larger", lambda module, sample: sample)


@pytest.fixture
def model():
    return net()


@pytest.fixture
def fast(model):
    return optimize(model)


@pytest.fixture(autouse=True)
def _poisoned(poisoned: None) -> None:
    pass
