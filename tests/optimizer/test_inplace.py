# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""In-place operations: the result is the original's, and so is what a call leaves in the caller's tensors."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels import optimize
from tests.closeness import assert_as_close
from tests.optimizer.networks import (
    Body,
    assert_ours,
    assert_result,
    assert_same,
    conv,
    picture,
)

# An optimised form that gives up, in favour of the original, says so.
pytestmark = pytest.mark.filterwarnings("error:.*the optimised form")


class Block(nn.Module):
    """As SPAN's: the activation in place changes out1, which is read again later."""

    def __init__(self, inplace=True):
        super().__init__()
        self.c1, self.c2, self.c3 = conv(3, 8), conv(8, 8), conv(8, 8)
        self.act = nn.SiLU(inplace=inplace)

    def forward(self, x):
        out1 = self.c1(x)
        out2 = self.c2(self.act(out1))
        out3 = self.c3(self.act(out2))
        return out3 * (torch.sigmoid(out3) - 0.5) + out1 + out2


class Functions(nn.Module):
    """In place by function, by method, by operator and by augmented assignment."""

    def __init__(self):
        super().__init__()
        self.one, self.two = conv(3, 8), conv(8, 8)

    def forward(self, x):
        y = self.one(x)
        F.leaky_relu(y, 0.2, inplace=True)
        z = self.two(y)
        z += y
        z.mul_(0.5)
        torch.relu_(z)
        z.clamp_(max=1.0).add_(y, alpha=0.1)
        n = 3
        n += 1
        return z * n


class ByName(nn.Module):
    """In place by functions whose names say so, some of which are no functions of torch's own."""

    def __init__(self):
        super().__init__()
        self.one, self.two = conv(3, 8), conv(8, 8)

    def forward(self, x):
        y = self.one(x)
        F.leaky_relu_(y, 0.2)
        z = self.two(y)
        F.elu_(z, 0.7)
        y = F.hardtanh_(z, -0.3, 0.4) + y
        F.relu_(y)
        return y * z


class Conditional(nn.Module):
    """An activation in place whose result is not used by name."""

    def __init__(self):
        super().__init__()
        self.one, self.act, self.two = conv(3, 8), nn.ReLU(True), conv(8, 3)

    def forward(self, x):
        y = self.one(x)
        self.act(y)
        return self.two(y) + y.mean()


class OfView(nn.Module):
    """A change by way of a view shows in the whole."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.body = conv(3, 8), conv(8, 3), Body()

    def forward(self, x):
        y = self.one(self.body(x))
        half = y[:, :4]
        half.mul_(2)
        return self.two(y)


class Scaled(OfView):
    """Arguments that the function that returns its result has no place for."""

    def forward(self, x):
        y = self.one(self.body(x))
        F.elu_(y, 0.7, 1.3)
        return self.two(y)


class SetItem(OfView):
    def forward(self, x):
        y = self.one(self.body(x))
        y[:, :2] = 0.5
        return self.two(y)


class Out(OfView):
    def forward(self, x):
        y = self.one(self.body(x))
        torch.mul(y, 2, out=y.detach())
        return self.two(y)


@pytest.mark.parametrize("kind", [Block, Functions, ByName, Conditional, OfView, Scaled, SetItem, Out])
@pytest.mark.parametrize("last", [False, True])
def test_results(kind, last):
    model = kind().eval().requires_grad_(False)
    fast = optimize(model)
    x = picture(2, 3, 12, 13)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    before = x.clone()
    assert_same(fast, model, x)
    assert torch.equal(x, before)
    assert_ours(fast, x)


@pytest.mark.parametrize("kind", [Block, Functions, ByName, Conditional])
def test_whole_graphs(kind):
    assert [path for path, *_ in optimize(kind().eval()).report().regions] == [""]


@pytest.mark.parametrize("kind", [OfView, Scaled, SetItem, Out])
def test_parts_inside_what_is_refused(kind):
    report = optimize(kind().eval()).report()
    assert "body" in [path for path, *_ in report.regions]
    assert "" in report.left


class OfInput(nn.Module):
    """Changes what it is given."""

    def __init__(self):
        super().__init__()
        self.body = Body()

    def forward(self, x):
        x -= 0.5
        return self.body(x)


class ActOfInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.body = nn.ReLU(inplace=True), Body()

    def forward(self, x):
        return self.body(self.act(x)) + x


class FunctionOfInput(ActOfInput):
    def forward(self, x):
        return self.body(F.leaky_relu_(x, 0.1)) + x


class Hidden(nn.Module):
    """What stays a module of its own changes the input."""

    class Stubborn(nn.Module):
        def forward(self, x):
            return x.mul_(0.5) if x.sum() > -1e9 else x

    def __init__(self):
        super().__init__()
        self.inner, self.body = self.Stubborn(), Body()

    def forward(self, x):
        y = self.body(x)
        self.inner(x)
        return y + self.body(x)


@pytest.mark.parametrize("kind", [OfInput, ActOfInput, FunctionOfInput, Hidden])
@pytest.mark.parametrize("last", [False, True])
def test_inputs_are_changed_as_the_original_changes_them(kind, last):
    model = kind().eval().requires_grad_(False)
    fast = optimize(model)
    x = picture(2, 3, 12, 13) - 0.5
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    ours, theirs = x.clone(), x.clone()
    y = fast(ours)
    model(theirs)
    assert_result(y, model, x)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, x)
    assert_ours(fast, x)


def test_example_inputs_stay_as_they_are():
    x = picture()
    optimize(OfInput().eval(), x)
    assert torch.equal(x, picture())


class OfParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.scale = Body(), nn.Parameter(torch.ones(3, 1, 1), requires_grad=False)

    def forward(self, x):
        self.scale.mul_(1.5)
        return self.body(x) * self.scale


def test_parameters_changed_in_forward():
    model = OfParameter().eval()
    fast = optimize(model)
    assert torch.equal(model.scale, torch.ones(3, 1, 1))
    first = fast(picture())
    difference = fast(picture()) - first * 1.5
    assert (difference.abs() <= torch.finfo(torch.float32).eps * (first * 1.5).abs()).all()  # one rounding
    assert_ours(fast, picture())


def test_gradients_go_through():
    model = Block().eval()
    fast = optimize(model)
    plain = Block()
    plain.load_state_dict(model.state_dict())
    found = []
    for module in (fast, plain, copy.deepcopy(plain).double()):
        x = picture().to(next(module.parameters()).dtype).requires_grad_()
        module(x).sum().backward()
        found.append(x.grad)
    assert_as_close(*found)
