# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Batch norm in the kernels of convolutions, behind them and before them."""

import pytest
import torch
from torch import nn

from tests.optimizer.rewrites.small import Of, check, rewritten, shaken

NAME = "conv + batch norm"


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_behind(bias, affine, groups):
    conv = nn.Conv2d(6, 9, 3, padding=1, bias=bias, groups=groups)
    module = nn.Sequential(conv, nn.BatchNorm2d(9, affine=affine), nn.ReLU())
    found = check(shaken(module), 6, NAME, 1, ["conv2d"])
    assert found.counts["conv + activation"] == 1


@pytest.mark.parametrize("bias", [True, False])
def test_behind_a_transposed_convolution(bias):
    module = nn.Sequential(nn.ConvTranspose2d(5, 7, 2, 2, bias=bias), nn.BatchNorm2d(7), nn.PReLU(7))
    check(shaken(module), 5, NAME, 1, ["conv2d"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    module = nn.Sequential(nn.Conv2d(6, 9, 3, padding=1), nn.BatchNorm2d(9))
    check(shaken(module), 6, NAME, 1, ["conv2d"], dtype=dtype, gradients=False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_before_one_without_padding(bias, groups):
    module = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 8, (2, 3), bias=bias, groups=groups))
    check(shaken(module), 6, NAME, 1, ["conv2d"], sizes=((1, 9, 12), (2, 7, 5), (1, 2, 3)))


def test_not_before_one_with_padding():
    """The zeros around the norm's result are not the norm of zeros."""
    module = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, padding=1))
    check(shaken(module), 6, NAME, 0, ["batch_norm", "conv2d"])


def test_not_where_the_convolution_is_read_twice():
    def forward(m, x):
        y = m.conv(x)
        return m.norm(y) * y

    module = Of(forward, conv=nn.Conv2d(4, 4, 3, padding=1), norm=nn.BatchNorm2d(4))
    check(shaken(module), 4, NAME, 0, ["conv2d", "batch_norm", "mul"])


def test_not_behind_an_activation():
    module = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4))
    check(shaken(module), 4, NAME, 0, ["conv2d", "batch_norm"])


def test_not_of_the_batch_itself():
    module = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False))
    check(shaken(module), 4, NAME, 0, ["conv2d", "1"], sizes=((2, 9, 12), (2, 7, 5)), gradients=False)


def test_statistics_are_read_when_they_change():
    module = shaken(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)))
    found = rewritten(module, 4)
    x = torch.randn(1, 4, 6, 6)
    before = found.function(module, x)
    module[1].running_mean += 1.0
    after = found.function(module, x)
    assert (after - before).abs().min() > 0.1
