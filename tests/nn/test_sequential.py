# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""FusedSequential equals nn.Sequential, in fewer ops."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sr_kernels import nn as srnn
from sr_kernels import ops
from tests.nn.test_conv import assert_same, random_slopes

CASES = {
    # name: (modules, ops expected)
    "conv": (lambda: [nn.Conv2d(4, 4, 3)], 1),
    "conv, act": (lambda: [nn.Conv2d(4, 6, 3), nn.PReLU(6)], 1),
    "conv, act, conv, shuffle": (
        lambda: [nn.Conv2d(4, 6, 3), nn.Tanh(), nn.Conv2d(6, 8, 3), nn.PixelShuffle(2)],
        2,
    ),
    "conv, shuffle, act": (lambda: [nn.Conv2d(4, 8, 3), nn.PixelShuffle(2), nn.PReLU()], 1),
    "conv, act, shuffle": (lambda: [nn.Conv2d(4, 8, 3), nn.PReLU(8), nn.PixelShuffle(2)], 1),
    "conv, shuffle, slopes": (lambda: [nn.Conv2d(4, 8, 3), nn.PixelShuffle(2), nn.PReLU(2)], 1),
    "conv, two acts": (lambda: [nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Sigmoid()], 1),
    "conv, two shuffles": (lambda: [nn.Conv2d(4, 16, 3), nn.PixelShuffle(2), nn.PixelShuffle(2)], 1),
    "conv, identity, act": (lambda: [nn.Conv2d(4, 8, 3), nn.Identity(), nn.SiLU()], 1),
    "conv, unknown": (lambda: [nn.Conv2d(4, 8, 3), nn.Softplus(), nn.Conv2d(8, 2, 1)], 2),
    "act first": (lambda: [nn.ReLU(), nn.Conv2d(4, 8, 3)], 1),
    "our layers": (
        lambda: [srnn.ConvAct2d(4, 8, 3), nn.ReLU(), srnn.ConvAct2d(8, 8, 3, activation="tanh"), nn.ReLU()],
        2,
    ),
    "in place": (lambda: [nn.Conv2d(4, 8, 3), nn.LeakyReLU(0.2, inplace=True)], 1),
}


@pytest.fixture
def count(monkeypatch):
    """A list that grows by one with each call of ops.conv2d."""
    calls = []
    run = ops.conv2d
    monkeypatch.setattr(ops, "conv2d", lambda *a, **k: (calls.append(1), run(*a, **k))[1])
    return calls


@pytest.mark.parametrize("case", CASES)
def test_equals_sequential(case, count):
    torch.manual_seed(0)
    modules, expected = CASES[case]
    plain = random_slopes(nn.Sequential(*modules()))
    fused = srnn.FusedSequential(*copy.deepcopy(plain))
    assert list(fused.state_dict()) == list(plain.state_dict())
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 9, 8)
    fused(x)
    assert len(count) == expected
    assert_same(fused, plain, x)
    assert torch.equal(pickle.loads(pickle.dumps(fused))(x), fused(x))


def test_hooks_are_honoured():
    """A hooked member runs as it is."""
    seen = []
    fused = srnn.FusedSequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    fused[1].register_forward_hook(lambda m, i, y: seen.append(i[0].min().item()))
    fused[0].register_forward_hook(lambda m, i, y: y - 100)
    y = fused(torch.rand(1, 3, 5, 5))
    assert y.max() == 0
    assert seen[0] < -90


def test_parametrised_weights_are_honoured():
    torch.manual_seed(0)
    plain = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU())
    fused = srnn.FusedSequential(*plain)
    x = torch.rand(1, 3, 5, 5)
    assert torch.equal(fused(x), plain(x))


def test_arguments_go_to_the_last_op():
    torch.manual_seed(0)
    fused = srnn.FusedSequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    x = torch.rand(1, 3, 5, 5)
    torch.testing.assert_close(fused(x, residual=x), fused(x) + x)
    with pytest.raises(TypeError, match="residual"):
        srnn.FusedSequential()(x, residual=x)
    assert srnn.FusedSequential()(x) is x
