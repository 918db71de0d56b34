# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Photographs to train on, those held out, and the patches drawn from them."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sr_kernels.image.io import SUFFIXES, read
from sr_kernels.image.metrics import luma
from sr_kernels.image.picture import PictureError
from sr_kernels.image.resize import bicubic, degrade

# Never trained on: the evaluation's pictures.
HELD_OUT = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
# The wheel's other pictures with photographic detail, and how often each is drawn. Drawings, charts,
# motion blur, the cell (no detail at this size) and faces of 25 x 25 pixels are left out.
TRAINING = {
    "brick.png": 1.0,
    "camera.png": 3.0,
    "coins.png": 1.5,
    "grass.png": 1.0,
    "gravel.png": 1.0,
    "hubble_deep_field.jpg": 0.5,
    "ihc.png": 1.5,
    "moon.png": 0.5,
    "motorcycle_left.png": 4.0,
    "motorcycle_right.png": 4.0,
    "page.png": 0.7,
    "retina.jpg": 0.7,
    "text.png": 0.3,
}
# Every picture is also offered smaller: more detail to a pixel, less noise, other sizes of things.
PRE_SCALES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3)

# Of a held-out picture reduced to this side, so many pixels are cut off each side to recognise crops.
_WHOLE, _CUTS = 80, (0, 4, 8)
_COPY = 0.9


@dataclass(frozen=True)
class Photograph:
    """A picture: its file's name, uint8 pixels (H, W, 3) or (H, W, 1), and how often it is drawn."""

    name: str
    pixels: np.ndarray
    weight: float = 1.0


