# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Small modules with the habits that modules have, and what is asked of every optimised one."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_map

from sr_kernels import record_kernels
from tests.closeness import assert_as_close, assert_as_close_together


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
    with torch.no_grad():
        ours = fast(*copies(args), **kwargs)
    assert_result(ours, model, *args, exact=exact, **kwargs)


def assert_result(ours, model, *args, exact=None, **kwargs):
    """As assert_same, of a result that is there already."""
    exact = copy.deepcopy(model) if exact is None else exact
    with torch.no_grad():
        theirs = model(*copies(args), **kwargs)
        truth = exact.double()(*copies(args, torch.float64), **kwargs)
    if (
        theirs.dtype == torch.float64
    ):  # which has no reference: PyTorch's own operations run, in another order
        bound = 4 * torch.finfo(torch.float64).eps * _longest(model) ** 0.5 * theirs.abs().max()
        assert (ours.detach() - theirs).abs().max() <= bound
    else:
        assert_as_close(ours.detach(), theirs, truth)


def _longest(model):
    """Terms of the longest sum that a layer makes."""
    return max(p[0].numel() for p in model.parameters() if p.dim() == 4)


def assert_gradients(ours, model, loss, of):
    """Gradients `ours`, as near to float64 as those of loss(model) by of(model), tensors, are."""
    exact = copy.deepcopy(model).double()
    theirs, truth = (torch.autograd.grad(loss(m), of(m)) for m in (model, exact))
    assert_as_close_together(ours, theirs, truth)


def copies(args, dtype=None):
    """Tensors among arguments, in lists too, in memory of their own and, where given, of that dtype."""
    return tree_map(
        lambda a: a.detach().to(dtype or a.dtype, copy=True) if isinstance(a, torch.Tensor) else a, args
    )


def kernels_of(fast, *args, **kwargs):
    """The library's kernels that a call runs."""
    with record_kernels() as names, torch.no_grad():
        fast(*args, **kwargs)
    return names


def assert_ours(fast, *args, **kwargs):
    assert kernels_of(fast, *args, **kwargs), "no kernel of the library ran"


def assert_original_runs(fast, *args, **kwargs):
    assert not kernels_of(fast, *args, **kwargs), "a kernel of the library ran"
