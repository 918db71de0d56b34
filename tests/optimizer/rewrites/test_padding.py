# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Pads of zeros in convolutions, pads of pads, pads of nothing."""

import pytest
from torch import nn

from sr_kernels import ops
from tests.optimizer.rewrites.small import F, Of, calls, check, shaken

NAME = "pad + conv"


@pytest.mark.parametrize("sides", [1, (1, 2, 0, 3), (0, 0, 2, 2)], ids=str)
@pytest.mark.parametrize("padding", [0, (1, 0), "same"], ids=str)
def test_zeros(sides, padding):
    module = nn.Sequential(nn.ZeroPad2d(sides), nn.Conv2d(3, 5, (1, 3), padding=padding))
    sizes = ((1, 9, 12), (2, 7, 5), (1, 3, 4))
    check(shaken(module), 3, NAME, 1, ["conv2d"], sizes=sizes, gradients=False)


def test_strided_and_dilated():
    module = nn.Sequential(nn.ZeroPad2d((3, 1, 2, 2)), nn.Conv2d(3, 5, 3, stride=2, dilation=2))
    found = check(shaken(module), 3, NAME, 1, ["conv2d"])
    assert calls(found, ops.conv2d)[0].kwargs["padding"] == (3, 1, 2, 2)


def test_several_readers():
    def forward(m, x):
        y = F.pad(x, (1, 1, 1, 1))
        return m.a(y) * m.b(y)

    module = Of(forward, a=nn.Conv2d(3, 5, 3), b=nn.Conv2d(3, 5, 3, padding=0))
    check(shaken(module), 3, NAME, 1, ["conv2d", "conv2d", "mul"])


def test_pads_of_pads_and_of_nothing():
    def forward(m, x):
        return m.conv(F.pad(F.pad(F.pad(x, (1, 0)), (0, 0, 0, 0)), (0, 2, 1, 1), value=0.0))

    module = Of(forward, conv=nn.Conv2d(3, 5, 3))
    found = check(shaken(module), 3, NAME, 3, ["conv2d"])
    assert calls(found, ops.conv2d)[0].kwargs["padding"] == (1, 2, 1, 1)


def test_before_an_enlargement():
    def forward(m, x):
        return m.conv(F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="nearest"))

    check(shaken(Of(forward, conv=nn.Conv2d(3, 5, 3))), 3, NAME, 0, ["pad", "conv2d"])


def test_after_an_enlargement():
    def forward(m, x):
        return m.conv(F.pad(F.interpolate(x, scale_factor=2, mode="nearest"), (1, 1, 1, 1)))

    check(shaken(Of(forward, conv=nn.Conv2d(3, 5, 3))), 3, NAME, 1, ["conv2d"])


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_not_other_modes(mode):
    def forward(m, x):
        return m.conv(F.pad(x, (1, 1, 1, 1), mode=mode))

    module = Of(forward, conv=nn.Conv2d(3, 5, 3))
    check(shaken(module), 3, NAME, 0, ["pad", "conv2d"], sizes=((1, 9, 12), (2, 7, 5), (1, 3, 4)))


def test_not_where_something_else_reads_it():
    def forward(m, x):
        y = F.pad(x, (1, 1, 1, 1))
        return m.conv(y).mean() * y

    check(shaken(Of(forward, conv=nn.Conv2d(3, 3, 3))), 3, NAME, 0, ["pad", "conv2d", "mean", "mul"])


def test_not_what_cuts():
    def forward(m, x):
        return m.conv(F.pad(x, (-1, 1, 2, 2)))

    sizes = ((1, 9, 12), (2, 7, 5))
    check(shaken(Of(forward, conv=nn.Conv2d(3, 3, 3))), 3, NAME, 0, ["pad", "conv2d"], sizes=sizes)


def test_not_other_values_than_zero():
    def forward(m, x):
        return m.conv(F.pad(x, (1, 1, 1, 1), value=0.5))

    check(shaken(Of(forward, conv=nn.Conv2d(3, 3, 3))), 3, NAME, 0, ["pad", "conv2d"])


def test_not_of_what_is_a_residual_too():
    def forward(m, x):
        y = F.pad(x, (1, 1, 1, 1))
        return m.conv(y) + y

    module = Of(forward, conv=nn.Conv2d(3, 3, 3, padding=1))
    check(shaken(module), 3, NAME, 0, ["pad", "conv2d"], sizes=((1, 9, 12), (2, 7, 5)))
