# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""conv_transpose2d keeps what it makes of its weights: made once, and made again whenever they change."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F

from sr_kernels import ops
from sr_kernels.ops import _conv2d, _library

X = torch.randn(1, 4, 5, 6)


def ours(module):
    return ops.conv_transpose2d(X, module.weight, module.bias, stride=2, padding=1)


@pytest.fixture
def given(monkeypatch):
    """The arguments of each convolution that runs."""
    calls = []

    def record(*args):
        calls.append(args)
        return op(*args)

    op = _conv2d.call
    monkeypatch.setattr(_conv2d, "call", record)
    return calls


def test_made_once(given):
    weight, bias, slopes = torch.randn(4, 3, 4, 4), torch.randn(3), torch.rand(3)
    for _ in range(2):
        ops.conv_transpose2d(X, weight, bias, stride=2, activation="prelu", prelu_weight=slopes)
    first, second = given
    for i in (1, 2, 10):
        assert first[i] is second[i]


def test_two_strides_are_kept_beside_each_other(given):
    weight = torch.randn(4, 3, 4, 4)
    for stride in (2, 4, 2, 4):
        ops.conv_transpose2d(X, weight, stride=stride)
    assert given[0][1] is given[2][1]
    assert given[1][1] is given[3][1]


@torch.no_grad()
def test_storage_swapped_under_the_weight():
    """Neither the version nor, where the allocator gives it out again, the address tells a new storage."""
    for _ in range(20):
        module = torch.nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)
        ours(module)
        module.half()
        module.float()
        torch.testing.assert_close(ours(module), module(X))
        module.weight.data = module.weight.data * 2
        module.bias.data = module.bias.data + 1
        torch.testing.assert_close(ours(module), module(X))


@torch.no_grad()
def test_the_same_storage_seen_otherwise():
    weight = torch.nn.Parameter(torch.randn(4, 3, 4, 4))
    ops.conv_transpose2d(X, weight, stride=2)
    weight.data = weight.data.transpose(2, 3)
    torch.testing.assert_close(
        ops.conv_transpose2d(X, weight, stride=2), F.conv_transpose2d(X, weight, stride=2)
    )


@torch.no_grad()
def test_written_to():
    module = torch.nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)
    ours(module)
    module.weight.mul_(3)
    module.bias.add_(1)
    torch.testing.assert_close(ours(module), module(X))


@torch.no_grad()
def test_dropped_with_the_weight():
    weight = torch.randn(4, 3, 4, 4)
    ops.conv_transpose2d(X, weight, stride=2)
    kept = len(_library._cache)
    del weight
    gc.collect()
    assert len(_library._cache) < kept
