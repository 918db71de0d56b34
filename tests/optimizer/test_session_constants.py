# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Parameters and what is made from them, changed between calls; threads; modes."""

from __future__ import annotations

import copy
import gc
import operator
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_kernels import ops
from tests.closeness import assert_as_close
from tests.optimizer import graphs
from tests.optimizer.graphs import Builder, assert_same, check, picture

pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


# Constants.


def folded(b, x):
    """A convolution whose weight is computed from parameters."""
    weight, gain = b.parameter(16, 3, 3, 3, fan_in=27), b.parameter(16)
    shaped = b.method("view", gain, -1, 1, 1, 1)
    product = b.call(operator.mul, weight, shaped)
    return b.call(ops.conv2d, x, product, gain, padding=1, channels=16)


def test_changed_constants():
    b = Builder()
    h = folded(b, b.input(3))
    y = b.conv(b.cat(h, b.conv(h, 16, activation="prelu")), 5)
    x = picture(1, 3, 9, 10)
    session = b.session((y, h), x)
    parameters = [name for name, _ in b.module.named_parameters()]
    before = session.run(b.module, [x])
    for name in parameters:
        for change in ("in place", "replaced", "data"):
            old = getattr(b.module, name)
            with torch.no_grad():
                if change == "in place":
                    old.mul_(1.5)
                elif change == "replaced":
                    setattr(b.module, name, nn.Parameter(old * 0.5))
                else:
                    old.data = old.detach() * 1.25
            after = session.run(b.module, [x])
            assert_same(after, b.plain(x))
            assert not torch.equal(after[0], before[0]), (name, change)
            before = after


def test_replaced_modules_and_copies():
    b = Builder()
    b.module.layer = nn.Conv2d(3, 16, 3)
    x = b.input(3)
    weight, bias = b.graph.get_attr("layer.weight"), b.graph.get_attr("layer.bias")
    h = b.call(ops.conv2d, x, weight, bias, padding=1, channels=16)
    given = picture(1, 3, 9, 10)
    session = b.session(b.conv(h, 4), given)
    first = session.run(b.module, [given])
    other = copy.deepcopy(b.module)
    b.module.layer = nn.Conv2d(3, 16, 3)
    second = session.run(b.module, [given])
    assert_same(second, b.plain(given))
    assert not torch.equal(first, second)
    assert_same(session.run(other, [given]), first)
    b.module.layer = nn.Conv2d(3, 16, 5)
    with pytest.raises(ValueError, match="plan it again"):
        session.run(b.module, [given])


def test_parametrised_and_inference_tensors_are_read_anew():
    b = Builder()
    b.module.layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 16, 3))
    with torch.inference_mode():
        b.module.layer.register_buffer("shift", torch.randn(16))
    x = b.input(3)
    weight, bias = b.graph.get_attr("layer.weight"), b.graph.get_attr("layer.shift")
    given = picture(1, 3, 9, 10)
    session = b.session(b.conv(b.call(ops.conv2d, x, weight, bias, channels=16), 4), given)
    before = session.run(b.module, [given])
    with torch.inference_mode():
        b.module.layer.shift.mul_(2)
    after = session.run(b.module, [given])
    assert_same(after, b.plain(given))
    assert not torch.equal(before, after)
    with torch.no_grad():
        b.module.layer.parametrizations.weight.original0.mul_(3)
    assert_same(session.run(b.module, [given]), b.plain(given))


def test_constants_of_shapes():
    """Weights cut, and tensors made, by numbers that follow from shapes."""
    b = Builder()
    h = b.conv(b.input(3), 16)
    height = b.method("size", h, 2)
    weight = b.call(operator.getitem, b.parameter(40, 16, 3, 3), slice(0, height))
    rows = b.call(torch.arange, height, dtype=torch.float32)
    ramp = b.method("view", rows, 1, 1, height, 1)
    wide = b.method("expand", ramp, 1, 2, height, 9, channels=2)
    y = b.call(ops.conv2d, b.cat(h, wide), b.parameter(4, 18, 1, 1), channels=4)
    x = picture(1, 3, 8, 9)
    session = check(b, (y, b.call(ops.conv2d, h, weight, padding=1), rows), x)
    first = session.run(b.module, [x])[2]
    first.zero_()
    assert_same(session.run(b.module, [x]), b.plain(x))


def test_what_lies_in_constants_is_given_as_a_copy():
    """Aliases that calls make of constants, through containers too; the module's own tensors stay its own."""
    b = Builder()
    x = b.input(3)
    own = b.parameter(4, buffer=True)
    doubled = b.call(operator.mul, own, 2)
    alias = b.method("type_as", doubled, x)
    halves = b.call(lambda c, x: c.split(x.shape[1] - 1), alias, x)
    outputs = [alias, b.call(operator.getitem, halves, 1), halves, b.method("type_as", own, x)]
    given = picture(1, 3, 8, 9)
    session = b.session((b.conv(x, 4), *outputs), given)
    first = session.run(b.module, [given])
    assert_same(first, b.plain(given))
    assert first[4] is b.module.get_buffer(own.target)
    for y in (first[1], first[2], *first[3]):
        y.add_(100)
    assert_same(session.run(b.module, [given]), b.plain(given))