def content_hash(pixels: np.ndarray) -> str:
    """SHA-256 of a picture's size and pixels, whatever its file's name and format."""
    return hashlib.sha256(str(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def skimage_folder() -> Path:
    """The folder of pictures in scikit-image's wheel, found without importing it."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("scikit-image, whose pictures are used, is missing: pip install scikit-image")
    return Path(spec.submodule_search_locations[0]) / "data"


def read_pixels(path: Path) -> np.ndarray:
    """The uint8 pixels (H, W, 1 or 3) of the picture at path, upright, without alpha; 16 bits become 8."""
    pixels = read(path).pixels
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels / 257.0).astype(np.uint8)


def held_out_photographs() -> list[Photograph]:
    """The evaluation's four pictures, all (H, W, 3)."""
    folder = skimage_folder()
    return [Photograph(name, read_pixels(folder / name)) for name in HELD_OUT]


def training_photographs(folder: Path | None = None) -> list[Photograph]:
    """What there is to train on: scikit-image's photographs, or the pictures right inside folder.

    A picture that looks like a held-out one (see `resembled`) is left out with a warning, whatever its name,
    and so is a file of the folder that cannot be read. Raises FileNotFoundError for a folder that is missing
    or has no picture to train on.
    """
    if folder is None:
        source = skimage_folder()
        photographs = [Photograph(name, read_pixels(source / name), w) for name, w in TRAINING.items()]
    else:
        photographs = _pictures_of(folder)
    try:
        held_out = held_out_photographs()
    except FileNotFoundError:  # without scikit-image there is nothing to keep apart
        held_out = []
    found = resembled([p.pixels for p in photographs], held_out)
    copies = [f"{p.name} looks like {name}" for p, name in zip(photographs, found, strict=True) if name]
    for copy in copies:
        warnings.warn(f"left out of training: {copy}, which is held out for the evaluation", stacklevel=2)
    if len(copies) == len(photographs):
        why = f": {', '.join(copies)}, held out for the evaluation" if copies else f" ({' '.join(SUFFIXES)})"
        raise FileNotFoundError(f"data folder {folder} has no picture to train on{why}")
    return [p for p, name in zip(photographs, found, strict=True) if name is None]


def resembled(pictures: Sequence[np.ndarray], originals: Iterable[Photograph]) -> list[str | None]:
    """For each of the uint8 pictures the name of the original that it is a copy of, or None.

    Lumas of 16 x 16 pixels are compared by their correlation, so that resizing, compression, gray copies,
    brightness and contrast do not hide a copy, nor do flips, quarter turns and up to a tenth cut off each
    side. scikit-image's other pictures correlate by 0.69 at most, such copies by more than 0.92.
    """
    names, seen = [], []
    for original in originals:
        whole = bicubic(luma(original.pixels).astype(np.float32), (_WHOLE, _WHOLE))
        for top, bottom, left, right in itertools.product(_CUTS, repeat=4):
            small = _outline(whole[top : _WHOLE - bottom, left : _WHOLE - right])
            seen += [_turn(small, turns, flip).ravel() for turns in range(4) for flip in (False, True)]
            names += [original.name] * 8
    if not names:
        return [None] * len(pictures)
    outlines = np.array(seen)
    found: list[str | None] = []
    for picture in pictures:
        likeness = outlines @ _outline(luma(picture).astype(np.float32)).ravel()
        best = int(likeness.argmax())
        found.append(names[best] if likeness[best] >= _COPY else None)
    return found


class PatchSampler:
    """Pairs of low- and high-resolution patches; batch n is a function of the seed and n alone.

    Whole pictures are reduced once, and patches cut out of both, so that no patch has borders that the
    reduction made up. patch is the low-resolution side in pixels. Augmentation: flips and quarter
    turns, permuted colours, brightness and contrast; gray pictures are tinted at random.
    """

    def __init__(self, photographs: Iterable[Photograph], scale: int, patch: int, batch: int, seed: int = 0):
        for name, value in (("scale", scale), ("patch", patch), ("batch", batch)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}")
        self.scale, self.patch, self.batch, self.seed = scale, patch, batch, seed
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        weights: list[float] = []
        for photograph in photographs:
            pairs = list(_pairs_of(photograph.pixels, scale, patch))
            area = sum(low.size // low.shape[2] for low, _ in pairs)
            self._pairs += pairs
            weights += [photograph.weight * low.size / low.shape[2] / area for low, _ in pairs]
        if not self._pairs:
            raise ValueError(f"patch of {patch} pixels at scale {scale} fits none of the pictures")
        self._chances = np.array(weights) / np.sum(weights)

    def settings(self) -> dict[str, int | str]:
        """Sizes, seed, and digests of the pictures in both resolutions and of how often each is drawn."""
        pixels = "".join(content_hash(image) for pair in self._pairs for image in pair)
        return {
            "scale": self.scale,
            "patch": self.patch,
            "batch": self.batch,
            "seed": self.seed,
            "pictures": hashlib.sha256(pixels.encode()).hexdigest()[:16],
            "chances": hashlib.sha256(self._chances.tobytes()).hexdigest()[:16],
        }

    def draw(self, index: int) -> tuple[Tensor, Tensor]:
        """Batch number index: float32 channels_last (N, 3, p, p) and (N, 3, p*scale, p*scale) in [0, 1]."""
        rng = np.random.default_rng((self.seed, index))
        p, s = self.patch, self.scale
        low = np.empty((self.batch, p, p, 3), np.uint8)
        high = np.empty((self.batch, p * s, p * s, 3), np.uint8)
        gain = np.ones((self.batch, 3), np.float32)
        offset = np.zeros((self.batch, 3), np.float32)
        for n, which in enumerate(rng.choice(len(self._pairs), self.batch, p=self._chances)):
            small, large = self._pairs[which]
            y = int(rng.integers(small.shape[0] - p + 1))
            x = int(rng.integers(small.shape[1] - p + 1))
            turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            order = rng.permutation(3) if small.shape[2] == 3 else np.zeros(3, np.int64)
            low[n] = _turn(small[y : y + p, x : x + p], turns, mirrored)[..., order]
            high[n] = _turn(large[y * s : (y + p) * s, x * s : (x + p) * s], turns, mirrored)[..., order]
            if rng.random() < 0.5:
                tints = 1 if small.shape[2] == 3 else 3
                gain[n] = rng.uniform(0.4, 1.0, tints)
                offset[n] = rng.random(tints) * (1.0 - gain[n])
        return _to_float(low, gain, offset), _to_float(high, gain, offset)


def _pictures_of(folder: Path) -> list[Photograph]:
    if not folder.is_dir():
        raise FileNotFoundError(f"data folder {folder} does not exist or is no folder")
    photographs = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        try:
            photographs.append(Photograph(path.name, read_pixels(path)))
        except (OSError, PictureError) as error:
            warnings.warn(f"left out of training: {error}", stacklevel=3)
    return photographs


def _pairs_of(pixels: np.ndarray, scale: int, patch: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """(low, high), each (H, W, C), of the picture at every pre-scale that holds a patch."""
    for factor in PRE_SCALES:
        height, width = (round(n * factor) for n in pixels.shape[:2])
        if min(height, width) >= patch * scale:
            yield degrade(pixels if factor == 1.0 else bicubic(pixels, (height, width)), scale)


def _turn(patch: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    return np.rot90(patch[:, ::-1] if mirrored else patch, turns)


def _to_float(images: np.ndarray, gain: np.ndarray, offset: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) channels_last in [0, 1], a gain and offset a channel."""
    x = torch.from_numpy(images).float().div_(255.0)
    x = x * torch.from_numpy(gain)[:, None, None] + torch.from_numpy(offset)[:, None, None]
    return x.permute(0, 3, 1, 2)


def _outline(plane: np.ndarray) -> np.ndarray:
    """float32 (H, W) as (16, 16) of mean 0 and norm 1; a picture of one colour gives zeros."""
    small = bicubic(np.ascontiguousarray(plane), (16, 16)).astype(np.float64)
    small -= small.mean()
    norm = float(np.linalg.norm(small))
    return small / norm if norm > 1e-3 else np.zeros_like(small)
