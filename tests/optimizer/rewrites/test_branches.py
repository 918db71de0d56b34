# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Parallel convolutions, and convolutions in a row, as one."""

import pytest
import torch
from torch import nn

from sr_kernels import ops
from tests.optimizer.rewrites.small import F, Of, calls, check, rewritten, shaken

NAME = "convs into one"


class RepVGG(nn.Module):
    def __init__(self, channels, stride=1, groups=1):
        super().__init__()
        options = {"bias": False, "stride": stride, "groups": groups}
        self.large = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, **options), nn.BatchNorm2d(channels)
        )
        self.small = nn.Sequential(nn.Conv2d(channels, channels, 1, **options), nn.BatchNorm2d(channels))
        self.itself = nn.BatchNorm2d(channels) if stride == 1 else None

    def forward(self, x):
        y = self.large(x) + self.small(x)
        return F.relu(y if self.itself is None else y + self.itself(x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_repvgg(stride, groups):
    check(shaken(RepVGG(4, stride, groups)), 4, NAME, 1, ["conv2d"])


def test_edge_oriented_block():
    """3x3, 1x3, 3x1 and 1x1 beside the picture itself, with signs and factors."""

    def forward(m, x):
        return x - 0.5 * m.a(x) + (m.b(x) + m.c(x) * 2 - m.d(x) / 4)

    module = Of(
        forward,
        a=nn.Conv2d(5, 5, 3, padding=1),
        b=nn.Conv2d(5, 5, (1, 3), padding=(0, 1), bias=False),
        c=nn.Conv2d(5, 5, (3, 1), padding=(1, 0)),
        d=nn.Conv2d(5, 5, 1),
    )
    found = check(shaken(module), 5, NAME, 1, ["conv2d"])
    assert not calls(found, ops.conv2d)[0].kwargs.get("residual")


def test_two_sizes_without_bias():
    def forward(m, x):
        return m.a(x) + m.b(x)

    module = Of(
        forward,
        a=nn.Conv2d(3, 5, 5, padding=2, bias=False),
        b=nn.Conv2d(3, 5, 3, padding=1, bias=False),
    )
    found = check(shaken(module), 3, NAME, 1, ["conv2d"])
    assert calls(found, ops.conv2d)[0].args[2] is None


@pytest.mark.parametrize("dilation", [2, 3])
def test_dilated(dilation):
    def forward(m, x):
        return m.a(x) + m.b(x)

    module = Of(
        forward,
        a=nn.Conv2d(3, 5, 3, padding=dilation, dilation=dilation),
        b=nn.Conv2d(3, 5, 1),
    )
    check(shaken(module), 3, NAME, 1, ["conv2d"])


def test_of_what_else_is_added():
    """The rest of a sum stays: another picture's convolution, and a residual."""

    def forward(m, x):
        y = m.first(x)
        return m.a(y) + m.other(x) - x + m.b(y)

    module = Of(
        forward,
        first=nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
        a=nn.Conv2d(4, 4, 3, padding=1),
        b=nn.Conv2d(4, 4, 1),
        other=nn.Conv2d(4, 4, 3, padding=1),
    )
    check(shaken(module), 4, NAME, 1, ["conv2d"] * 3)


def two(a, b, forward=lambda m, x: m.a(x) + m.b(x), **more):
    return shaken(Of(forward, a=a, b=b, **more))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=2, dilation=2)),
        (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)),
        (nn.Conv2d(3, 3, (1, 7), padding=(0, 3)), nn.Conv2d(3, 3, (7, 1), padding=(3, 0))),
    ],
    ids=["other dilation", "other groups", "more taps than both"],
)
def test_not_what_does_not_fit(a, b):
    check(two(a, b), a.in_channels, NAME, 0, ["conv2d", "conv2d"])


def test_not_off_the_centre():
    """The kernels lie a pixel apart: neither covers the other."""
    a, b = nn.Conv2d(3, 3, 3, padding=1), nn.Sequential(nn.ZeroPad2d((2, 0, 2, 0)), nn.Conv2d(3, 3, 3))
    check(two(a, b), 3, NAME, 0, ["conv2d", "conv2d"])


def test_off_the_centre_within_the_other():
    a = nn.Conv2d(3, 3, 5, padding=2)
    b = nn.Sequential(nn.ZeroPad2d((2, 0, 0, 2)), nn.Conv2d(3, 3, 3))
    check(two(a, b), 3, NAME, 1, ["conv2d"])


def test_not_the_picture_beside_one():
    """That is a residual."""
    module = shaken(Of(lambda m, x: m.a(x) + x, a=nn.Conv2d(3, 3, 3, padding=1)))
    found = check(module, 3, NAME, 0, ["conv2d"])
    assert calls(found, ops.conv2d)[0].kwargs["residual"]


def test_not_where_a_branch_is_read_twice():
    def forward(m, x):
        y = m.a(x)
        return (y + m.b(x)) * y

    module = two(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), forward)
    check(module, 3, NAME, 0, ["conv2d", "conv2d", "mul"])


def test_not_of_different_pictures():
    def forward(m, x):
        return m.a(x) + m.b(x.flip(2))

    module = two(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), forward)
    check(module, 3, NAME, 0, ["conv2d", "conv2d", "flip"])


# In a row.


def bottleneck(bias_first, padding, *, before=0):
    layers = [nn.Conv2d(4, 9, 1, padding=before, bias=bias_first), nn.Conv2d(9, 8, 3, padding=padding)]
    return shaken(nn.Sequential(*layers, nn.Conv2d(8, 5, 1)))


def test_a_row_without_bias():
    check(bottleneck(False, 1), 4, NAME, 2, ["conv2d"])


def test_a_row_padded_before():
    found = check(bottleneck(True, 0, before=1), 4, NAME, 2, ["conv2d"])
    assert calls(found, ops.conv2d)[0].kwargs["padding"] == 1


def test_a_row_behind_a_pad():
    module = shaken(nn.Sequential(nn.ZeroPad2d(1), *bottleneck(True, 0)))
    check(module, 4, NAME, 2, ["conv2d"])


@pytest.mark.parametrize("stride", [1, 2])
def test_a_row_without_padding(stride):
    module = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Conv2d(6, 5, 3, stride=stride))
    check(shaken(module), 4, NAME, 1, ["conv2d"], sizes=((1, 9, 12), (2, 7, 5), (1, 3, 4)))


def test_only_the_end_of_a_row_padded_in_the_middle():
    """The zeros around the first one's result are not its bias."""
    check(bottleneck(True, 1), 4, NAME, 1, ["conv2d"] * 2)


def test_not_where_it_costs_more():
    module = nn.Sequential(nn.Conv2d(8, 2, 1, bias=False), nn.Conv2d(2, 8, 3, padding=1))
    check(shaken(module), 8, NAME, 0, ["conv2d"] * 2)


def test_not_through_an_activation():
    module = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1))
    check(shaken(module), 4, NAME, 0, ["conv2d"] * 2)


def test_merged_kernels_are_rounded_once():
    module = shaken(RepVGG(3))
    found = rewritten(module, 3)
    rounded = [n for n in found.graph.nodes if getattr(n.target, "__name__", "") == "rounded"]
    assert len(rounded) == 2  # kernel and bias
    weight = next(n for n in found.graph.nodes if n.op == "call_function" and n.target is ops.conv2d).args[1]
    assert weight in rounded
    assert torch.is_tensor(module.large[0].weight)
