# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""One module, several threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from sr_kernels.pipeline import upscale
from sr_kernels.pipeline.network import Network
from tests.pipeline.networks import Described, Nearest, grid


class Meeting(Described):
    """The first call waits for a second one to begin, which waits for the first one's thread to be done."""

    def __init__(self):
        super().__init__()
        self.both, self.first_done = threading.Barrier(2), threading.Event()
        self.modes = []

    def forward(self, x):
        if self.both.wait(10) == 0:
            self.leader = threading.get_ident()
        self.both.wait(10)
        if threading.get_ident() != self.leader:
            assert self.first_done.wait(10)
        self.modes.append(self.training or self.last.training)
        return super().forward(x)


def test_a_module_stays_in_evaluation_mode_until_the_last_thread_leaves():
    model = Meeting().train()

    def work(_):
        found = upscale(grid(3, 20, 16), model)
        model.first_done.set()
        return found

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(work, range(2)))
    assert model.modes == [False, False]
    assert torch.equal(*results)
    assert all(m.training for m in model.modules())


def test_parts_in_common_stay_in_evaluation_mode_too():
    shared = nn.Sequential(Nearest()).train()
    networks = [Network(nn.Sequential(shared), 3, False, torch.device("cpu"), None) for _ in range(2)]
    first, second = (network.evaluating() for network in networks)
    with torch.enable_grad():  # restored at the end, whatever the order below leaves behind
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not shared.training
        assert not shared[0].training
        second.__exit__(None, None, None)
    assert shared.training
    assert shared[0].training


def test_measuring_memory_leaves_no_trace_on_the_module():
    """Another thread may be running it."""
    model, hooks = Described(), []

    def watch(module, inputs):
        hooks.extend(m for m in module.modules() if m._forward_hooks)

    model.register_forward_pre_hook(watch)
    network = Network(model, 3, False, torch.device("cpu"), None)
    with network.evaluating():
        found = network.bytes_per_pixel()
    assert not hooks
    # 12 channels at least, before the shuffle; at most an addition of two such pictures
    assert 12 * 4 <= found <= 3 * (12 + 12 + 12) * 4
