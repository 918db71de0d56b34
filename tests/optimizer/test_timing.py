# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What is not faster is left alone; the clock here is a made-up one."""

from __future__ import annotations

import pytest
import torch

from sr_kernels import optimize
from sr_kernels.optimizer.proof import timing
from tests.optimizer.networks import assert_original_runs, assert_ours, net, picture


@pytest.fixture
def clock(monkeypatch):
    """Each call takes as long as its module says, whatever it really took."""
    now, took = [0.0], {"eager": 2.0, "ours": 1.0}
    run = timing.Sample.run

    def timed(self, module):
        now[0] += took["ours" if hasattr(module, "_sr_region") else "eager"]
        return run(self, module)

    monkeypatch.setattr(timing.Sample, "run", timed)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return took


def test_faster_is_kept(clock):
    fast = optimize(net())
    assert fast.report().time.ratio == 2.0
    assert "2.00x" in str(fast.report())
    assert_ours(fast, picture())


def test_slower_is_undone(clock):
    clock["ours"] = 2.5
    fast = optimize(net())
    assert "not faster: 0.80 times eager's speed" in str(fast.report())
    assert "nothing was optimised" in str(fast.report())
    assert_original_runs(fast, picture())
    assert torch.equal(fast(picture()), net()(picture()))


def test_a_little_slower_is_noise(clock):
    clock["ours"] = 2.05
    assert_ours(optimize(net()), picture())


def test_slower_once_is_noise(clock, monkeypatch):
    clock["ours"] = 2.5
    measured = timing._measured
    calls = []

    def second_time_lucky(*args):
        calls.append(args)
        clock["ours"] = 2.5 if len(calls) == 1 else 1.0
        return measured(*args)

    monkeypatch.setattr(timing, "_measured", second_time_lucky)
    fast = optimize(net())
    assert len(calls) == 2
    assert fast.report().time.ratio == 2.0
    assert_ours(fast, picture())


def test_time_is_measured_where_inputs_are_given():
    fast = optimize(net(), picture(2, 3, 20, 24))
    assert fast.report().time.shape == (2, 3, 20, 24)


def test_the_size_of_a_tile_otherwise(clock, monkeypatch):
    from sr_kernels.optimizer import samples

    monkeypatch.setattr(samples, "_seconds", lambda module, sample: 1e-3)
    assert optimize(net()).report().time.shape == (1, 3, 128, 128)
