# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""nn.Graphed: the same results by replay, memory bounded, changes of weights noticed."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sr_kernels import models, nn, optimize
from sr_kernels.backends import record_kernels

HALF = torch.float16


@pytest.fixture
def graphed(device):
    if device != "cuda":
        pytest.skip("CUDA graphs need a CUDA device")
    model = models.create("srvgg", scale=2, num_feat=32, num_conv=4)
    return nn.Graphed(model.eval().to(device, HALF), most_graphs=2)


def picture(*size):
    return torch.rand(1, 3, *size, device="cuda", dtype=HALF)


def replays(model, x):
    """The result, and whether it was replayed: then no kernel is chosen."""
    with record_kernels() as names:
        y = model(x)
    return y, not names


@torch.no_grad()
def test_results_are_the_modules(graphed):
    for size in ((17, 23), (32, 32), (17, 23)):
        for turn in range(5):
            x = picture(*size)
            y, replayed = replays(graphed, x)
            assert replayed == (turn >= 3)
            assert torch.equal(y, graphed.module(x))
        if size == (17, 23):
            graphed.reset()


@torch.no_grad()
def test_results_are_new_memory(graphed):
    x = picture(16, 16)
    found = [graphed(x * i) for i in range(5)]
    assert all(torch.equal(y, graphed.module(x * i)) for i, y in enumerate(found))


@torch.no_grad()
def test_least_recently_used_goes_first(graphed):
    for size in (8, 9, 8, 10):
        for _ in range(4):
            graphed(picture(size, size))
    assert [key[0][0][0][-1] for key in graphed._replays._graphs] == [8, 10]


@torch.no_grad()
def test_changed_weights_are_noticed(graphed):
    x = picture(16, 16)
    for _ in range(4):
        before = graphed(x)
    next(graphed.module.parameters()).mul_(-1)
    for _ in range(5):
        after = graphed(x)
        assert not torch.equal(before, after)
        assert torch.equal(after, graphed.module(x))


def test_what_needs_gradients_runs_as_it_is(graphed):
    x = picture(8, 8)
    y, replayed = replays(graphed, x)
    assert not replayed
    assert y.requires_grad
    assert not graphed._replays._graphs


@torch.no_grad()
def test_threads_and_streams_share_a_graph(graphed):
    pictures = [picture(24, 24) for _ in range(16)]
    expected = [graphed.module(x) for x in pictures]
    for x in pictures[:4]:
        graphed(x)
    torch.cuda.synchronize()

    def work(i):
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            y = graphed(pictures[i])
            torch.cuda.current_stream().synchronize()
        return torch.equal(y, expected[i])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))


@torch.no_grad()
def test_copies_capture_their_own(graphed):
    x = picture(8, 8)
    for _ in range(4):
        graphed(x)
    other = copy.deepcopy(graphed)
    assert not other._replays._graphs
    assert torch.equal(other(x), graphed(x))


@torch.no_grad()
def test_memory_is_bounded(graphed):
    graphed.most_bytes = 1
    for size in (40, 48, 56):
        for _ in range(4):
            graphed(picture(size, size))
    assert [key[0][0][0][-1] for key in graphed._replays._graphs] == [56]


@torch.no_grad()
def test_an_enlarging_network_is_captured_after_its_weights_were_loaded(device):
    """What packs the phases of its upsampling waits for the device, which a capture does not allow."""
    if device != "cuda":
        pytest.skip("CUDA graphs need a CUDA device")
    model = models.create("rrdbnet", scale=4, num_block=1).eval().to(device, HALF)
    x = picture(12, 16)
    model(x)
    model.load_state_dict({name: value * 0.5 for name, value in model.state_dict().items()})
    graphed = nn.Graphed(model)
    for turn in range(5):
        y, replayed = replays(graphed, x)
        assert replayed == (turn >= 3)
        assert torch.equal(y, model(x))


@torch.no_grad()
def test_a_second_device(graphed):
    if torch.cuda.device_count() < 2:
        pytest.skip("no second device")
    for index in (0, 1):
        mine = nn.Graphed(copy.deepcopy(graphed.module).to(f"cuda:{index}"))
        for scale in (1.0, 0.5, 0.25, 2.0, 0.1):
            x = picture(16, 16).to(f"cuda:{index}") * scale
            assert torch.equal(mine(x), mine.module(x))


@torch.no_grad()
def test_optimised_modules_are_replayed(device):
    if device != "cuda":
        pytest.skip("CUDA graphs need a CUDA device")
    model = models.create("srvgg", scale=2, num_feat=32, num_conv=4).eval().to(device, HALF)
    fast = optimize(model, picture(24, 24))
    x = picture(17, 23)
    for turn in range(5):
        y, replayed = replays(fast, x)
        assert replayed == (turn >= 3)
        assert torch.equal(y, fast._sr_region._op_by_op(fast, x))
    model.body[0].weight.mul_(2)
    changed, replayed = replays(fast, x)
    assert not replayed
    assert not torch.equal(changed, y)
