# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Small modules with the habits that modules have, and what is asked of every optimised one."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

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


def assert_results(ours, model, *args, **kwargs):
    """As assert_result, of a tree of tensors and other things."""
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        theirs, spec = tree_flatten(model(*copies(args), **kwargs))
        truth = tree_leaves(exact(*copies(args, torch.float64), **kwargs))
    found, found_spec = tree_flatten(ours)
    assert found_spec == spec
    for a, b, c in zip(found, theirs, truth, strict=True):
        if isinstance(b, torch.Tensor) and b.is_floating_point() and not torch.equal(a, b):
            assert_as_close(a.detach(), b, c.double())
        elif not isinstance(b, torch.Tensor):
            assert a == b


def assert_lower(ours, model, dtype, *args):
    """A float32 result of computing in a lower dtype, as near to float64 as eager is in that dtype."""
    lower, exact = copy.deepcopy(model).to(dtype), copy.deepcopy(model).double()
    with torch.no_grad():
        theirs, truth = lower(*copies(args, dtype)), exact(*copies(args, torch.float64))
    assert_as_close(ours.detach().to(dtype), theirs, truth)


def _longest(model):
    """Terms of the longest sum that a layer makes."""
    return max(p[0].numel() for p in model.parameters() if p.dim() == 4)


def assert_weights_gradients(ours, model, name, x):
    """The gradient of model(x).sum() by the weight of that name, as near to float64 as eager's is."""
    exact = copy.deepcopy(model).double()
    found = [
        torch.autograd.grad(m(*copies([x], dtype)).sum(), m.get_parameter(name))[0]
        for m, dtype in ((copy.deepcopy(model), None), (exact, torch.float64))
    ]
    assert_as_close_together([ours], [found[0]], [found[1]])


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
