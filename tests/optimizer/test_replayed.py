# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Which optimised modules become CUDA graphs, and what these read; tests/gpu has their replays."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels import optimize
from sr_kernels.optimizer.replayed import is_replayable
from tests.optimizer.networks import net, picture


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
