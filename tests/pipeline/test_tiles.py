# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiles put together are the whole picture's result; memory that runs out; half precision that overflows."""

import math
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels import models, ops
from sr_kernels.backends import available_backends, record_kernels
from sr_kernels.config import set_precision
from sr_kernels.pipeline import schedule, upscale
from sr_kernels.pipeline.canvas import ArrayCanvas, TensorCanvas
from sr_kernels.pipeline.network import Network
from tests.pipeline.networks import Described, Exact, Nearest, grid, noise

WHOLE = 10_000
# PyTorch's own convolutions choose by size among sums of different order.
needs_native = pytest.mark.skipif(
    bool(available_backends()["cpu"]), reason=f"no native kernels: {available_backends()['cpu']}"
)


def kaiming(model):
    """Default weights nearly vanish beside the enlarged input; these don't."""
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, 0.25)
            m.weight.data *= 0.7
    return model


# Exactness.


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tile", [1, 17, 24, 50, 61, 100])
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (37, 41), (101, 67), (96, 144)])
def test_tiles_equal_the_whole(size, tile, batch):
    image, model = grid(3, *size), Described()
    with torch.no_grad():
        expected = model(image[None])[0]
    assert torch.equal(upscale(image, model, tile=tile, batch=batch), expected)
    assert torch.equal(upscale(image, model), expected)


@needs_native
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("srvgg", {"scale": 2, "num_feat": 24, "num_conv": 3}),
        ("srvgg", {"scale": 3, "num_feat": 16, "num_conv": 2}),
        ("espcn", {"scale": 3}),
        ("fsrcnn", {"scale": 2}),
        ("edsr", {"scale": 4, "num_feat": 32, "num_block": 1}),
        ("rrdbnet", {"scale": 4, "num_feat": 16, "num_grow_ch": 8, "num_block": 1}),
        ("rrdbnet", {"scale": 2, "num_feat": 16, "num_grow_ch": 8, "num_block": 1}),
    ],
)
def test_the_projects_models_tile_exactly(name, sizes):
    model = kaiming(models.create(name, **sizes))
    image = noise(131, 173, 3)
    with record_kernels() as kernels, set_precision("highest"):
        whole = upscale(image, model, tile=WHOLE)
    assert all(k.startswith("cpu/") for k in kernels), kernels
    assert whole.std() > 10
    for tile, batch in ((33, 1), (48, 2), (70, 5)):
        with set_precision("highest"):
            assert (upscale(image, model, tile=tile, batch=batch) == whole).all(), (tile, batch)
        assert_the_same_but_for_rounding(upscale(image, model, tile=tile, batch=batch), whole)


def assert_the_same_but_for_rounding(found, expected):
    """Winograd kernels round as the tile lies: an 8-bit value at the edge of two may become its neighbour."""
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 1e-3 * difference.size


@needs_native
@pytest.mark.parametrize("scale", [2, 4])
def test_the_embedded_model_tiles_exactly(scale):
    image = noise(131, 173, 3)
    with set_precision("highest"):
        whole = upscale(image, scale=scale, tile=WHOLE)
        assert whole.shape == (131 * scale, 173 * scale, 3)
        assert (upscale(image, scale=scale, tile=50, batch=2) == whole).all()
    assert_the_same_but_for_rounding(upscale(image, scale=scale, tile=50, batch=2), whole)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 5), (31, 64)])
def test_odd_sizes_through_a_model_that_wants_even_ones(size):
    model = kaiming(models.create("rrdbnet", scale=2, num_feat=16, num_grow_ch=8, num_block=1))
    assert model.input_multiple == 2
    image = noise(*size, 3)
    found = upscale(image, model)
    assert found.shape == (size[0] * 2, size[1] * 2, 3)
    padding = (0, size[1] % 2, 0, size[0] % 2)
    x = ops.image_to_float(torch.from_numpy(image))
    x = F.pad(x, padding, mode="reflect" if min(size) > 1 else "replicate")
    with torch.no_grad():
        y = model(x)[:, :, : size[0] * 2, : size[1] * 2]
    assert (found == ops.float_to_image(y).numpy()).all()


@pytest.mark.parametrize("scale", [1, 2])
def test_small_pictures_are_padded_as_the_model_pads_them(scale):
    model = kaiming(models.create("rrdbnet", scale=scale, num_feat=8, num_grow_ch=4, num_block=1))
    for height in range(1, 6):
        for width in range(1, 8):
            image = grid(3, height, width)
            with torch.no_grad():
                assert torch.equal(upscale(image, model), model(image[None])[0]), (height, width)


def test_windows_are_of_one_size_and_batched():
    model = Nearest()
    upscale(grid(3, 100, 70), model, tile=24, batch=4)
    sizes = {shape[2:] for shape in model.seen}
    assert len(sizes) == 1
    assert {shape[0] for shape in model.seen[:-1]} == {4}


