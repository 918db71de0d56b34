# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The proof that optimize gives: what is wrong is found, undone and named."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import nn

from sr_kernels import optimize, set_precision
from sr_kernels.optimizer import region as region_module
from sr_kernels.optimizer import samples
from sr_kernels.optimizer.proof.parity import Outputs, Reference, outputs
from sr_kernels.optimizer.rewrites import ALL, Rewrite
from sr_kernels.optimizer.samples import Sample, given, guessed, larger, seen_inside
from tests.optimizer.networks import Body, Net, assert_ours, assert_same, conv, net, picture


class Off(nn.Module):
    """A module whose result is off by a factor, from a size on."""

    def __init__(self, inner, factor, at=0, where=...):
        super().__init__()
        self.inner, self.factor, self.at, self.where = inner, factor, at, where

    def forward(self, x):
        y = self.inner(x).clone()
        if x.shape[-1] >= self.at:
            y[self.where] *= self.factor
        return y


SAMPLES = [Sample((picture(1, 3, 16, 16),)), Sample((picture(2, 3, 9, 11),))]


def test_equal_holds():
    parity = Reference(net(), SAMPLES).compare(net())
    assert parity.holds
    assert parity.exact
    assert 0 < parity.ours == parity.eager < parity.limit < 1e-4


@pytest.mark.parametrize("factor", [1 + 1e-4, 0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("where", [..., (0, 1, 3, 2)])
def test_off_does_not_hold(factor, where):
    parity = Reference(net(), SAMPLES).compare(Off(net(), factor, where=where))
    assert not parity.holds
    assert parity.text


def test_off_at_one_size_does_not_hold():
    large = [Sample((picture(1, 3, 40, 40),))]
    reference = Reference(net(), SAMPLES, large)
    assert reference.compare(net()).holds
    assert not reference.compare(Off(net(), 1 + 1e-4, at=40)).holds
    assert not reference.compare(Off(net(), 1 + 1e-4, at=16)).holds


def test_medium_allows_the_error_of_bfloat16():
    with set_precision("medium"):
        reference = Reference(net(), SAMPLES, [Sample((picture(1, 3, 40, 40),))])
        assert reference.compare(Off(net(), 1 + 1e-3)).holds
        assert not reference.compare(Off(net(), 1.5)).holds


class NoDouble(Body):
    def forward(self, x):
        return super().forward(x.float())


class Named(Body):
    """float64 gives another shape."""

    def forward(self, x):
        y = super().forward(x)
        return y.flatten() if x.dtype == torch.float64 else y


@pytest.mark.parametrize("kind", [NoDouble, Named])
def test_without_float64(kind):
    model = kind().eval()
    reference = Reference(model, SAMPLES)
    assert not reference.exact
    assert reference.compare(model).holds
    assert not reference.compare(Off(model, 1 + 1e-4)).holds


def test_optimised_without_float64():
    fast = optimize(NoDouble().eval())
    assert_ours(fast, picture())
    assert "against eager" in str(fast.report())


class Random(Body):
    def forward(self, x):
        return super().forward(x) + torch.rand_like(x)


def test_random_results_are_not_held_against_other_random_numbers():
    model = Random().eval()
    reference = Reference(model, SAMPLES)
    assert reference.random
    assert not reference.exact
    assert reference.compare(model).holds
    assert not reference.compare(Off(model, 1 + 1e-4)).holds


class Pair(Body):
    def forward(self, x):
        y = super().forward(x)
        return y, y.argmax(1)


class Swapped(Pair):
    def forward(self, x):
        y, best = super().forward(x)
        return y, best + 1


class Listed(Pair):
    def forward(self, x):
        return [*super().forward(x)]


class Cast(Pair):
    def forward(self, x):
        y, best = super().forward(x)
        return y.double(), best


class Cut(Pair):
    def forward(self, x):
        y, best = super().forward(x)
        return y[..., 1:], best


class Touching(Pair):
    """Leaves something else in its argument."""

    def forward(self, x):
        found = super().forward(x)
        x += 1
        return found


@pytest.mark.parametrize("kind", [Swapped, Listed, Cast, Cut, Touching])
def test_other_results_do_not_hold(kind):
    torch.manual_seed(0)
    model = Pair().eval()
    torch.manual_seed(0)
    other = kind().eval()
    assert Reference(model, SAMPLES).compare(model).holds
    assert not Reference(model, SAMPLES).compare(other).holds


def test_infinite_values_may_be_where_they_were():
    class Infinite(Body):
        def forward(self, x):
            return super().forward(x).masked_fill(x > 0.5, float("inf"))

    model = Infinite().eval()
    assert Reference(model, SAMPLES).compare(model).holds
    assert not Reference(model, SAMPLES).compare(Off(model, -1.0)).holds


def wrong_product(graph):
    """Takes k * x for 1.001 * k * x."""
    count = 0
    for node in graph.nodes:
        if node.op == "call_function" and node.target is operator.mul:
            node.args = tuple(a * 1.001 if isinstance(a, float) else a for a in node.args)
            count += 1
    return count


def wrong_shuffle(graph):
    count = 0
    for node in graph.nodes:
        if "pixel_shuffle" in node.kwargs:
            node.kwargs = {**node.kwargs, "scale": 0.5}
            count += 1
    return count


def broken(graph):
    raise RuntimeError("rewriting broke")


def test_a_wrong_rewrite_is_undone_and_named(monkeypatch):
    rules = (Rewrite("a wrong product", wrong_product), *ALL)
    monkeypatch.setattr(region_module, "ALL", rules)
    fast = optimize(net())
    assert list(fast.report().undone) == ["a wrong product"]
    assert "is allowed" in fast.report().undone["a wrong product"]
    assert "a wrong product" not in fast.report().fused
    assert fast.report().fused["conv + scale + residual"] > 0
    assert_same(fast, net(), picture())
    assert_ours(fast, picture())


def test_two_wrong_rewrites_are_undone_and_named(monkeypatch):
    rules = (Rewrite("a wrong product", wrong_product), *ALL, Rewrite("a wrong shuffle", wrong_shuffle))
    monkeypatch.setattr(region_module, "ALL", rules)
    fast = optimize(net())
    assert {"a wrong product", "a wrong shuffle"} <= set(fast.report().undone)
    assert_same(fast, net(), picture())
    assert_ours(fast, picture())


def test_a_wrong_rewrite_in_one_part_spares_the_others(monkeypatch):
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Body(), Net()

        def forward(self, x):
            return self.b(self.a(x) if x.sum() > -1e9 else x)

    monkeypatch.setattr(region_module, "ALL", (Rewrite("a wrong product", wrong_product), *ALL))
    model = Parts().eval()
    fast = optimize(model)
    assert list(fast.report().undone) == ["a wrong product in b"]
    assert [path for path, *_ in fast.report().regions] == ["a", "b"]
    assert_same(fast, model, picture())


def test_a_rewrite_that_fails_is_left_out_and_named(monkeypatch):
    monkeypatch.setattr(region_module, "ALL", (*ALL, Rewrite("a broken rule", broken)))
    fast = optimize(net())
    assert fast.report().undone == {"a broken rule": "RuntimeError: rewriting broke"}
    assert fast.report().fused["conv + scale + residual"] > 0
    assert_same(fast, net(), picture())
    assert_ours(fast, picture())


def test_no_rewrite_fails_where_a_convolution_reads_another_twice():
    """As input and as residual: of the node's arguments, not of its sources, some are the same."""
    report = optimize(net()).report()
    assert not report.undone
    assert [path for path, *_ in report.regions] == [""]


def test_a_kernel_that_is_wrong_at_large_sizes_only(monkeypatch):
    """The proof covers the size that times are taken on: kernels are chosen by size."""
    run = region_module.Region._fast

    def fast_but_wrong(self, module, values):
        y = run(self, module, values)
        return y * 1.001 if values[0].shape[-1] >= 100 else y

    monkeypatch.setattr(region_module.Region, "_fast", fast_but_wrong)
    monkeypatch.setattr(samples, "larger", larger)
    monkeypatch.setattr(samples, "_seconds", lambda module, sample: 1e-3)
    fast = optimize(net())
    assert fast.report().regions == []
    assert "all rewrites" in fast.report().undone
    assert torch.equal(fast(picture()), net()(picture()))


def test_pictures_that_are_made_up(monkeypatch):
    found, why = guessed(net())
    assert not why
    assert [tuple(sample.args[0].shape) for sample in found] == [(1, 3, 16, 16), (2, 3, 13, 18)]
    assert not torch.equal(found[0].args[0][..., :13, :16], found[1].args[0][:1, :, :13, :16])
    monkeypatch.setattr(samples, "_seconds", lambda module, sample: 1e-3)
    assert tuple(larger(net(), found[0]).args[0].shape) == (1, 3, 128, 128)


@pytest.mark.parametrize(("first", "channels"), [(conv(1, 4), 1), (conv(5, 4), 5), (conv(4, 4), 4)])
def test_channels_that_are_guessed(first, channels):
    found, _ = guessed(nn.Sequential(first, conv(4, 4)).eval())
    assert found[0].args[0].shape[1] == channels


def test_channels_behind_an_unshuffle():
    found, _ = guessed(nn.Sequential(nn.PixelUnshuffle(2), conv(12, 4)).eval())
    assert found[0].args[0].shape[1] == 3


def test_a_size_that_a_module_insists_on():
    class Square(Body):
        def forward(self, x):
            return super().forward(x.reshape(-1, 3, 64, 64))

    found, _ = guessed(Square().eval())
    assert tuple(found[0].args[0].shape) == (1, 3, 64, 64)
    assert larger(Square().eval(), found[0]).args[0].shape[-1] in (64, 128)


def test_larger_stops_where_time_grows_fast(monkeypatch):
    times = iter([0.003, 0.03])
    monkeypatch.setattr(samples, "_seconds", lambda module, sample: next(times))
    found = larger(net(), SAMPLES[0])
    assert tuple(found.args[0].shape) == (1, 3, 32, 32)


def test_what_example_inputs_stand_for():
    x, y = picture(), picture()
    assert [s.args for s in given(x)] == [(x,)]
    assert [s.args for s in given((x, y))] == [(x, y)]
    assert [s.kwargs for s in given({"x": x})] == [{"x": x}]
    assert [s.args for s in given([x, (x, y)])] == [(x,), (x, y)]
    for wrong in (3, [], [3], None):
        with pytest.raises(TypeError, match="example_inputs is"):
            given(wrong)


def test_calls_inside_are_seen_as_they_were():
    model = nn.Sequential(conv(3, 3), nn.ReLU(inplace=True))
    seen = seen_inside(model, ["1"], SAMPLES)["1"]
    assert len(seen) == 2
    with torch.no_grad():
        assert torch.equal(seen[0].args[0], model[0](SAMPLES[0].args[0]))
    assert not model[1]._forward_pre_hooks


def test_outputs_know_their_form():
    found = outputs(SAMPLES[0], Pair().eval())
    assert isinstance(found, Outputs)
    assert len(found) == 3  # two results and the argument
    assert found.form != outputs(SAMPLES[0], Listed().eval()).form
