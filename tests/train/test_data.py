# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What is trained on and what never is; patches are aligned, reproducible and augmented alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sr_kernels.image.resize import bicubic
from sr_kernels.train.data import (
    HELD_OUT,
    TRAINING,
    PatchSampler,
    Photograph,
    content_hash,
    held_out_photographs,
    skimage_folder,
    training_photographs,
)


def picture(seed: int, height: int = 80, width: int = 96, channels: int = 3) -> np.ndarray:
    """A smooth random picture, (height, width, channels)."""
    noise = np.random.default_rng(seed).integers(64, 192, (height // 8, width // 8, channels), dtype=np.uint8)
    return bicubic(noise, (height, width)).reshape(height, width, channels)


def test_held_out_pictures_are_the_four_named() -> None:
    photographs = held_out_photographs()
    assert [Path(p.name).stem for p in photographs] == ["astronaut", "chelsea", "coffee", "rocket"]
    assert [p.pixels.shape for p in photographs] == [
        (512, 512, 3),
        (300, 451, 3),
        (400, 600, 3),
        (427, 640, 3),
    ]


def test_no_held_out_picture_is_trained_on() -> None:
    training = training_photographs()
    assert len(training) >= 10
    assert not {p.name for p in training} & set(HELD_OUT)
    hashes = {content_hash(p.pixels) for p in training}
    assert len(hashes) == len(training)
    assert not hashes & {content_hash(p.pixels) for p in held_out_photographs()}


COPIES = {
    "renamed.bmp": lambda image: image,
    "compressed.jpg": lambda image: image,
    "mirrored.png": ImageOps.mirror,
    "turned.jpg": lambda image: ImageOps.flip(image).transpose(Image.Transpose.ROTATE_90),
    "cropped.png": lambda image: image.crop((30, 5, image.width - 10, image.height - 20)),
    "small.png": lambda image: image.reduce(3),
    "gray.png": lambda image: image.convert("L"),
    "dim.jpg": lambda image: image.point(lambda v: v // 2),
}


@pytest.mark.parametrize("name", HELD_OUT)
@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_of_a_held_out_picture_is_recognised(tmp_path: Path, name: str, copy: str) -> None:
    with Image.open(skimage_folder() / name) as image:
        COPIES[copy](image.convert("RGB")).save(tmp_path / copy)
    said = f"{copy} looks like {name}".replace(".", r"\.")
    with pytest.warns(UserWarning, match=said), pytest.raises(FileNotFoundError, match=f"train on: {said}"):
        training_photographs(tmp_path)
    Image.fromarray(picture(1)).save(tmp_path / "own.png")
    with pytest.warns(UserWarning, match=said) as caught:
        assert [p.name for p in training_photographs(tmp_path)] == ["own.png"]
    assert len(caught) == 1


@pytest.mark.filterwarnings("error")
def test_strangers_are_no_copies(tmp_path: Path) -> None:
    for seed in range(20):
        Image.fromarray(picture(seed)).save(tmp_path / f"{seed}.png")
    Image.new("RGB", (64, 64), (9, 99, 199)).save(tmp_path / "flat.png")
    Image.linear_gradient("L").save(tmp_path / "gradient.png")
    assert len(training_photographs(tmp_path)) == 22
    # The pool that the package's weights were trained on.
    assert [p.name for p in training_photographs()] == list(TRAINING)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no picture to train on \(\.png"):
        training_photographs(tmp_path)


def test_a_bad_file_in_a_folder_is_named_and_left_out(tmp_path: Path) -> None:
    Image.fromarray(picture(1)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:200])
    with pytest.warns(UserWarning, match=r"bad\.png"):
        photographs = training_photographs(tmp_path)
    assert [p.name for p in photographs] == ["good.png"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        training_photographs(tmp_path / "nowhere")


@pytest.mark.parametrize(("scale", "channels"), [(2, 3), (2, 1), (4, 3)])
def test_low_patches_are_reductions_of_high_ones(scale: int, channels: int) -> None:
    photographs = [Photograph(str(i), picture(i, channels=channels)) for i in range(3)]
    low, high = PatchSampler(photographs, scale, patch=16, batch=24).draw(0)
    assert low.shape == (24, 3, 16, 16)
    assert high.shape == (24, 3, 16 * scale, 16 * scale)
    assert low.is_contiguous(memory_format=torch.channels_last)
    assert min(low.min(), high.min()) >= 0.0
    assert max(low.max(), high.max()) <= 1.0
    for small, large in zip(low, high, strict=True):
        # Away from the patch's own border the reduction agrees up to the roundings of two passes.
        expected = bicubic(np.ascontiguousarray(large.permute(1, 2, 0).numpy()), (16, 16))
        difference = np.abs(expected - small.permute(1, 2, 0).numpy())[4:-4, 4:-4]
        assert difference.max() < 1.3 / 255


def test_batches_depend_on_seed_and_index_alone() -> None:
    photographs = [Photograph("a", picture(0)), Photograph("b", picture(1, channels=1))]
    first = PatchSampler(photographs, 2, 16, 8, seed=3)
    second = PatchSampler(photographs, 2, 16, 8, seed=3)
    second.draw(0)
    for a, b in zip(first.draw(5), second.draw(5), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(first.draw(5)[0], first.draw(6)[0])
    assert not torch.equal(first.draw(5)[0], PatchSampler(photographs, 2, 16, 8, seed=4).draw(5)[0])


def test_augmentation_reaches_every_orientation_and_colour_order() -> None:
    # One picture of exactly one patch at the only pre-scale that fits: what varies is augmentation.
    ramp = np.zeros((32, 32, 3), np.uint8)
    ramp[..., 0], ramp[..., 1], ramp[..., 2] = 200, np.arange(0, 96, 3), 10
    ramp[:8, :8] += 40
    seen = set()
    sampler = PatchSampler([Photograph("ramp", ramp)], 2, 16, 64)
    for index in range(16):
        for patch in sampler.draw(index)[1]:
            means = patch.mean((1, 2))
            ranks = (patch - patch.amin((1, 2), keepdim=True)) / (patch.amax() - patch.amin())
            corners = ranks[:, [0, 0, -1, -1], [0, -1, 0, -1]].sum(0).argmax().item()
            seen.add((tuple(means.argsort().tolist()), corners))
    assert len({order for order, _ in seen}) == 6
    assert len({corner for _, corner in seen}) == 4


def test_too_small_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="fits none of the pictures"):
        PatchSampler([Photograph("a", picture(0))], 2, 64, 4)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        PatchSampler([Photograph("a", picture(0))], 2, 16, 0)
