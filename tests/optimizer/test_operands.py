# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Operands that fit where the graph was made, and that PyTorch spreads, converts or refuses at another
call."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels import optimize
from tests.optimizer.networks import assert_ours, assert_result, assert_same, conv, picture


class Two(nn.Module):
    """Two convolutions and what stands between them and a second input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 12)
        self.c = conv(15, 8)


class Residual(Two):
    def forward(self, x, r):
        return self.b(F.relu(self.a(x))) + r


class Sum(Two):
    """Of two convolutions."""

    def forward(self, x, r):
        return F.relu(self.b(self.a(x)) + self.b(self.a(r)))


class Base(Two):
    def forward(self, x, r):
        return F.pixel_shuffle(self.b(F.relu(self.a(x))), 2) + F.interpolate(r, scale_factor=2.0)


class Joined(Two):
    def forward(self, x, r):
        return self.c(torch.cat([self.b(self.a(x)), r], 1))


class Shuffled(Two):
    def forward(self, x, r):
        return F.pixel_unshuffle(self.b(self.a(x)), 2) + F.pixel_unshuffle(r, 2)


CHANNELS = {Residual: 12, Sum: 3, Base: 3, Joined: 3, Shuffled: 12}


def outcome(module, *args):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return module(*args)
        except Exception as error:
            return type(error)


def assert_outcome(ours, theirs, model, *args):
    """The same error, or a result of that dtype and shape, as exact as eager's."""
    if isinstance(theirs, type):
        assert ours is theirs
    else:
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert_result(ours, model, *args)


@pytest.mark.parametrize("kind", CHANNELS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("axis", "size"),
    [(0, 1), (0, 3), (1, 1), (2, 1), (3, 1), (2, 5), (3, 7)],
    ids=["one picture", "three pictures", "one channel", "one row", "one column", "5 rows", "7 columns"],
)
@pytest.mark.parametrize("first", [False, True], ids=["second", "first"])
def test_shapes_that_do_not_fit(kind, axis, size, first):
    torch.manual_seed(0)
    model = kind().eval()
    x, r = picture(2, 3, 8, 6), picture(2, CHANNELS[kind], 8, 6, seed=2)
    fast = optimize(model, (x, r))
    assert_ours(fast, x, r)
    shape = list((x if first else r).shape)
    shape[axis] = size
    other = picture(*shape, seed=3)
    given = (other, r) if first else (x, other)
    ours, theirs = outcome(fast, *given), outcome(model, *given)
    assert_outcome(ours, theirs, model, *given)


@pytest.mark.parametrize("kind", CHANNELS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
def test_dtypes_that_do_not_fit(kind, dtype):
    torch.manual_seed(0)
    model = kind().eval()
    x, r = picture(2, 3, 8, 6), picture(2, CHANNELS[kind], 8, 6, seed=2)
    fast = optimize(model, (x, r))
    ours, theirs = outcome(fast, x, r.to(dtype)), outcome(model, x, r.to(dtype))
    assert_outcome(ours, theirs, model, x, r.to(dtype))


class Placed(Two):
    """A parameter of the picture's size, as positions are embedded."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 8, 8, 6))

    def forward(self, x):
        return self.b(F.relu(self.a(x) + self.place))


@pytest.mark.parametrize("example", [1, 2])
def test_a_parameter_is_spread_over_a_batch(example):
    torch.manual_seed(0)
    model = Placed().eval()
    fast = optimize(model, picture(example, 3, 8, 6))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in (1, 2, 5):
            x = picture(batch, 3, 8, 6)
            assert_same(fast, model, x)
    assert_ours(fast, picture(5, 3, 8, 6))
    assert isinstance(outcome(fast, picture(1, 3, 8, 5)), type)


class Skip(nn.Module):
    """Halves and doubles: odd sizes do not come back."""

    def __init__(self):
        super().__init__()
        self.a, self.down = conv(3, 8), nn.Conv2d(8, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)

    def forward(self, x):
        h = self.a(x)
        return self.up(self.down(h)) + h


def test_sizes_that_do_not_come_back():
    torch.manual_seed(0)
    model = Skip().eval()
    fast = optimize(model)
    assert_ours(fast, picture(1, 3, 8, 6))
    for height, width in ((7, 6), (8, 5), (1, 1), (1, 6), (8, 1)):
        x = picture(1, 3, height, width)
        assert_outcome(outcome(fast, x), outcome(model, x), model, x)
