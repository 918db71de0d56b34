# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Small modules with the habits that modules have, and what is asked of every optimised one."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels import record_kernels
from tests.closeness import assert_as_close


def conv(ci=4, co=4):
    return nn.Conv2d(ci, co, 3, 1, 1)


class Net(nn.Module):
    """Two convolutions, batch norm, a residual, a shuffle: what most have."""

    def __init__(self, width=8):
        super().__init__()
        self.first, self.norm = conv(3, width), nn.BatchNorm2d(width)
        self.act, self.second = nn.LeakyReLU(0.2), conv(width, width)
        self.last = conv(width, 12)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-0.5, 0.5)
            self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        y = self.act(self.norm(self.first(x)))
        y = y + 0.2 * F.relu(self.second(y))
        return F.pixel_shuffle(self.last(y), 2)


class Body(nn.Module):
    """A part with a graph, inside modules that have none."""

    def __init__(self, channels=3):
        super().__init__()
        self.one, self.two = conv(channels, 8), conv(8, channels)

    def forward(self, x):
        return self.two(F.relu(self.one(x))) + x


class Opaque(nn.Module):
    """No graph as a whole; two parts inside have one."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([Body(), Body()])

    def forward(self, x, loud=False):
        for part in self.parts if float(x.sum()) > -1e9 else ():
            x = part(x)
        return x


def net(**sizes):
    torch.manual_seed(0)
    return Net(**sizes).eval()


def picture(*shape, seed=1):
    return torch.rand(shape or (1, 3, 14, 11), generator=torch.Generator().manual_seed(seed))


def assert_same(fast, model, *args, exact=None, **kwargs):
    """One tensor out: ours as near to float64 as eager is, times what the precision allows."""
    exact = copy.deepcopy(model) if exact is None else exact
    with torch.no_grad():
        theirs = model(*args, **kwargs)
        truth = exact.double()(*(a.double() if isinstance(a, torch.Tensor) else a for a in args), **kwargs)
        ours = fast(*args, **kwargs)
        if theirs.dtype == torch.float64:  # which has no reference
            assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-13)
        else:
            assert_as_close(ours, theirs, truth)


def kernels_of(fast, *args, **kwargs):
    """The library's kernels that a call runs."""
    with record_kernels() as names, torch.no_grad():
        fast(*args, **kwargs)
    return names


def assert_ours(fast, *args, **kwargs):
    assert kernels_of(fast, *args, **kwargs), "no kernel of the library ran"


def assert_original_runs(fast, *args, **kwargs):
    assert not kernels_of(fast, *args, **kwargs), "a kernel of the library ran"
