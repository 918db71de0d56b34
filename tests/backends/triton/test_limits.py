# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What is too large for a kernel's offsets or a launch's grid, by tensors that hold no memory."""

from __future__ import annotations

import pytest
import torch

from sr_kernels.backends.base import ConvArgs, DenseBlockArgs
from sr_kernels.backends.triton import backend, moves

pytestmark = pytest.mark.usefixtures("interpreted")


def empty(shape, strides=None):
    if strides is None:
        _, c, h, w = shape
        strides = c * h * w, 1, c * w, c
    return torch.empty_strided(shape, strides, dtype=torch.float16, device="meta")


def refused(op, args):
    return any("offsets of 32 bits" in reason for reason in backend.TritonBackend().reasons(op, args))


def conv(x, co=8, **rest):
    weight = torch.empty(co, x.shape[1], 3, 3, dtype=torch.float16, device="meta")
    return ConvArgs(x, weight, padding=(1, 1, 1, 1), **rest)


@pytest.mark.parametrize(
    ("x", "long"),
    [
        (empty((1, 9, 16384, 16384)), False),
        # transposed: a step along a row is one of 147,456 elements
        (empty((1, 9, 16384, 16384), (0, 1, 9, 9 * 16384)), True),
        (empty((1, 9, 128, 14563), (0, 1, 9, 9 * 16384)), False),
        # planes, whose copy is dense, and one channel, of which there is no copy
        (empty((1, 9, 16384, 16384), (0, 16384 * 16384, 1, 16384)), False),
        (empty((1, 1, 16384, 65536), (0, 1, 1, 16384)), False),
        (empty((1, 1, 16384, 65536), (0, 1, 1, 65536)), True),
    ],
    ids=lambda value: str(tuple(value.stride())) if isinstance(value, torch.Tensor) else str(value),
)
def test_long_rows_are_refused(x, long):
    assert refused("conv2d", conv(x)) == long


def test_all_that_a_layer_reads_and_writes_counts():
    x = empty((1, 8, 16384, 16384))
    across = empty((1, 16, 16384, 16384), (0, 1, 16, 16 * 16384))
    assert not refused("conv2d", conv(x, 16))
    assert refused("conv2d", conv(x, 16, residuals=[(across, 1.0)]))
    assert refused("conv2d", conv(x, 16, base=across))
    # a tile of the result: 128 rows of 4 pixels each
    assert refused("conv2d", conv(x, 80 * 16, pixel_shuffle=4))


def test_dense_blocks_count_what_grows():
    def block(growth):
        x = empty((1, 64, 16, 64_000))
        sides = [*growth, 64]
        weights = [empty((co, 64 + sum(sides[:i]), 3, 3)) for i, co in enumerate(sides)]
        return DenseBlockArgs(x, weights, [None] * len(weights))

    assert not refused("dense_block", block([32, 32]))
    assert refused("dense_block", block([128, 128]))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [256, 36])
def test_shuffles_of_many_rows_fit_a_grid(last, channels, monkeypatch):
    """CUDA has 2^31 - 1 programs on the first axis, 65,535 on the others."""
    grids = []

    class Recorder:
        def __getitem__(self, grid):
            return lambda *args, **options: grids.append(grid)

    names = ("shuffle_kernel", "shuffle_pixels_kernel")
    monkeypatch.setattr(moves, "pointwise", type("", (), {name: Recorder() for name in names}))
    shape = (2, channels, 720, 1280)
    x = empty(shape, None if last else (channels * 720 * 1280, 720 * 1280, 1280, 1))
    y = backend.TritonBackend().pixel_shuffle(x, 2)
    backend.TritonBackend().pixel_unshuffle(y, 2)
    assert len(grids) == 2
    for first, *others in grids:
        assert first < 2**31
        assert all(side <= 65_535 for side in others)


def test_tiles_are_bounded():
    from sr_kernels.backends.triton.configs import LARGEST_TILE, Config

    for sides in ((2 * LARGEST_TILE, 8), (8, 2 * LARGEST_TILE)):
        with pytest.raises(ValueError, match="at most"):
            Config(*sides, 16, 16)
