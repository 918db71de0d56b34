# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs of a function: what is captured anew when, on a stand-in for CUDA; tests/gpu has the real."""

import pytest
import torch
import torch.nn.functional as F

from sr_kernels.backends.kept import cached
from sr_kernels.nn.replays import Replays
from tests.nn.fake_cuda import stream

pytestmark = pytest.mark.usefixtures("fake_cuda")


class Layer:
    """A convolution that reads its weights from a copy, as kernels do whose weights are packed."""

    def __init__(self):
        self.weight, self.calls = torch.nn.Parameter(torch.randn(4, 3, 3, 3)), 0

    def __call__(self, x):
        self.calls += 1
        return F.conv2d(x, self.packed(), padding=1) * 2

    def packed(self):
        return cached(self.weight, "packed", lambda: self.weight.detach().clone())

    @torch.no_grad()
    def check(self, replays, times=5):
        """Results are right and new memory; two calls run, one is captured, the others are replays."""
        before = self.calls
        pictures = [torch.randn(1, 3, 5, 7) for _ in range(times)]
        found = [replays(x) for x in pictures]
        expected = [F.conv2d(x, self.weight, padding=1) * 2 for x in pictures]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert len({y.data_ptr() for y in found}) == times
        return self.calls - before


@pytest.fixture
def layer():
    return Layer()


@pytest.fixture
def replays(layer):
    made = Replays(layer, lambda: [layer.weight])
    assert layer.check(made) == 3
    assert layer.check(made) == 0
    return made


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.mul_(2),
        lambda layer: setattr(layer.weight, "data", layer.weight.data * 3),
        lambda layer: setattr(layer, "weight", torch.nn.Parameter(layer.weight * 4)),
    ],
    ids=["written to", "data", "replaced"],
)
def test_changed_weights_are_captured_anew(layer, replays, change):
    for _ in range(3):
        change(layer)
        assert layer.check(replays) == 3
        assert layer.check(replays) == 0
        assert len(replays) == 1


@torch.no_grad()
def test_another_parameter_over_the_same_memory(layer, replays):
    """What is written by the one leaves the other's version alone."""
    old, layer.weight = layer.weight, torch.nn.Parameter(layer.weight.data)
    assert layer.weight.data_ptr() == old.data_ptr()
    assert layer.check(replays) == 3
    layer.weight.mul_(-1)
    assert layer.check(replays) == 3
    assert layer.check(replays) == 0


@torch.no_grad()
def test_data_that_comes_back(layer, replays):
    first = layer.weight.data
    for data in (first * 2, first, first * 3, first):
        layer.weight.data = data
        assert layer.check(replays) == 3
        assert layer.check(replays) == 0


@torch.no_grad()
def test_an_old_graph_is_waited_for_before_it_goes(layer, replays, fake_cuda):
    layer.weight.mul_(2)
    last = len(fake_cuda)
    replays(torch.randn(1, 3, 5, 7))
    assert fake_cuda[last] == ("synchronize", last)


@torch.no_grad()
def test_results_are_kept_while_the_next_call_runs(layer, replays):
    pictures = [torch.randn(1, 3, 5, 7) for _ in range(4)]
    held = [replays(x) for x in pictures]
    before = [y.clone() for y in held]
    held[0].fill_(torch.nan)
    again = [replays(x) for x in pictures]
    assert all(torch.equal(a, b) for a, b in zip(again, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(held[1:], before[1:], strict=True))


@torch.no_grad()
def test_streams_wait_for_each_other(replays, fake_cuda):
    """A replay reads and writes the same memory on every stream."""
    x = torch.randn(1, 3, 5, 7)
    for name in ("one", "two", "one", "two"):
        last = len(fake_cuda)
        with stream(name):
            replays(x)
        assert fake_cuda[last:] == [("wait", name, last), ("replay", name), ("record", name)]


@torch.no_grad()
def test_kinds_of_inputs_are_graphs_of_their_own(layer, replays, fake_cuda):
    """The least recently used goes first, and is waited for."""
    replays.most_graphs = 2
    for size in (5, 6, 7):
        for _ in range(4):
            x = torch.randn(1, 3, size, 7)
            assert torch.equal(replays(x), F.conv2d(x, layer.weight, padding=1) * 2)
    assert [what for what, *_ in fake_cuda].count("synchronize") == 1
    assert [key[0][0][0][2] for key in replays._graphs] == [6, 7]


def _anew(made, value):
    made.clear()
    made["tensor"] = value()


def _moved(made, value):
    tensor = made.setdefault("tensor", torch.empty(0))
    tensor.data = torch.empty(0)
    tensor.data = value()


@torch.no_grad()
@pytest.mark.parametrize("change", [_anew, _moved])
def test_neither_address_nor_id_of_what_was_captured_is_given_out_again(change):
    """What a function reads may be made anew while nobody else holds what it read before."""
    made = {}
    replays = Replays(lambda x: x * made["tensor"], lambda: [made["tensor"]])
    for i in range(8):
        change(made, lambda i=i: torch.full((64, 64), float(i)))
        for _ in range(4):
            x = torch.randn(64, 64)
            assert torch.equal(replays(x), i * x)
