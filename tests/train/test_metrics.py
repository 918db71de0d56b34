# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""PSNR, SSIM and the bicubic resize against independent implementations and hand-made values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sr_kernels.image.metrics import luma, psnr_y, ssim_y
from sr_kernels.image.resize import bicubic, crop_to_multiple, degrade


def pair(rng: np.random.Generator, height: int = 61, width: int = 47) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture and a noisy version of it, (height, width, 3)."""
    small = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    a = bicubic(small, (height, width))
    return a, np.clip(a + rng.normal(0.0, 12.0, a.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [((0, 0, 0), 16.0), ((255, 255, 255), 235.0), ((255, 0, 0), 81.481), ((0, 255, 0), 144.553)],
)
def test_luma_of_pure_colours(colour: tuple[int, int, int], expected: float) -> None:
    assert luma(np.array([[colour]], np.uint8))[0, 0] == pytest.approx(expected, abs=1e-9)


def test_gray_luma_is_that_of_equal_colours(rng: np.random.Generator) -> None:
    gray = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    np.testing.assert_allclose(luma(gray), luma(np.repeat(gray[..., None], 3, axis=2)), rtol=1e-12)
    np.testing.assert_array_equal(luma(gray), luma(gray[..., None]))


@pytest.mark.parametrize("shave", [0, 4])
def test_psnr_agrees_with_scikit_image(rng: np.random.Generator, shave: int) -> None:
    a, b = pair(rng)
    inside = slice(shave, -shave or None)
    expected = peak_signal_noise_ratio(luma(a)[inside, inside], luma(b)[inside, inside], data_range=255)
    assert psnr_y(a, b, shave) == pytest.approx(expected, rel=1e-12)


def test_psnr_of_a_known_difference() -> None:
    # Gray levels one apart differ by 219/255 in luma.
    a, b = np.full((9, 9, 3), 100, np.uint8), np.full((9, 9, 3), 101, np.uint8)
    assert psnr_y(a, b) == pytest.approx(20.0 * math.log10(255.0 / (219.0 / 255.0)), rel=1e-9)
    assert psnr_y(a, a) == math.inf


def test_psnr_leaves_the_border_out() -> None:
    a = np.zeros((20, 20, 3), np.uint8)
    b = a.copy()
    b[:4] = b[-4:] = b[:, :4] = b[:, -4:] = 255
    assert psnr_y(a, b, 4) == math.inf
    assert psnr_y(a, b, 3) < 20.0


@pytest.mark.parametrize("shave", [0, 4])
def test_ssim_agrees_with_scikit_image(rng: np.random.Generator, shave: int) -> None:
    a, b = pair(rng)
    inside = slice(shave, -shave or None)
    expected = structural_similarity(
        luma(a)[inside, inside],
        luma(b)[inside, inside],
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    # scikit-image's window has 11 taps at this sigma, and its mean leaves the same 5 pixels out.
    assert ssim_y(a, b, shave) == pytest.approx(expected, abs=1e-7)
    assert ssim_y(a, a, shave) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("metric", [psnr_y, ssim_y])
def test_metrics_refuse_what_they_cannot_compare(metric, rng: np.random.Generator) -> None:
    a, b = pair(rng)
    with pytest.raises(ValueError, match="of one size"):
        metric(a, b[:-1])
    with pytest.raises(TypeError, match="uint8"):
        metric(a.astype(np.float32), b)
    with pytest.raises(ValueError, match="shave"):
        metric(a, b, -1)
    with pytest.raises(ValueError, match="shaved by 30"):
        metric(a, b, 30)
    with pytest.raises(ValueError, match="H, W, 3"):
        metric(a[..., :2], b[..., :2])


def keys(x: np.ndarray) -> np.ndarray:
    """Keys' cubic, a = -0.5."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1.0, -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def resize_matrix(inputs: int, outputs: int) -> np.ndarray:
    """(outputs, inputs): every output's weights, the kernel stretched when shrinking."""
    ratio = inputs / outputs
    centres = (np.arange(outputs) + 0.5) * ratio - 0.5
    weights = keys((np.arange(inputs)[None] - centres[:, None]) / max(ratio, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(12, 10), (24, 30), (17, 90), (48, 40), (1, 1)])
def test_bicubic_is_the_stretched_cubic_of_keys(size: tuple[int, int], rng: np.random.Generator) -> None:
    image = rng.uniform(0.0, 1.0, (24, 20, 3)).astype(np.float32)
    rows, columns = resize_matrix(24, size[0]), resize_matrix(20, size[1])
    expected = np.einsum("yi,ijc,xj->yxc", rows, image.astype(np.float64), columns)
    resized = bicubic(image, size)
    assert resized.dtype == np.float32
    # Two float32 passes of at most a few hundred terms each.
    np.testing.assert_allclose(resized, expected, atol=2e-6)


@pytest.mark.parametrize("size", [(12, 10), (24, 30), (17, 90), (48, 40)])
def test_eight_bits_are_rounded_after_each_pass(size: tuple[int, int], rng: np.random.Generator) -> None:
    # Values far enough from 0 and 255 that neither pass clamps.
    image = rng.integers(64, 192, (24, 20, 3), dtype=np.uint8)
    rows, columns = resize_matrix(24, size[0]), resize_matrix(20, size[1])
    exact = np.einsum("yi,ijc,xj->yxc", rows, image.astype(np.float64), columns)
    # Half a level at the end, half a level under the second pass's weights, and fixed-point slack.
    bound = 0.5 + 0.5 * np.abs(rows).sum(axis=1).max() + 0.1
    assert np.abs(bicubic(image, size) - exact).max() < bound


def test_sixteen_bits_are_rounded_and_clamped(rng: np.random.Generator) -> None:
    image = np.where(rng.random((16, 16)) < 0.5, 0, 65535).astype(np.uint16)
    resized = bicubic(image, (40, 40))
    assert resized.dtype == np.uint16
    exact = resize_matrix(16, 40) @ image.astype(np.float64) @ resize_matrix(16, 40).T
    np.testing.assert_allclose(resized, np.clip(exact, 0, 65535), atol=0.52)


def test_degrade_crops_to_a_multiple(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (31, 43, 3), dtype=np.uint8)
    low, high = degrade(image, 4)
    assert low.shape == (7, 10, 3)
    np.testing.assert_array_equal(high, image[:28, :40])
    with pytest.raises(ValueError, match="smaller than the multiple"):
        crop_to_multiple(image, 32)


def test_bicubic_refuses_bad_input() -> None:
    with pytest.raises(TypeError, match="float64"):
        bicubic(np.zeros((4, 4)), (2, 2))
    with pytest.raises(ValueError, match="H, W"):
        bicubic(np.zeros(4, np.uint8), (2, 2))
    with pytest.raises(ValueError, match="size"):
        bicubic(np.zeros((4, 4), np.uint8), (0, 2))