class Keeping(nn.Module):
    """Writes to what it is shown, keeps it, and gives it back."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, c, x):
        self.shown.append(c)
        return c.add_(x.shape[1])


def test_modules_are_shown_copies_of_constants():
    b = Builder()
    x = b.input(3)
    b.module.keeping = Keeping()
    doubled = b.call(operator.mul, b.parameter(4), 2)
    alias = b.method("type_as", doubled, x)
    outputs = [b.graph.call_module("keeping", (c, x)) for c in (doubled, alias)]
    given = picture(1, 3, 8, 9)
    session = b.session((b.conv(x, 4), *outputs), given)
    with torch.no_grad():
        expected = [b.module.p2 * 2 + 3] * 2
    for _ in range(3):
        y = session.run(b.module, [given])
        assert_same(y[1:], expected)
        for kept in (*b.module.keeping.shown, *y[1:]):
            kept.zero_()


def test_random_numbers_are_no_constants():
    b = Builder()
    h = b.conv(b.input(3), 16)
    noise = b.call(torch.rand_like, b.parameter(1, 16, 8, 9), channels=16)
    x = picture(1, 3, 8, 9)
    session = b.session((b.conv(b.cat(h, noise), 4), b.call(torch.mul, b.parameter(4), 2.0)), x)
    first, second = session.run(b.module, [x]), session.run(b.module, [x])
    assert not torch.equal(first[0], second[0])
    first[1].zero_()
    assert_same(session.run(b.module, [x])[1], second[1])


def test_inputs_of_another_shape_are_refused():
    b = Builder()
    session = b.session(b.conv(b.input(3), 4), picture(1, 3, 8, 9))
    with pytest.raises(ValueError, match="planned for"):
        session.run(b.module, [picture(1, 3, 9, 9)])


def test_inputs_of_another_layout():
    b = Builder()
    x = picture(1, 3, 8, 9)
    session = b.session(b.conv(b.input(3), 4), x)
    assert_same(session.run(b.module, [x.contiguous()]), b.plain(x))


def test_a_session_keeps_no_module():
    b = Builder()
    b.module.layer = nn.Conv2d(3, 16, 3)
    h = b.call(ops.conv2d, b.input(3), b.graph.get_attr("layer.weight"), channels=16)
    given = picture(1, 3, 9, 10)
    session = b.session(b.conv(h, 4), given)
    session.run(b.module, [given])
    kept, layer = weakref.ref(b.module), weakref.ref(b.module.layer)
    gc.disable()
    try:
        del b.module
        assert kept() is None
        assert layer() is None
    finally:
        gc.enable()


def test_constants_that_only_lead_to_others_are_not_kept():
    """What a weight is computed from, and the weight once packed; what calls read, and outputs, are kept."""
    b = Builder()
    made = {}

    def noted(name, function):
        def run(*args):
            y = function(*args)
            made[name] = weakref.ref(y)
            return y

        return run

    x = b.input(3)
    double = b.call(noted("double", Tensor.double), b.parameter(16, 3, 3, 3, fan_in=27))
    folded = b.call(noted("folded", operator.mul), double, 2)
    weight = b.call(noted("weight", Tensor.float), folded)
    h = b.call(ops.conv2d, x, weight, padding=1, channels=16)
    read = b.call(noted("read", operator.mul), b.parameter(16, 1, 1), 2)
    returned = b.call(noted("returned", operator.add), read, 1)
    y = b.conv(b.call(operator.mul, h, read, channels=16), 4)
    given = picture(1, 3, 8, 9)
    session = b.session((y, returned), given)
    ours = session.run(b.module, [given])
    assert {name for name, tensor in made.items() if tensor() is not None} == {"read", "returned"}
    assert_same(session.run(b.module, [given]), ours)
    assert_same(ours, b.plain(given))


# Threads and modes.


def test_many_threads_at_once():
    b = Builder()
    x = b.input(3)
    h = b.conv(x, 16)
    h = b.call(F.interpolate, b.dense_block(h, (8, 8)), scale_factor=2, channels=16)
    session_inputs = [picture(1, 3, 20, 21, seed=i) for i in range(8)]
    session = b.session(b.conv(h, 5, residual=b.conv(h, 5)), session_inputs[0])
    expected = [b.plain(x) for x in session_inputs]
    failures = []

    def work(i):
        try:
            results = [session.run(b.module, [session_inputs[i]]) for _ in range(20)]
            failures.extend(i for y in results if not torch.equal(y, expected[i]))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert graphs.arena.kept_bytes() >= session.arena_bytes


@pytest.mark.parametrize("first", [True, False])
def test_inference_mode(first):
    """A session that was first run under inference mode serves all modes, and the other way round."""
    b = Builder()
    h = b.conv(b.input(3), 16)
    x = picture(1, 3, 9, 10)
    session = b.session(b.conv(b.call(torch.tanh, h, channels=16), 4), x)
    expected = b.plain(x)
    for mode in (first, not first):
        with torch.inference_mode(mode):
            y = session.run(b.module, [x])
        assert_same(y, expected)
        assert y.is_inference() == mode
        assert not y.requires_grad


def test_more_exact_than_it_must_be():
    """Beside float64, as eager is."""
    b = Builder()
    x = b.input(16)
    h = b.conv(x, 32, activation="relu")
    y = b.conv(b.cat(h, b.conv(h, 16)), 16, residual=x)
    given = picture(1, 16, 33, 35)
    session = b.session(y, given)
    ours = session.run(b.module, [given])

    def plain(dtype):
        p = [value.to(dtype) for value in b.module.parameters()]
        t = given.to(dtype)
        h = F.relu(F.conv2d(t, p[0], p[1], padding=1))
        return F.conv2d(torch.cat([h, F.conv2d(h, p[2], p[3], padding=1)], 1), p[4], p[5], padding=1) + t

    with torch.no_grad():
        assert_as_close(ours, plain(torch.float32), plain(torch.float64))
