# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Transposed convolutions, as convolutions where their size allows, as themselves elsewhere."""

import pytest
import torch
from torch import nn

from sr_kernels import ops
from tests.optimizer.rewrites.small import Of, calls, check, shaken

NAME = "transposed conv"


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 9, "stride": 3, "padding": 4, "output_padding": 2},  # FSRCNN
        {"kernel_size": 9, "stride": 2, "padding": 4, "output_padding": 1},
        {"kernel_size": 2, "stride": 2, "bias": False},  # DRUNet
        {"kernel_size": 4, "stride": 2, "padding": 1},
        {"kernel_size": (6, 4), "stride": 2, "padding": (2, 1)},
        {"kernel_size": 3, "stride": 1, "padding": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.LeakyReLU(0.1), nn.PReLU(), nn.PReLU(3)], ids=str)
def test_as_a_convolution(options, activation):
    layers = [nn.ConvTranspose2d(5, 3, **options), *([activation] if activation else [])]
    found = check(shaken(nn.Sequential(*layers)), 5, NAME, 1, ["conv2d"])
    stride = options["stride"]
    assert calls(found, ops.conv2d)[0].kwargs.get("pixel_shuffle", 1) == stride


def test_with_a_base():
    module = Of(
        lambda m, x: m.up(x) + nn.functional.interpolate(x, scale_factor=2, mode="nearest"),
        up=nn.ConvTranspose2d(3, 3, 4, 2, 1),
    )
    found = check(shaken(module), 3, NAME, 1, ["conv2d"])
    assert calls(found, ops.conv2d)[0].kwargs["base_mode"] == "nearest"


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 4, "stride": (2, 1), "padding": 1}],
    ids=["off the stride", "two strides"],
)
def test_kept_as_itself(options):
    module = nn.Sequential(nn.ConvTranspose2d(5, 4, **options), nn.PReLU(4))
    sizes = ((1, 9, 12), (2, 7, 5), (1, 3, 4))
    check(shaken(module), 5, NAME, 0, ["conv_transpose2d"], sizes=sizes)


@pytest.mark.parametrize("options", [{"groups": 2}, {"dilation": 2}], ids=str)
def test_left_to_torch(options):
    module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 4, 2, 1, **options))
    check(shaken(module), 4, NAME, 0, ["conv2d", "1"])


def test_an_output_size_is_left_to_torch():
    module = Of(
        lambda m, x: m.up(x, output_size=(2 * x.shape[2], 2 * x.shape[3])),
        up=nn.ConvTranspose2d(4, 4, 3, 2, 1),
    )
    found = check(
        shaken(module), 4, NAME, 0, ["up", "getattr", "getitem", "mul", "getattr", "getitem", "mul"]
    )
    assert isinstance(module.up.weight, torch.Tensor)
    assert found
