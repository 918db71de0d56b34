# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The receptive radius is exact: beyond it no bit changes, at it something does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sr_kernels
from sr_kernels import models
from sr_kernels import nn as srnn
from sr_kernels.nn.geometry import input_range, receptive_radius
from tests.models import plain


def visible(model):
    """Positive weights, so that no activation cuts a path; small where a tanh would saturate."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.5, 1.5, generator=generator)
            if parameter.dim() == 4:
                parameter /= parameter[0].numel()
    return model.double()


def prepared(case):
    """(model, radius, an input with room for the radius around `centre`, a tile origin, centre)"""
    name, sizes = plain.SMALL[case]
    model = visible(models.create(name, **sizes))
    radius, multiple = model.receptive_radius(), model.input_multiple
    centre = (radius // multiple + 1) * multiple
    generator = torch.Generator().manual_seed(1)
    size = 2 * centre + multiple
    x = torch.rand(1, model.in_channels, size, size, generator=generator, dtype=torch.float64)
    return model, radius, x, centre


@pytest.mark.parametrize("case", plain.SMALL)
def test_beyond_the_radius_no_bit_changes(case):
    model, radius, x, centre = prepared(case)
    with torch.no_grad(), sr_kernels.use_backend("torch"):
        y = model(x)
        for p in range(centre, centre + model.input_multiple):
            changed = x.clone()
            changed[:, :, p, p] += 1e9
            positions = (model(changed) != y).any(1)[0].nonzero() // model.scale
            assert len(positions) > 0
            assert (positions - p).abs().max() <= radius


@pytest.mark.parametrize("case", plain.SMALL)
def test_at_the_radius_something_changes(case):
    """By gradients: what arrives from the last pixel of a deep network is below a sum's last bit."""
    model, radius, x, centre = prepared(case)
    x.requires_grad_()
    y = model(x)
    scale, reach = model.scale, [0, 0]
    for o in range(centre * scale, (centre + model.input_multiple) * scale):
        (gradient,) = torch.autograd.grad(y[:, :, o, o].sum(), x, retain_graph=True)
        touched = gradient.abs().sum((0, 1)).nonzero() - o // scale
        reach = [max(r, t.abs().max().item()) for r, t in zip(reach, touched.T, strict=True)]
    assert reach == [radius, radius]


@pytest.mark.parametrize(
    ("name", "sizes", "radius"),
    [
        ("srvgg", {"num_conv": 16}, 18),
        ("srvgg", {"num_conv": 32}, 34),
        ("edsr", {}, 36),
        ("rrdbnet", {"num_block": 6}, 94),
        ("rrdbnet", {}, 349),
    ],
)
def test_published_networks(name, sizes, radius):
    with torch.device("meta"):
        assert models.create(name, **sizes).receptive_radius() == radius


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(1, 1, 5, padding=2),
        nn.Conv2d(1, 1, (3, 5), padding="same", dilation=2),
        nn.Conv2d(1, 1, 4, padding="same"),
        nn.Conv2d(1, 1, 3, padding="valid"),
        nn.Conv2d(1, 1, 3, stride=2, padding=1),
        nn.ConvTranspose2d(1, 1, 9, stride=3, padding=4, output_padding=2),
        nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1),
        nn.PixelUnshuffle(2),
        nn.PixelShuffle(2),
        srnn.PixelShuffleConv2d(1, 1, 3, padding=1, upscale_factor=3),
        srnn.UpsampleConv2d(1, 1, 3, padding=1, scale_factor=2),
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.PReLU(), nn.PixelShuffle(2)),
        srnn.ResidualBlock(1),
    ],
    ids=str,
)
def test_input_range_is_what_gradients_reach(module):
    """For every output row and column: the first and last input pixel with a gradient."""
    visible(module)
    channels = 4 if isinstance(module, nn.PixelShuffle) else 1
    x = torch.rand(1, channels, 24, 24).double().requires_grad_()
    y = module(x)
    for axis in (0, 1):
        length = y.shape[2 + axis]
        for o in range(length // 3, 2 * length // 3):  # off the borders
            (gradient,) = torch.autograd.grad(y.select(2 + axis, o).sum(), x, retain_graph=True)
            touched = gradient.abs().sum((0, 1, 3 - axis)).nonzero().flatten()
            assert (touched.min().item(), touched.max().item()) == input_range(module, o, o, axis)


def test_unknown_modules_are_named():
    with pytest.raises(TypeError, match="AdaptiveAvgPool2d"):
        receptive_radius([nn.AdaptiveAvgPool2d(1)], 1, 1)
    with pytest.raises(ValueError, match="circular"):
        receptive_radius([nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")], 1, 1)