@pytest.mark.parametrize("size", [(1100, 1300), (700, 2100), (1031, 1031)])
def test_little_is_computed_twice(size):
    """Windows are of one size; they share the picture evenly instead of overlapping in the end."""
    model = Nearest()
    upscale(np.zeros((*size, 3), np.uint8), model, tile=1000)
    done = sum(shape[2] * shape[3] for shape in model.seen)
    # a window may be longer by a block, and by what makes the last one end at the border
    most = [length + -(-length // 1000) * 2 * schedule.ALIGN for length in size]
    assert done <= most[0] * most[1]
    assert all(max(shape) <= 1000 + schedule.ALIGN for shape in model.seen)


def test_no_more_than_a_window_is_converted(monkeypatch):
    sizes = []
    real = ops.image_to_float
    monkeypatch.setattr(ops, "image_to_float", lambda x: sizes.append(x.shape) or real(x))
    upscale(noise(300, 200, 3), Described(), tile=40)
    most = 40 + 2 * 2 + schedule.ALIGN
    assert len(sizes) > 20
    assert all(h < most and w < most for h, w, _ in sizes)


def test_every_output_pixel_is_written(poisoned):
    for tile in (None, 30):
        assert upscale(grid(3, 77, 53), Described(), tile=tile).isfinite().all()
        assert upscale(grid(3, 177, 153), Exact(), tile=tile).isfinite().all()


def test_progress_counts_every_tile():
    calls = []
    upscale(noise(100, 100, 3), Described(), tile=20, batch=2, progress=lambda *c: calls.append(c))
    totals = {total for _, total in calls}
    assert len(totals) == 1
    done = [d for d, _ in calls]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == totals.pop() > 4


# Feathering, where the radius is not known or not kept.


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [(20, 30), (150, 260), (301, 97)])
def test_feathered_tiles_agree_with_the_whole(size, batch):
    """Every window agrees where it counts, so the cross-fade changes nothing but roundings."""
    image, model = grid(3, *size), Exact()
    with torch.no_grad():
        expected = model(image[None])[0]
    found = upscale(image, model, tile=40, batch=batch)
    # Weights that sum to 1 up to a few roundings, of values of this size.
    slack = 8 * 2**-23 * expected.abs().max().item()
    assert (found - expected).abs().max() <= slack


def test_feathering_hides_seams():
    class Level(nn.Module):
        """Adds to each window a constant of its own: hard cuts would show as steps."""

        def forward(self, x):
            self.count = getattr(self, "count", -1) + 1
            return F.interpolate(x, scale_factor=2) + self.count % 3 / 3

    found = upscale(torch.zeros(3, 200, 200), Level(), tile=48, device="cpu")
    steps = max(found.diff(dim=1).abs().max().item(), found.diff(dim=2).abs().max().item())
    assert found.std() > 0.1
    # A fade over at least 32 input pixels, 64 output ones, of at most 2/3.
    assert steps <= 2 / 3 / 64 * 1.01


def test_a_halo_below_the_radius_is_feathered():
    image, model = grid(3, 120, 120), Described()
    close = upscale(image, model, tile=30, halo=1)
    exact = upscale(image, model)
    assert not torch.equal(close, exact)
    assert (close - exact).abs().max() < 1


# Out of memory.


class Hungry(Described):
    """Refuses windows of more than `limit` pixels, as an allocator would."""

    def __init__(self, limit, error=torch.OutOfMemoryError):
        super().__init__()
        self.limit, self.error, self.calls = limit, error, 0
        self.failed = []

    def forward(self, x):
        self.calls += 1
        assert all(ref() is None for ref in self.failed), "the failed tile is still held"
        if x.shape[0] * x.shape[2] * x.shape[3] > self.limit:
            self.failed.append(weakref.ref(x))
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes")
        return super().forward(x)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_out_of_memory_halves_the_tile(error):
    image, model = grid(3, 150, 130), Hungry(3000, error)
    found = upscale(image, model, batch=4)
    assert model.failed
    assert torch.equal(found, upscale(image, Described()))


def test_memory_that_never_suffices_is_an_error():
    with pytest.raises(MemoryError, match="tiles of 16 pixels"):
        upscale(noise(150, 130, 3), Hungry(10), tile=100)


def test_other_faults_are_not_taken_for_it():
    class Wrong(Described):
        calls = 0

        def forward(self, x):
            Wrong.calls += 1
            raise RuntimeError("shapes do not agree")

    with pytest.raises(RuntimeError, match="do not agree"):
        upscale(noise(150, 130, 3), Wrong())
    assert Wrong.calls == 1


def test_little_memory_means_tiles(monkeypatch):
    image, calls = noise(300, 260, 3), []
    whole = upscale(image, Described(), tile=WHOLE)
    monkeypatch.setattr(schedule, "memory_budget", lambda device: 4_000_000)
    found = upscale(image, Described(), progress=lambda *c: calls.append(c))
    assert calls[-1][1] > 1
    assert (found == whole).all()


def test_a_large_picture_is_never_converted_whole(monkeypatch):
    """Nor is there anything to be seen of it: the tiles are exact."""
    monkeypatch.setattr(schedule, "memory_budget", lambda device: 2**40)
    sizes = []
    real = ops.image_to_float
    monkeypatch.setattr(ops, "image_to_float", lambda x: sizes.append(x.shape) or real(x))
    image = noise(1500, 1100, 3)
    found = upscale(image, Nearest())
    assert max(h * w for h, w, _ in sizes) <= 1.1 * 2**20
    np.testing.assert_array_equal(found, image.repeat(2, axis=0).repeat(2, axis=1))


def test_a_module_without_radius_gets_the_whole_picture_where_memory_allows(monkeypatch):
    monkeypatch.setattr(schedule, "memory_budget", lambda device: 2**40)
    calls = []
    upscale(noise(1500, 1100, 3), Exact(features=1), progress=lambda *c: calls.append(c))
    assert calls[-1] == (1, 1)


def test_a_batch_shares_the_memory(monkeypatch):
    budget = 100_000_000
    monkeypatch.setattr(schedule, "memory_budget", lambda device: budget)
    network = Network(Described(), 3, False, torch.device("cpu"), None)
    with network.evaluating():
        area = budget / network.bytes_per_pixel()
        canvas = ArrayCanvas(noise(2000, 2000, 3), network.device)
        for batch in (1, 2, 8):
            tile = schedule.automatic_tile(network, canvas, 2, batch)
            assert area / 2 <= batch * (tile + 2 * 2 + schedule.ALIGN) ** 2 <= 1.5 * area
    pictures = TensorCanvas(grid(8, 3, 200, 200), network.device)
    with network.evaluating():
        assert schedule.automatic_tile(network, pictures, 2, 1) is None
        assert schedule.automatic_tile(network, pictures, 2, 8) is not None  # as 8 together


def test_small_pictures_are_whole():
    model = Nearest()
    upscale(noise(100, 120, 3), model)
    assert model.seen == [(1, 3, 100, 120)]


def test_the_memory_budget_is_bounded():
    assert 2**24 <= schedule.memory_budget(torch.device("cpu")) <= 2**30


# Half precision.


class Overflowing(Nearest):
    """Leaves the range of float16 where a window holds a bright pixel."""

    def forward(self, x):
        self.seen.append((x.dtype, tuple(x.shape)))
        bright = (x.amax(dim=(1, 2, 3), keepdim=True) > 0.9).to(x.dtype)
        y = x * (1 + bright * 50000) * 2 / (1 + bright * 50000) / 2
        return F.interpolate(y, scale_factor=2, mode="nearest")


class WithWeight(Overflowing):
    """The same, with a parameter, so that it has a dtype."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


def test_an_overflowing_tile_is_done_again_in_float32():
    image = torch.full((3, 96, 96), 0.5)
    image[:, 5, 70] = 1.0
    seen = []

    def watch(module, inputs):
        seen.append((inputs[0].dtype, inputs[0].shape[0]))

    model = WithWeight()
    handle = torch.nn.modules.module.register_module_forward_pre_hook(watch)
    try:
        found = upscale(image, model, dtype="float16", tile=48, batch=4)
    finally:
        handle.remove()
    assert seen == [(torch.float16, 4), (torch.float32, 1)]
    assert torch.equal(found, F.interpolate(image[None], scale_factor=2)[0])
    assert model.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float16"])
def test_half_precision_is_close(dtype):
    image, model = grid(3, 60, 50), Described()
    exact = upscale(image, model)
    found = upscale(image, model, dtype=dtype)
    assert found.dtype == torch.float32
    eps = torch.finfo(torch.bfloat16 if "b" in str(dtype).removeprefix("torch.") else torch.float16).eps
    # Three roundings of intermediate values that stay below 8 times the output's magnitude.
    assert 0 < (found - exact).abs().max() <= 24 * eps * exact.abs().max()


def test_damaged_weights_are_an_error():
    model = Described()
    with torch.no_grad():
        model.last.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="weights"):
        upscale(noise(40, 40, 3), model)


def test_nan_in_a_float_picture_stays_where_it_is():
    image = grid(3, 60, 60)
    image[0, 30, 30] = math.nan
    found = upscale(image, Described())
    assert found.isnan().any()
    assert found[:, :40, :40].isfinite().all()
