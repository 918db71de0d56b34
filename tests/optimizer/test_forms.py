# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Sessions of other sizes, of a form that was made before or of one of their own: their bits, their cost."""

from __future__ import annotations

import copy
import operator
import statistics
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sr_kernels
from sr_kernels import ops, record_kernels
from sr_kernels.optimizer.graph.capture import capture
from sr_kernels.optimizer.module import assembled
from sr_kernels.optimizer.region import Region, Rewritten, Settings
from tests.closeness import assert_as_close
from tests.models import plain
from tests.optimizer.graphs import Builder, assert_same, interpreted, picture, poison, session_of
from tests.optimizer.test_session_random import Drawing

pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")

from sr_kernels.optimizer.plan import planning
from sr_kernels.optimizer.plan.form import Form
from sr_kernels.optimizer.plan.planning import Planner
from sr_kernels.optimizer.plan.session import Session


def values_of(b, *inputs):
    with torch.no_grad():
        return interpreted(b.graph, b.module, inputs)[1]


def of_another_size(form, b, *inputs):
    """A session of the form for these inputs; None where it does not fit."""
    sizes = form.fitted(values_of(b, *inputs))
    return None if sizes is None else Session(form, sizes, inputs)


def made(b, output, *inputs):
    """A form for these inputs."""
    b.graph.output(output)
    return Form(b.graph, values_of(b, *inputs))


class Enlarging(nn.Module):
    """Nearest x2 and 3x3 between layers of a kernel's own."""

    def __init__(self):
        super().__init__()
        sizes = (3, 16), (16, 16), (16, 16), (16, 3)
        self.layers = nn.ModuleList(nn.Conv2d(*channels, 3, padding=1) for channels in sizes)
        self.constant = nn.Parameter(torch.randn(1, 3, 8, 8))

    def forward(self, x):
        first, second, third, last = self.layers
        x = F.relu(second(F.interpolate(F.relu(first(x)), scale_factor=2, mode="nearest")))
        return last(F.relu(third(x)))


