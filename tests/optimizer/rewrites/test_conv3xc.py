# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""SPAN's convolution: one of 3x3, whose kernel follows from the four that were trained."""

import copy

import pytest
import torch
from torch import nn

from sr_kernels.optimizer.graph.capture import capture
from tests.closeness import assert_as_close_together
from tests.optimizer.rewrites.small import F, check, shaken


class Conv3XC(nn.Module):
    """As described in conv3xc.py; merged at every call of eval mode."""

    def __init__(self, ci, co, gain=2, stride=1, relu=False, padding=0):
        super().__init__()
        self.has_relu = relu
        self.merged = None
        self.sk = nn.Conv2d(ci, co, 1, stride)
        self.conv = nn.Sequential(
            nn.Conv2d(ci, ci * gain, 1, padding=padding),
            nn.Conv2d(ci * gain, co * gain, 3, stride),
            nn.Conv2d(co * gain, co, 1),
        )
        self.eval_conv = nn.Conv2d(ci, co, 3, stride, 1).requires_grad_(False)

    def separate(self, x):
        return self.conv(F.pad(x, (1, 1, 1, 1))) + self.sk(x)

    def update_params(self):
        a, b, c = self.conv
        # what each tap gives: the impulse's answers, turned, without what zeros give
        ci, k = a.in_channels, 3
        impulse = torch.zeros(ci, ci, 2 * k - 1, 2 * k - 1, dtype=a.weight.dtype)
        impulse[range(ci), range(ci), k - 1, k - 1] = 1
        taps = F.conv2d(F.conv2d(impulse, a.weight), b.weight)
        taps = F.conv2d(taps, c.weight).flip(2, 3).transpose(0, 1)
        zero = self.conv(torch.zeros(1, ci, 3, 3, dtype=a.weight.dtype)).flatten()
        self.merged = taps + F.pad(self.sk.weight, (1, 1, 1, 1))
        self.eval_conv.weight.data = self.merged.detach().contiguous()
        self.eval_conv.bias.data = (zero + self.sk.bias).detach()

    def forward(self, x):
        if self.training:
            y = self.separate(x)
        else:
            self.update_params()
            y = self.eval_conv(x)
        return F.leaky_relu(y, 0.05) if self.has_relu else y


@pytest.mark.parametrize("relu", [False, True])
def test_as_one_convolution(relu):
    module = nn.Sequential(Conv3XC(4, 5, relu=relu), nn.Identity())
    found = check(shaken(module), 4, "conv + activation", int(relu), ["conv2d"], gradients=False)
    assert not any("eval_conv" in str(node.target) for node in found.graph.nodes)


def test_gradients_reach_the_sources():
    """Those of the module in training mode, where nothing is detached."""
    module = shaken(nn.Sequential(Conv3XC(4, 5), nn.Identity()))
    found = check(module, 4, "conv + activation", 0, ["conv2d"], gradients=False)
    x = torch.randn(1, 4, 6, 7)
    sources = [p for name, p in module.named_parameters() if "eval_conv" not in name]
    ours = torch.autograd.grad(found.function(module, x).square().sum(), sources)
    theirs = torch.autograd.grad(module[0].separate(x).square().sum(), sources)
    exact = copy.deepcopy(module).double()
    truth = torch.autograd.grad(
        exact[0].separate(x.double()).square().sum(),
        [p for name, p in exact.named_parameters() if "eval_conv" not in name],
    )
    assert_as_close_together(ours, theirs, truth)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(Conv3XC(4, 4, padding=1)),
        nn.Sequential(Conv3XC(4, 4, relu=None)),
    ],
    ids=["padded in the middle", "no relu known"],
)
def test_not_what_is_made_otherwise(module):
    found = capture(shaken(module))
    assert list(found.inner) == ["0"]
    assert found.inner["0"].graph is None


def test_not_with_hooks():
    module = shaken(nn.Sequential(Conv3XC(4, 4), nn.Conv2d(4, 4, 1)))
    module[0].sk.register_forward_hook(lambda m, args, y: y)
    assert "0" in capture(module).inner
