# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""nn.Graphed: the same results by replay, memory bounded, changes of weights noticed."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sr_kernels import models, nn, optimize
from sr_kernels.backends import record_kernels, use_backend
from tests.closeness import assert_as_close

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


def srvgg(device):
    return models.create("srvgg", scale=2, num_feat=32, num_conv=4).eval().to(device, HALF)


@pytest.fixture
def fast(device):
    """Captured, and replayed once."""
    if device != "cuda":
        pytest.skip("CUDA graphs need a CUDA device")
    made = optimize(srvgg(device), picture(17, 23))
    assert check_replays(made) == 2
    return made


@torch.no_grad()
def check_replays(fast):
    """Five calls, each right by its own weights and in memory of its own: how many were replays."""
    pictures = [picture(17, 23) for _ in range(5)]
    found = [replays(fast, x) for x in pictures]
    plain = srvgg("cuda")
    plain.load_state_dict(fast.state_dict())
    with use_backend("torch"):
        eager = [plain(x) for x in pictures]
        exact = [plain.double()(x.double()) for x in pictures]
    for i, (y, _) in enumerate(found):
        assert_as_close(y, eager[i], exact[i])
        assert torch.equal(y, fast._sr_region._op_by_op(fast, pictures[i]))
    assert len({y.data_ptr() for y, _ in found}) == len(found)
    return sum(replayed for _, replayed in found)


def replace(layer, weight):
    layer.weight = torch.nn.Parameter(weight)


CHANGES = {
    "written to": lambda layer: layer.weight.mul_(-1),
    "data": lambda layer: setattr(layer.weight, "data", layer.weight.data * -1),
    "replaced": lambda layer: replace(layer, layer.weight * -1),
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_of_an_optimised_module_are_noticed(fast, change):
    """Between replays, again and again: what was freed may be given out again."""
    for i in (0, 2, 10, 2):
        change(fast.body[i])
        assert check_replays(fast) == 2
    assert check_replays(fast) == 5


@torch.no_grad()
def test_another_parameter_of_an_optimised_module_over_the_same_memory(fast):
    for i in (0, 2):
        layer = fast.body[i]
        old = layer.weight
        replace(layer, old.data)
        assert layer.weight.data_ptr() == old.data_ptr()
        assert check_replays(fast) == 2
        layer.weight.mul_(-1)  # which leaves the old one's version alone
        assert check_replays(fast) == 2
    assert check_replays(fast) == 5


@torch.no_grad()
def test_results_of_an_optimised_module_are_held(fast):
    """While calls after them run, on other values."""
    pictures = [picture(17, 23) for _ in range(6)]
    held = [fast(x) for x in pictures]
    before = [y.clone() for y in held]
    held[0].fill_(torch.nan)
    again = [replays(fast, x) for x in pictures]
    for (y, replayed), old in zip(again, before, strict=True):
        assert replayed
        assert torch.equal(y, old)
    assert all(torch.equal(y, old) for y, old in zip(held[1:], before[1:], strict=True))


@torch.no_grad()
def test_an_optimised_module_on_two_streams(fast):
    """Its graph's memory is one stream's at a time; inputs are written by the same stream, late."""
    pictures = [picture(17, 23) for _ in range(8)]
    expected = [fast._sr_region._op_by_op(fast, x) for x in pictures]
    late = [torch.full_like(x, torch.nan) for x in pictures]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    found = []
    for i, (x, mine) in enumerate(zip(pictures, late, strict=True)):
        with torch.cuda.stream(streams[i % 2]):
            torch.cuda._sleep(10_000_000)
            mine.copy_(x)
            found.append(replays(fast, mine))
    torch.cuda.synchronize()
    for (y, replayed), right in zip(found, expected, strict=True):
        assert replayed
        assert torch.equal(y, right)
