# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""EDSR's and ESRGAN's blocks against plain ones with the same state dict."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch

from sr_kernels import nn as srnn
from sr_kernels import ops
from tests.models import plain
from tests.nn.test_conv import assert_same

BLOCKS = {
    "ResidualBlock": (lambda: srnn.ResidualBlock(12, res_scale=0.1), lambda: plain.EDSRBlock(12, 0.1)),
    "ResidualDenseBlock": (lambda: srnn.ResidualDenseBlock(12, 6), lambda: plain.DenseBlock(12, 6)),
    "RRDB": (lambda: srnn.RRDB(10, 5), lambda: plain.RRDB(10, 5)),
}


def pair(name):
    fused, reference = (build() for build in BLOCKS[name])
    plain.kaiming_(reference)
    fused.load_state_dict(reference.state_dict())
    assert list(fused.state_dict()) == list(reference.state_dict())
    return fused, reference


@pytest.mark.parametrize("name", BLOCKS)
def test_equals_the_plain_block(name):
    fused, reference = pair(name)
    channels = next(fused.parameters()).shape[1]
    assert_same(fused, reference, torch.randn(2, channels, 7, 9, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("name", BLOCKS)
def test_copies(name):
    fused, _ = pair(name)
    x = torch.rand(1, next(fused.parameters()).shape[1], 6, 5)
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert torch.equal(twin(x), fused(x))
    assert copy.deepcopy(fused).to(torch.bfloat16)(x.to(torch.bfloat16)).dtype == torch.bfloat16
    assert "scale=0.2" in repr(fused) or name == "ResidualBlock"


def test_an_rrdb_is_three_ops(monkeypatch):
    """The last one's store adds both residuals: 0.04*conv5 + 0.2*x3 + x."""
    calls = []
    run = ops.dense_block
    monkeypatch.setattr(ops, "dense_block", lambda *a, **k: (calls.append(k), run(*a, **k))[1])
    fused, _ = pair("RRDB")
    x = torch.rand(1, 10, 6, 5)
    fused(x)
    assert len(calls) == 3
    assert calls[2]["scale"] == pytest.approx(0.04)
    assert calls[2]["input_scale"] == 0.2
    assert calls[2]["residual"] is x
    assert [c["residual"] for c in calls[:2]] == [None, None]


def test_other_slopes_and_scales():
    fused = srnn.ResidualDenseBlock(4, 3, negative_slope=0.1, scale=0.5).double()
    x = torch.randn(1, 4, 5, 5).double()
    features = x
    for i in range(1, 5):
        conv = fused.get_submodule(f"conv{i}")
        features = torch.cat([features, torch.nn.functional.leaky_relu(conv(features), 0.1)], 1)
    torch.testing.assert_close(fused(x), 0.5 * fused.conv5(features) + x)


def weight_norm_by_hook(conv):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.utils.weight_norm(conv)
    conv.weight_g.data *= 2  # what a trainer's step does: the weight is stale until the hook runs


def weight_norm_by_parametrisation(conv):
    torch.nn.utils.parametrizations.weight_norm(conv)
    conv.parametrizations.weight.original0.data *= 2


def hook(conv):
    conv.register_forward_hook(lambda module, inputs, output: 2 * output)


def pre_hook(conv):
    conv.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


@pytest.mark.parametrize("change", [weight_norm_by_hook, weight_norm_by_parametrisation, hook, pre_hook])
@pytest.mark.parametrize("position", [1, 3, 5])
@pytest.mark.parametrize("name", ["ResidualDenseBlock", "RRDB"])
def test_hooks_and_parametrisations_of_members_count(name, position, change):
    fused, reference = pair(name)
    x = torch.randn(2, next(fused.parameters()).shape[1], 7, 9, generator=torch.Generator().manual_seed(2))
    before = fused(x)
    for block in (fused, reference):
        change(dict(block.named_modules())["rdb3." * (name == "RRDB") + f"conv{position}"])
    assert not torch.allclose(fused(x), before)
    torch.testing.assert_close(fused(x), reference(x))


def test_a_replaced_member_counts():
    fused, reference = pair("ResidualDenseBlock")
    for block in (fused, reference):
        block.conv2 = torch.nn.Sequential(block.conv2, torch.nn.Tanh())
    x = torch.rand(1, 12, 6, 5)
    torch.testing.assert_close(fused(x), reference(x))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"channels": 0}, ValueError, "^ResidualBlock: channels is 0; give a positive"),
        ({"channels": 8, "kernel_size": 2}, ValueError, "^ResidualBlock: kernel_size is 2; give an odd"),
        ({"channels": 8, "kernel_size": -1}, ValueError, "^ResidualBlock: kernel_size is -1"),
        ({"channels": 8.0}, TypeError, "^ResidualBlock: channels is 8.0; give an integer"),
    ],
)
def test_bad_arguments_of_a_residual_block(arguments, error, match):
    with pytest.raises(error, match=match):
        srnn.ResidualBlock(**arguments)
