# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of thin convolutions as one op, and what ends a run."""

import pytest
import torch
from torch import nn

from sr_kernels import ops
from tests.models import plain
from tests.optimizer.rewrites.small import Of, calls, check, rewritten, shaken

NAME = "chain of convs"


def thin(*more):
    return shaken(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), *more))


def test_the_last_may_have_all():
    def forward(m, x):
        y = nn.functional.pixel_shuffle(m.b(nn.functional.relu(m.a(x))), 2)
        return y + nn.functional.interpolate(x, scale_factor=2, mode="bilinear")

    module = Of(forward, a=nn.Conv2d(3, 8, (1, 3), padding=(0, 1)), b=nn.Conv2d(8, 12, 3, padding=1))
    found = check(shaken(module), 3, NAME, 1, ["conv2d_chain"])
    _, layers = calls(found, ops.conv2d_chain)[0].args
    assert layers[0]["activation"] == "relu"
    assert layers[1]["base_mode"] == "bilinear"


def test_a_residual_of_the_runs_input():
    module = Of(lambda m, x: m.b(m.a(x)) * 0.1 + x, a=nn.Conv2d(3, 8, 3, 1, 1), b=nn.Conv2d(8, 3, 3, 1, 1))
    check(shaken(module), 3, NAME, 1, ["conv2d_chain"])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),
        nn.Conv2d(8, 8, 3, padding=1, stride=2),
    ],
    ids=["groups", "dilation", "stride"],
)
def test_not_through(layer):
    check(thin(layer, nn.ReLU()), 3, NAME, 0, ["conv2d", "conv2d"])


def test_a_run_ends_where_a_result_is_read_twice():
    def forward(m, x):
        y = m.a(x)
        return m.c(nn.functional.relu(m.b(y))) + y

    module = Of(
        forward,
        a=nn.Conv2d(3, 8, 3, 1, 1),
        b=nn.Conv2d(8, 8, 3, 1, 1),
        c=nn.Conv2d(8, 8, 3, 1, 1),
    )
    check(shaken(module), 3, NAME, 1, ["conv2d", "conv2d_chain"])


def test_a_run_ends_with_a_shuffle():
    module = thin(nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(8, 3, 3, padding=1))
    check(module, 3, NAME, 1, ["conv2d_chain", "conv2d"])


def test_not_of_wide_layers():
    module = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))
    check(shaken(module), 64, NAME, 0, ["conv2d", "conv2d"], sizes=((1, 9, 12), (2, 7, 5)), gradients=False)


@pytest.mark.parametrize(("case", "layers"), [("espcn x3", 3), ("fsrcnn x3", 8), ("fsrcnn x4 colour", 6)])
def test_networks_are_one_chain(case, layers):
    module = plain.build(case)
    channels = module.first_part[0].in_channels
    found = rewritten(module, channels)
    (node,) = calls(found, ops.conv2d_chain)
    assert len(node.args[1]) == layers
    assert not calls(found, ops.conv2d)


def test_not_of_vectors():
    def forward(m, x):
        return x * torch.sigmoid(m.b(nn.functional.silu(m.a(x.mean((2, 3), keepdim=True)))))

    module = Of(forward, a=nn.Conv2d(8, 4, 1), b=nn.Conv2d(4, 8, 1))
    check(shaken(module), 8, NAME, 0, ["mean", "conv2d", "conv2d", "mul"])


def test_a_run_ends_where_its_end_is_a_residual_too():
    """One node reads it, but twice."""

    def forward(m, x):
        y = nn.functional.relu(m.a(x))
        return y + m.b(y)

    module = Of(forward, a=nn.Conv2d(3, 8, 3, 1, 1), b=nn.Conv2d(8, 8, 3, 1, 1))
    check(shaken(module), 3, NAME, 0, ["conv2d", "conv2d"])
