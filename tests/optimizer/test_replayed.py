# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Which optimised modules become CUDA graphs, what these read, and when they are captured anew, on a stand-in
for CUDA; tests/gpu has the real one."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels import optimize
from sr_kernels.optimizer.plan.replayed import is_replayable
from tests.nn.fake_cuda import stream
from tests.optimizer.networks import assert_result, net, picture


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        return F.relu(self.conv(x)) + 0 * torch.rand_like(x[:, :1])


class Two(Random):
    def forward(self, x):
        y = F.relu(self.conv(x))
        return y, y + 1


@pytest.mark.parametrize(("kind", "able"), [(net, True), (Random, False), (Two, False)])
def test_what_is_the_same_at_every_call(kind, able):
    fast = optimize(kind().eval(), picture())
    region = fast._sr_region
    assert is_replayable(region.rewritten.graph, fast) == able
    assert (region._replays_for(fast) is not None) == able


@torch.no_grad()
def test_what_is_captured_reads_the_modules_tensors_as_they_are():
    fast = optimize(net())
    replays = fast._sr_region._replays_for(fast)
    x = picture()
    assert torch.equal(replays._function(x), fast._sr_region.rewritten.function(fast, x))
    before = {id(t) for t in replays._weights()}
    assert before >= {id(p) for p in fast.parameters()}
    name, old = next(iter(fast.named_parameters()))
    owner, _, leaf = name.rpartition(".")
    setattr(fast.get_submodule(owner), leaf, nn.Parameter(2 * old))
    assert {id(t) for t in replays._weights()} != before
    assert fast._sr_region._replays_for(fast) is replays


def test_a_module_does_not_live_on_in_its_graphs():
    fast = optimize(net())
    replays, alive = fast._sr_region._replays_for(fast), weakref.ref(fast)
    assert replays is not None
    del fast
    gc.collect()
    assert alive() is None


@torch.no_grad()
def check_replays(fast, log):
    """Five calls, each right and in memory of its own: how many captures and replays they took."""
    region, before = fast._sr_region, len(log)
    pictures = [picture(1, 3, 7, 6, seed=seed) for seed in range(5)]
    found = [region._replays_for(fast)(x) for x in pictures]
    plain = net()
    plain.load_state_dict(fast.state_dict())
    assert_result(found[-1], plain, pictures[-1])
    assert all(torch.equal(y, region._op_by_op(fast, x)) for x, y in zip(pictures, found, strict=True))
    assert len({y.data_ptr() for y in found}) == len(found)
    happened = [what for what, *_ in log[before:]]
    return happened.count("capture"), happened.count("replay")


ANEW, KEPT = (1, 3), (0, 5)


def replace(fast, path, tensor):
    owner, _, leaf = path.rpartition(".")
    setattr(fast.get_submodule(owner), leaf, nn.Parameter(tensor))


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda fast, path: fast.get_parameter(path).mul_(1.5),
        lambda fast, path: setattr(fast.get_parameter(path), "data", fast.get_parameter(path).data * 1.5),
        lambda fast, path: replace(fast, path, fast.get_parameter(path) * 1.5),
    ],
    ids=["written to", "data", "replaced"],
)
def test_a_changed_parameter_is_captured_anew(change, fake_cuda):
    """One that is folded into another layer too, and again."""
    fast = optimize(net())
    assert check_replays(fast, fake_cuda) == ANEW
    assert check_replays(fast, fake_cuda) == KEPT
    for path in ("first.weight", "second.weight", "last.bias", "norm.weight", "norm.weight"):
        change(fast, path)
        assert check_replays(fast, fake_cuda) == ANEW
    assert check_replays(fast, fake_cuda) == KEPT


@torch.no_grad()
@pytest.mark.parametrize("path", ["first.weight", "second.weight"])
def test_another_parameter_over_the_same_memory(path, fake_cuda):
    fast = optimize(net())
    old = fast.get_parameter(path)
    check_replays(fast, fake_cuda)
    replace(fast, path, old.data)
    assert fast.get_parameter(path).data_ptr() == old.data_ptr()
    assert check_replays(fast, fake_cuda) == ANEW
    fast.get_parameter(path).mul_(-1)  # which leaves the old one's version alone
    assert check_replays(fast, fake_cuda) == ANEW
    assert check_replays(fast, fake_cuda) == KEPT


@torch.no_grad()
def test_a_changed_buffer_is_captured_anew(fake_cuda):
    fast = optimize(net())
    check_replays(fast, fake_cuda)
    fast.norm.running_mean.add_(0.25)
    assert check_replays(fast, fake_cuda) == ANEW
    fast.norm.running_var = fast.norm.running_var * 2
    assert check_replays(fast, fake_cuda) == ANEW


@torch.no_grad()
def test_results_are_held_and_streams_wait(fake_cuda):
    fast = optimize(net())
    check_replays(fast, fake_cuda)
    replays, x = fast._sr_region._replays_for(fast), picture(1, 3, 7, 6)
    held = replays(x)
    before = held.clone()
    for name in ("one", "two"):
        last = len(fake_cuda)
        with stream(name):
            replays(picture(1, 3, 7, 6, seed=7))
        assert fake_cuda[last:] == [("wait", name, last), ("replay", name), ("record", name)]
    assert torch.equal(held, before)
    held.fill_(torch.nan)
    assert torch.equal(replays(x), before)