class ConstantBase(Enlarging):
    """A base of a size of its own."""

    def forward(self, x):
        first, second, _, last = self.layers
        return last(F.relu(second(F.relu(first(x))))) + F.interpolate(self.constant, scale_factor=2.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("first", [1, 32])
def test_an_enlarging_layer_is_another_kernel_on_one_row(first):
    """Packed for the one, its weights are nothing for the other."""
    model = Enlarging().eval()
    fast = sr_kernels.optimize(model, torch.rand(1, 3, 32, 32))
    with torch.inference_mode():
        for height in (first, 33 - first, first + 2, 33 - first):
            x = torch.rand(1, 3, height, 32)
            assert_as_close(fast(x), model(x), copy.deepcopy(model).double()(x.double()))


@pytest.mark.filterwarnings("error")
def test_a_constant_has_a_size_of_its_own():
    model = ConstantBase().eval()
    x = torch.rand(1, 3, 16, 16)
    fast = sr_kernels.optimize(model, x)
    with torch.inference_mode():
        assert_as_close(fast(x), model(x), copy.deepcopy(model).double()(x.double()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("seed", range(40))
def test_any_graph_in_other_sizes(monkeypatch, seed, dtype):
    monkeypatch.setattr("sr_kernels.optimizer.plan.buffers._SMALL", seed % 2 * (1 << 30))
    monkeypatch.setattr("sr_kernels.optimizer.plan.chains._LARGE", 1 if seed % 3 else 1 << 30)
    drawing = Drawing(seed, dtype)
    drawing.b.backend = "cpu"
    b, outputs = drawing.graph()

    def inputs(n, h, w):
        return [picture(n, c, h, w, dtype=dtype, seed=c) for c in (3, 8)]

    first = inputs(1, 9, 8)
    form = made(b, outputs, *first)
    for size in ((2, 7, 12), (1, 21, 5), (1, 9, 8)):
        others = inputs(*size)
        poison()
        session = of_another_size(form, b, *others)
        assert session is not None
        assert_same(session.run(b.module, others), b.plain(*others))
        own = session_of(b.graph, values_of(b, *others), others)
        # as if the form had been made for that size
        assert session.arena_bytes == own.arena_bytes
        assert [session.table.entries[i] for i in session.schedule.recipes.values()] == [
            own.table.entries[i] for i in own.schedule.recipes.values()
        ]


def test_numbers_of_sizes_are_those_of_the_call():
    b = Builder()
    x = b.input(3)
    h = b.conv(x, 8)
    height = b.call(operator.getitem, b.method("size", h), 2)
    half = b.call(operator.floordiv, height, 2)
    rows = b.call(operator.getitem, h, (slice(None), slice(None), slice(0, half)), channels=8)
    form = made(b, (rows, height), picture(1, 3, 8, 9))
    for size in ((1, 3, 13, 4), (2, 3, 30, 30)):
        given = picture(*size)
        session = of_another_size(form, b, given)
        rows, height = session.run(b.module, [given])
        assert height == size[2]
        assert_same(rows, b.plain(given)[0])


def by_size(b, x):
    """A convolution whose padding follows from the input's size."""
    height = b.call(operator.getitem, b.method("size", x), 2)
    return b.conv(x, 8, padding=b.call(operator.floordiv, height, 4))


def constant(b, x):
    """Rows of zeros, as many as the input has, among the channels."""
    size = b.call(operator.getitem, b.method("size", x), 2)
    zeros = b.call(torch.zeros, (1, 4, size, size), channels=4)
    return b.conv(b.cat(b.conv(x, 8), zeros), 4)


def strided(b, x):
    """Halved, which changes nothing of a single pixel."""
    h = b.conv(x, 8)
    return b.conv(b.call(F.avg_pool2d, h, 2, 2, ceil_mode=True, channels=8), 4)


def cropped(b, x):
    """All of a small picture, a part of a larger one: shared memory, or a copy."""
    h = b.conv(b.call(F.interpolate, x, (8, 8), channels=3), 8)
    return b.conv(h, 4), b.method(
        "contiguous", b.call(operator.getitem, x, (slice(None), slice(0, 1)), channels=1)
    )


@pytest.mark.parametrize(
    ("network", "first", "other"),
    [(by_size, 8, 12), (constant, 8, 9), (strided, 1, 8), (cropped, 1, 9)],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_what_sizes_decide_otherwise_is_another_form(network, first, other):
    b = Builder(backend="cpu")
    small, large = (picture(1, 3, n, n) for n in (first, other))
    form = made(b, network(b, b.input(3)), small)
    again = of_another_size(form, b, small)
    assert_same(again.run(b.module, [small]), b.plain(small))
    assert of_another_size(form, b, large) is None
    own = session_of(b.graph, values_of(b, large), [large])
    assert_same(own.run(b.module, [large]), b.plain(large))


@pytest.mark.parametrize(
    ("limit", "size"),
    [("buffers._SMALL", 4 * 12 * 400), ("chains._LARGE", 4 * 8 * 400)],
    ids=["small", "large"],
)
def test_thresholds_are_asked_again(monkeypatch, limit, size):
    monkeypatch.setattr(f"sr_kernels.optimizer.plan.{limit}", size)
    b = Builder(backend="cpu")
    h = b.conv(b.input(3), 8)
    wide = b.cat(h, b.conv(h, 4))
    h = b.conv(b.conv(b.conv(wide, 8), 8), 4, residual=b.conv(h, 4))
    form = made(b, h, picture(1, 3, 19, 19))
    assert of_another_size(form, b, picture(1, 3, 18, 20)) is not None
    assert of_another_size(form, b, picture(1, 3, 21, 21)) is None


def test_another_layout_is_another_form():
    b = Builder()
    form = made(b, b.conv(b.conv(b.input(3), 8), 4), picture(1, 3, 8, 9))
    given = picture(1, 3, 10, 9, layout=torch.contiguous_format)
    assert of_another_size(form, b, given) is None
    assert of_another_size(form, b, picture(1, 3, 10, 9)) is not None


def test_arenas_grow_and_serve_smaller_sizes():
    b = Builder()
    h = b.input(3)
    for _ in range(4):
        h = b.conv(h, 16)
    small, large = picture(1, 3, 9, 8), picture(1, 3, 40, 30)
    form = made(b, h, small)
    sessions = [of_another_size(form, b, x) for x in (small, large)]
    sessions[0].run(b.module, [small])
    first = form.pool.take(1)
    assert first.size == sessions[0].arena_bytes
    form.pool.give(first)
    assert_same(sessions[1].run(b.module, [large]), b.plain(large))
    second = form.pool.take(1)
    assert second.size == sessions[1].arena_bytes
    form.pool.give(second)
    poison()
    assert_same(sessions[0].run(b.module, [small]), b.plain(small))
    assert form.pool.take(1) is second


def planned(module, *sizes):
    """The planner of an optimised module, and its sessions for pictures of these sizes."""
    planner = Planner(module._sr_region.rewritten.graph)
    sessions = []
    with torch.inference_mode():
        for size in sizes:
            x = picture(1, 3, *size)
            session, result = planner.session_for(module, [x])
            with record_kernels() as names:
                again = session.run(module, [x])
            assert torch.equal(result, again)
            sessions.append((session, names))
    return planner, sessions


@pytest.fixture(scope="module")
def deep():
    """RRDBNet's 23 blocks, 351 convolutions, narrow so that they take little time."""
    module = plain.kaiming_(plain.RRDBNet(num_feat=8, num_grow_ch=4)).eval()
    pictures = [[picture(n, 3, 6 + n, 7)] for n in (1, 2)]
    region = Region(Rewritten(capture(module).graph, module, pictures), Settings(), {})
    return assembled(module, {"": region})


def test_sizes_share_a_form_and_its_weights(deep):
    """Bits and kernels are those of a form of the size's own."""
    _, sessions = planned(deep, (9, 8), (10, 8), (13, 11), (9, 9))
    forms = {id(session.form) for session, _ in sessions}
    assert len(forms) == 1
    form = sessions[0][0].form
    assert len(form._bindings[deep]) == 1
    with torch.inference_mode():
        x = picture(1, 3, 13, 11)
        own, y = Planner(deep._sr_region.rewritten.graph).session_for(deep, [x])
        assert own.form is not form
        assert torch.equal(sessions[2][0].run(deep, [x]), y)
        with record_kernels() as names:
            own.run(deep, [x])
    assert names == sessions[2][1]
    assert len(names) == 351


def test_changed_weights_are_noticed_in_every_size(deep):
    planner, _ = planned(deep, (9, 8))
    with torch.no_grad():
        deep.conv_first.weight.mul_(2.0)
        x = picture(1, 3, 10, 8)
        _, y = planner.session_for(deep, [x])
        _, expected = Planner(deep._sr_region.rewritten.graph).session_for(deep, [x])
    assert torch.equal(y, expected)


def test_parameters_of_another_shape_are_planned_anew():
    b = Builder()
    x = b.input(3)
    y = b.conv(x, 8)
    b.graph.output(b.call(ops.residual_add, y, y, channels=8))
    planner = Planner(b.graph)
    with torch.inference_mode():
        first, _ = planner.session_for(b.module, [picture(1, 3, 6, 7)])
        name = next(node.target for node in b.graph.nodes if node.op == "get_attr")
        setattr(b.module, name, nn.Parameter(torch.randn(8, 3, 3, 3)[:, :, 1:2, 1:2].contiguous()))
        given = picture(1, 3, 9, 7)
        session, result = planner.session_for(b.module, [given])
        assert session.form is not first.form
        assert result.shape == (1, 8, 11, 9)
        assert_same(result, b.plain(given))


_CALLS = 10_000  # of Python's and C's functions; a form of its own takes 80,000
_SECONDS = 10e-3  # twice what docs/optimize.md promises, for slow machines


def test_another_size_takes_few_steps_of_python(deep, monkeypatch):
    planner, _ = planned(deep, (9, 8), (10, 8))
    monkeypatch.setattr(Session, "run", lambda self, module, inputs: None)
    counts = []
    for height in (11, 12):
        calls = 0

        def count(frame, event, argument):
            nonlocal calls
            calls += event in ("call", "c_call")

        x = picture(1, 3, height, 8)
        with torch.inference_mode():
            before = sys.getprofile()
            sys.setprofile(count)
            try:
                planner.session_for(deep, [x])
            finally:
                sys.setprofile(before)
        counts.append(calls)
        planner = Planner(deep._sr_region.rewritten.graph) if height == 11 else planner
    shared, own = counts
    assert 0 < shared < _CALLS < own


def test_of_equal_blocks_one_is_asked(deep, monkeypatch):
    planner, _ = planned(deep, (9, 8))
    rule, asked = planning.RULES[ops.dense_block], []
    monkeypatch.setitem(planning.RULES, ops.dense_block, lambda *a, **k: asked.append(0) or rule(*a, **k))
    with torch.inference_mode():
        planner.session_for(deep, [picture(1, 3, 11, 8)])
    graph = deep._sr_region.rewritten.graph
    assert sum(node.target is ops.dense_block for node in graph.nodes) == 69
    assert len(asked) == 2  # every third has one more residual


def test_calls_alike_but_for_one_thing_are_told_apart():
    """Another number, a weight of another shape, one tensor twice."""
    b = Builder()
    x = b.input(8)
    a, c = b.conv(x, 8), b.conv(x, 4)
    ends = [a, c, b.conv(x, 8, padding=0), b.conv(x, 8, bias=False), b.cat(a, a), b.cat(a, c), b.cat(a, c, a)]
    b.graph.output(tuple(ends))
    planner = Planner(b.graph)
    with torch.inference_mode():
        for height in (9, 11):
            given = picture(1, 8, height, 7)
            assert_same(planner.session_for(b.module, [given])[1], b.plain(given))


def test_another_size_takes_little_preparation(deep, monkeypatch):
    """All but running it, for 351 convolutions: the median of several sizes, in the thread's own time, which
    neither waits nor other processes are part of."""
    planner, _ = planned(deep, (9, 8), (10, 8))
    run, spent, took = Session.run, [], []

    def timed(self, module, inputs):
        start = time.thread_time()
        result = run(self, module, inputs)
        spent.append(time.thread_time() - start)
        return result

    monkeypatch.setattr(Session, "run", timed)
    with torch.inference_mode():
        for height in range(11, 22):
            x = picture(1, 3, height, 8)
            start = time.thread_time()
            planner.session_for(deep, [x])
            took.append(time.thread_time() - start - spent[-1])
    assert len(spent) == len(took)
    assert statistics.median(took) < _SECONDS
