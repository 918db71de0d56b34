# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Luma, chroma and the bicubic enlargement, against other implementations."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2ycbcr

from sr_kernels.image.colour import BICUBIC_RADIUS, bicubic_enlarge, rgb_to_ycbcr, ycbcr_to_rgb


def test_ycbcr_is_scikit_images():
    rgb = torch.rand(2, 3, 9, 11, dtype=torch.float64)
    expected = np.stack([rgb2ycbcr(x.permute(1, 2, 0).numpy()) for x in rgb]) / 255
    np.testing.assert_allclose(rgb_to_ycbcr(rgb).permute(0, 2, 3, 1), expected, atol=1e-12)


def test_ycbcr_and_back():
    rgb = torch.rand(1, 3, 9, 11, dtype=torch.float64)
    torch.testing.assert_close(ycbcr_to_rgb(rgb_to_ycbcr(rgb)), rgb, atol=1e-12, rtol=0)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_pillows_away_from_the_borders(scale):
    x = np.random.default_rng(0).random((19, 23)).astype(np.float32)
    size = (23 * scale, 19 * scale)
    expected = np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BICUBIC))
    found = bicubic_enlarge(torch.from_numpy(x)[None, None], scale)[0, 0].numpy()
    edge = BICUBIC_RADIUS * scale
    # Both sum 16 products of values below 1 in float32, in different orders.
    np.testing.assert_allclose(
        found[edge:-edge, edge:-edge], expected[edge:-edge, edge:-edge], atol=32 * 2**-23
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (2, 2)])
def test_bicubic_of_tiny_and_flat_pictures(shape):
    x = torch.full((1, 2, *shape), 0.75)
    found = bicubic_enlarge(x, 3)
    assert found.shape == (1, 2, shape[0] * 3, shape[1] * 3)
    torch.testing.assert_close(found, torch.full_like(found, 0.75), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [2, 3, 5])
def test_bicubic_of_a_part_is_the_part_of_the_whole(scale):
    x = torch.rand(1, 1, 40, 50)
    whole = bicubic_enlarge(x, scale)
    r = BICUBIC_RADIUS
    part = bicubic_enlarge(x[:, :, 7 : 21 + r, 11 - r : 33 + r], scale)
    top = 2 * scale  # rows whose neighbours above were cut off
    expected = whole[:, :, 7 * scale + top : 21 * scale, 11 * scale : 33 * scale]
    assert torch.equal(part[:, :, top : 14 * scale, r * scale : (r + 22) * scale], expected)
