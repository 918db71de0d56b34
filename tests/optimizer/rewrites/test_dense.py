# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Residual dense blocks as one op, alone and within RRDBs."""

import pytest
import torch
from torch import nn

from sr_kernels import ops
from tests.models import plain
from tests.optimizer.rewrites.small import F, calls, check, rewritten, shaken

NAME = "dense block"
SIZES = ((1, 9, 12), (2, 7, 5), (1, 1, 3))


class Block(nn.Module):
    """Of any number of layers; the changes make it another thing."""

    def __init__(self, count=3, *, slopes=None, change="", kernel=3, activation=None):
        super().__init__()
        self.convs = nn.ModuleList()
        channels = 6
        for i in range(count):
            out = 6 if i == count - 1 else 4
            self.convs.append(nn.Conv2d(channels, out, kernel, padding=kernel // 2))
            channels += out
        self.slopes = slopes or [0.2] * (count - 1)
        self.change = change
        self.activation = activation

    def forward(self, x):
        features = [x]
        for conv, slope in zip(self.convs[:-1], self.slopes, strict=True):
            y = conv(torch.cat(features, 1))
            features.append(self.activation(y) if self.activation else F.leaky_relu(y, slope))
        if self.change == "order":
            features[-1], features[-2] = features[-2], features[-1]
        y = self.convs[-1](torch.cat(features, 1)) * 0.2
        if self.change == "no input":
            return y
        if self.change == "read":
            return y + x, features[-1]
        return y + x


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("kernel", [1, 3])
def test_alone(count, kernel):
    found = check(shaken(Block(count, kernel=kernel)), 6, NAME, 1, ["dense_block"], sizes=SIZES)
    (node,) = calls(found, ops.dense_block)
    assert len(node.args[1]) == count
    assert node.kwargs == {
        "negative_slope": 0.2,
        "scale": 0.2,
        "input_scale": 1.0,
    }


def test_the_outer_sum_is_the_last_blocks():
    module = shaken(plain.RRDB(6, 4))
    found = check(module, 6, NAME, 3, ["dense_block"] * 3, sizes=SIZES)
    last = calls(found, ops.dense_block)[-1].kwargs
    assert last["scale"] == pytest.approx(0.04)
    assert last["input_scale"] == pytest.approx(0.2)
    assert [weight for _, weight in last["residual"]] == [1.0]


class Nested(nn.Module):
    """Concatenations of concatenations."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(6, 4, 3, 1, 1),
            nn.Conv2d(10, 4, 3, 1, 1),
            nn.Conv2d(14, 6, 3, 1, 1),
        )

    def forward(self, x):
        one = torch.cat([x, F.leaky_relu(self.a(x), 0.1)], 1)
        two = torch.cat((one, F.leaky_relu(self.b(one), 0.1)), dim=1)
        return x + self.c(two)


def test_nested_concatenations():
    check(shaken(Nested()), 6, NAME, 1, ["dense_block"], sizes=SIZES)


@pytest.mark.parametrize(
    "module",
    [
        Block(slopes=[0.2, 0.1]),
        Block(activation=torch.tanh),
        Block(change="order"),
        Block(change="no input"),
    ],
    ids=["two slopes", "another activation", "another order", "no input added"],
)
def test_not(module):
    check(shaken(module), 6, NAME, 0, ["conv2d", "cat", "conv2d", "cat", "conv2d"], sizes=SIZES)


def test_not_where_a_feature_is_read_elsewhere():
    found = rewritten(shaken(Block(change="read")), 6, SIZES)
    assert found.counts[NAME] == 0
    assert not calls(found, ops.dense_block)


def test_every_block_of_a_network():
    module = plain.RRDBNet(num_feat=8, num_block=23, num_grow_ch=4)
    found = rewritten(shaken(module), 3)
    assert found.counts[NAME] == 69
    assert len(calls(found, ops.dense_block)) == 69
