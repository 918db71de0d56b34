# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What is not faster is left alone; the clock here is a made-up one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sr_kernels import optimize
from sr_kernels.optimizer.proof import timing
from sr_kernels.optimizer.region import Region
from tests.optimizer.networks import assert_original_runs, assert_ours, assert_same, net, picture


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
    compared = timing._compared
    calls = []

    def second_time_lucky(*args):
        calls.append(args)
        clock["ours"] = 2.5 if len(calls) == 1 else 1.0
        return compared(*args)

    monkeypatch.setattr(timing, "_compared", second_time_lucky)
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


# Parts, each with a clock of its own.


class Parts(nn.Module):
    """Two parts, the second within a third, and a branch that only a call decides."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.outer = Outer()

    def forward(self, x):
        h = self.first(x)
        return self.outer(h) if h.sum() > -1 else h


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.opaque = nn.Conv2d(8, 8, 3, padding=1), Opaque()

    def forward(self, x):
        return self.opaque(torch.relu(self.before(x)))


class Opaque(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())

    def forward(self, x):
        return self.inner.forward(x) if x.sum() > -1 else x


PARTS = ("first", "outer", "outer.opaque.inner")


@pytest.fixture
def parts(monkeypatch):
    """A clock of the parts of Parts: (seconds in eager, of the region), of each alone."""
    torch.manual_seed(0)
    now, took = [0.0], {path: [2.0, 1.0] for path in PARTS}

    def seconds():
        now[0] += 1e-6
        return now[0]

    monkeypatch.setattr(timing.time, "perf_counter", seconds)
    timed = timing._Clock.timed

    def with_time(self, path, function, *args, **kwargs):
        def later(*args, **kwargs):
            now[0] += took[path][hasattr(function, "__self__") and isinstance(function.__self__, Region)]
            return function(*args, **kwargs)

        return timed(self, path, later, *args, **kwargs)

    monkeypatch.setattr(timing._Clock, "timed", with_time)
    monkeypatch.setattr(timing, "_SLOWER", 0.0)
    return took


def regions_of(fast):
    return [path for path, _, _ in fast.report().regions]


def test_parts_that_gain_are_kept(parts):
    fast = optimize(Parts().eval())
    assert sorted(regions_of(fast)) == sorted(PARTS)
    assert_ours(fast, picture())


@pytest.mark.parametrize("slow", PARTS)
def test_a_part_that_does_not_gain_is_left(parts, slow):
    """Also around, and inside of, one that does."""
    parts[slow] = [2.0, 2.5]
    model = Parts().eval()
    fast = optimize(model)
    assert sorted(regions_of(fast)) == sorted(set(PARTS) - {slow})
    assert fast.report().left[slow] == "kernels of the library gain nothing there"
    assert_same(fast, model, picture())
    assert not any("forward" in vars(m) for m in model.modules())


def test_a_single_convolution_may_be_a_part(parts):
    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            h = self.a(x)
            return self.b(h) if h.sum() > -1e9 else h

    parts |= {"a": [2.0, 1.0], "b": [1.0, 2.0]}
    fast = optimize(Apart().eval())
    assert regions_of(fast) == ["a"]
    assert_ours(fast, picture())


def test_parts_are_timed_for_real():
    """Whatever the clock says, the result is the module's."""
    model = Parts().eval()
    fast = optimize(model)
    assert_same(fast, model, picture())
    assert not any("forward" in vars(m) for m in (*model.modules(), *fast.modules()))


class Holding(Parts):
    """One part is called by a function that holds it."""

    def __init__(self):
        super().__init__()
        self.call = lambda x: self.first(x)

    def forward(self, x):
        h = self.call(x)
        return self.outer(h) if h.sum() > -1 else h


def test_a_part_that_nothing_calls_in_the_copy(parts):
    fast = optimize(Holding().eval())
    assert "first" not in regions_of(fast)
    assert fast.report().left["first"] == "what calls it holds the original"


def test_parts_that_save_next_to_nothing(parts, monkeypatch):
    """In a whole that takes a thousand times as long."""
    run = timing.Sample.run

    def slow(self, module):
        timing.time.perf_counter.__closure__[0].cell_contents[0] += 1000.0
        return run(self, module)

    monkeypatch.setattr(timing.Sample, "run", slow)
    fast = optimize(Parts().eval())
    assert not regions_of(fast)
    assert fast.report().left["first"] == "kernels of the library gain next to nothing there"
    assert "parity" not in str(fast.report())
