# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The geometry of tiles, exhaustively on small axes."""

import itertools

import numpy as np
import pytest

from sr_kernels.image.tiling import blend_weights, spans, tiles

CASES = list(
    itertools.product([*range(1, 60), 97, 128, 131, 200], [1, 5, 8, 17, 64], [0, 1, 3, 10], [1, 2, 6, 24])
)


def test_kept_parts_partition_the_axis():
    for length, tile, halo, multiple in CASES:
        axis = spans(length, tile, halo, multiple)
        assert [s.first for s in axis] == [0, *(s.last for s in axis[:-1])], (length, tile, halo, multiple)
        assert axis[-1].last == length
        assert all(s.first < s.last for s in axis)


def test_windows_are_equal_aligned_and_inside():
    for length, tile, halo, multiple in CASES:
        axis = spans(length, tile, halo, multiple)
        assert len({s.stop - s.start for s in axis}) == 1, (length, tile, halo, multiple)
        assert all(s.start % multiple == 0 for s in axis)
        assert axis[0].start == 0
        assert axis[-1].stop == length


def test_the_halo_is_whole_except_at_the_borders():
    for length, tile, halo, multiple in CASES:
        for s in spans(length, tile, halo, multiple):
            assert s.start == 0 or s.first - s.start >= halo, (length, tile, halo, multiple)
            assert s.stop == length or s.stop - s.last >= halo


def test_a_large_tile_is_the_whole():
    assert spans(50, 50, 7) == [(0, 50, 0, 50)]
    assert spans(1, 1000, 7, 24) == [(0, 1, 0, 1)]


def test_windows_are_no_larger_than_asked_for():
    for length, tile, halo, multiple in CASES:
        window = spans(length, tile, halo, multiple)[0]
        assert window.stop - window.start < max(tile, multiple) + 2 * halo + multiple


def test_tiles_are_rows_times_columns():
    cut = tiles(100, 70, 30, 4, 6)
    covered = np.zeros((100, 70), int)
    for tile in cut:
        covered[tile.rows.first : tile.rows.last, tile.columns.first : tile.columns.last] += 1
    assert (covered == 1).all()
    assert len({(t.rows.stop - t.rows.start, t.columns.stop - t.columns.start) for t in cut}) == 1


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("length", [50, 97, 128, 200, 331])
@pytest.mark.parametrize("tile", [17, 30, 64])
def test_feathering_sums_to_one(length, tile, scale):
    halo, margin = 10, 5
    axis = spans(length, tile, halo, 6)
    total = np.zeros(length * scale)
    for i, s in enumerate(axis):
        weights = blend_weights(axis, i, margin, scale)
        assert weights.shape == ((s.stop - s.start) * scale,)
        assert (weights >= 0).all()
        # The margin at inner borders, where the window's own padding shows, counts for nothing.
        assert i == 0 or not weights[: margin * scale].any()
        assert i == len(axis) - 1 or not weights[-margin * scale :].any()
        total[s.start * scale : s.stop * scale] += weights
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0, 1, 0), "length"), ((5, 0, 0), "tile"), ((5, 1, -1), "halo"), ((5, 1, 0, 0), "multiple")],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=name):
        spans(*arguments)
