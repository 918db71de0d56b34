# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading and writing picture files with Pillow: nothing guessed, nothing half-written.

PNG, JPEG, WebP, TIFF, BMP and PPM only. Depth is taken from the file's own declaration. Metadata other
than the colour profile is not carried over; EXIF orientation is applied to the pixels.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from sr_kernels.image import chunks, deep
from sr_kernels.image.files import commit
from sr_kernels.image.modes import from_pil, to_pil
from sr_kernels.image.picture import Picture, PictureError

MAX_PIXELS = 89_478_485  # Pillow's own bound, a quarter of a gigabyte of RGB
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
SUFFIXES = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF",
    ".bmp": "BMP", ".ppm": "PPM", ".pgm": "PPM", ".pnm": "PPM",
}  # fmt: skip
_HOLDS_ALPHA = ("PNG", "WEBP", "TIFF")
_HOLDS_DEPTH = ("PNG", "TIFF", "PPM")
# The most bytes of a colour profile that readers take: Pillow's bound for PNG, 255 segments in JPEG.
_LONGEST_PROFILE = {"PNG": chunks.LONGEST_PROFILE, "JPEG": 255 * 65519, "WEBP": 2**31, "TIFF": 2**31}
_LONGEST = {"JPEG": 65535, "WEBP": 16383}
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError, struct.error,
)  # fmt: skip
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _PLANAR_CONFIGURATION = 258, 262, 274, 284
_pillow_limit = threading.Lock()


def read(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture in a file, upright, at its own depth.

    max_pixels bounds width * height, checked before anything is decoded. Of a phone's multi-picture JPEG
    the main picture is read; animations and files of several pages are refused. A colour profile of more
    than a mebibyte in a PNG file is left out with a UserWarning.

    Raises FileNotFoundError, IsADirectoryError or PermissionError as open does, and PictureError, which
    names the file, for an unknown format, a damaged or truncated file, too many pixels, or pixels of a
    kind that is not supported.
    """
    path = Path(path)
    with path.open("rb") as file, _raised_limit(max_pixels):
        try:
            shortened = chunks.without_long_profile(file)
            if shortened is not None:
                warnings.warn(
                    f"{path}: its colour profile, of more than {chunks.LONGEST_PROFILE} bytes, is left out",
                    stacklevel=2,
                )

            def source() -> IO[bytes]:
                return path.open("rb") if shortened is None else io.BytesIO(shortened)

            image = _open(file if shortened is None else source())
            if image.width * image.height > max_pixels:
                raise PictureError(
                    f"{image.width}x{image.height} is more than the limit of {max_pixels} pixels: "
                    "raise max_pixels (--max-pixels) if the file is to be trusted"
                )
            return _oriented(*_decode(image, source))
        except PictureError as error:
            raise PictureError(f"{path}: {error}") from None
        except Image.DecompressionBombError as error:
            raise PictureError(f"{path}: {error}; raise max_pixels (--max-pixels) to read it") from None
        except UnidentifiedImageError:
            raise PictureError(f"{path}: {_unidentified(file)}") from None
        except MemoryError:
            raise PictureError(f"{path}: not enough memory to decode it") from None
        except _DAMAGE as error:
            raise PictureError(f"{path}: truncated or damaged ({error})") from error


def write(picture: Picture, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a picture in the format of the path's suffix: the whole file appears at once, or nothing.

    JPEG is written at quality 95 without chroma subsampling, WebP without loss, PNG and TIFF deflated.
    A profile that the format cannot hold, or that is of gray where the format has colours only, is left out
    with a UserWarning.

    Raises PictureError for a suffix that is unknown, or for a depth, an alpha plane or a size that the
    format cannot hold; FileExistsError where the path exists and overwrite is False; OSError, naming the
    path, where it cannot be written (no space, no permission). The temporary file beside it is removed.
    """
    path = Path(path)
    check_writable(picture, path, overwrite)
    kind = format_of(path)
    if fault := _profile_fault(picture, kind):
        warnings.warn(f"{path}: {fault}, which is left out", stacklevel=2)
        picture = replace(picture, icc_profile=None)
    try:
        data = _encode(picture, kind)
    except (OSError, ValueError) as error:
        raise PictureError(f"{path}: cannot be encoded as {kind} ({error})") from error
    commit(data, path, overwrite)


def check_writable(picture: Picture, path: Path, overwrite: bool = False, scale: int = 1) -> None:
    """Raise now what `write` would raise of a picture `scale` times as large: see there."""
    kind = format_of(path)
    if picture.alpha is not None and kind not in _HOLDS_ALPHA:
        raise PictureError(f"{path}: {kind} cannot hold alpha: choose {', '.join(_HOLDS_ALPHA)}")
    if picture.bits == 16 and kind not in _HOLDS_DEPTH:
        raise PictureError(f"{path}: {kind} cannot hold 16 bits: choose {', '.join(_HOLDS_DEPTH)}")
    width, height = picture.width * scale, picture.height * scale
    longest = _LONGEST.get(kind)
    if longest and max(width, height) > longest:
        raise PictureError(
            f"{path}: {kind} holds at most {longest} pixels a side, not {width}x{height}: choose PNG or TIFF"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist", str(path))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it exists and is no file", str(path))
    if path.exists() and not overwrite:
        raise FileExistsError(errno.EEXIST, "it exists; overwrite (--overwrite) replaces it", str(path))


def format_of(path: Path) -> str:
    """The format that a path's suffix names. Raises PictureError for another suffix."""
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise PictureError(f"{path}: the suffix {path.suffix!r} is none of {' '.join(SUFFIXES)}")
    return kind


def _open(file: IO[bytes]) -> Image.Image:
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=FORMATS)


def _decode(image: Image.Image, source: Callable[[], IO[bytes]]) -> tuple[Picture, int]:
    """The pixels as stored, and the EXIF orientation that is still to be applied; source opens it anew."""
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise PictureError(
            f"holds {getattr(image, 'n_frames', 1)} frames or pages: extract the one to enlarge first"
        )
    tags = dict(getattr(image, "tag_v2", {}))
    if tags.get(_PLANAR_CONFIGURATION) == 2 and max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8:
        raise PictureError("TIFF of 16 bits with separate planes is not supported: interleave its pixels")
    if deep.is_deep_colour(image):
        with source() as again:
            picture = deep.read_deep_colour(image, lambda: _open(again))
    else:
        image.load()
        if image.format == "PPM" and image.mode == "I":
            # Pillow's mode for 16-bit PGM, its values already scaled to 65535.
            picture = Picture(np.asarray(image).astype(np.uint16)[..., None], None, None, "I")
        else:
            picture = from_pil(image)
        if image.format == "TIFF" and picture.bits == 16:
            _normalise_tiff(picture, tags)
        elif max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8:
            raise PictureError(
                f"TIFF of {max(tags[_BITS_PER_SAMPLE])} bits in mode {image.mode} is not supported: "
                "convert to gray or RGB of 16 bits"
            )
    # Pillow turns TIFF while loading, and then says 1 here.
    return picture, _orientation(image)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # of many kinds; broken EXIF says nothing about the pixels
        return 1


def _normalise_tiff(picture: Picture, tags: dict[int, Any]) -> None:
    """12 bits to 16, and white-is-zero to black-is-zero: Pillow gives both as stored."""
    if tags.get(_BITS_PER_SAMPLE) == (12,):
        picture.pixels = picture.pixels << 4 | picture.pixels >> 8
    if tags.get(_PHOTOMETRIC) == 0:
        picture.pixels = ~picture.pixels


def _oriented(picture: Picture, orientation: int) -> Picture:
    """Orientations 2..8 of EXIF undone on the arrays; any other value leaves the picture as it is."""

    def turn(a: np.ndarray) -> np.ndarray:
        if orientation in (5, 6, 7, 8):
            a = a.swapaxes(0, 1)
        if orientation in (3, 4, 7, 8):
            a = a[::-1]
        if orientation in (2, 3, 6, 7):
            a = a[:, ::-1]
        return np.ascontiguousarray(a)

    if orientation in range(2, 9):
        picture.pixels = turn(picture.pixels)
        if picture.alpha is not None:
            picture.alpha = turn(picture.alpha)
    return picture


@contextlib.contextmanager
def _raised_limit(max_pixels: int) -> Iterator[None]:
    """Pillow's limit is one global; it is touched only to raise it, one reader at a time."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None or max_pixels <= limit:
        yield
        return
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _unidentified(file: IO[bytes]) -> str:
    file.seek(0)
    if not file.read(1):
        return "the file is empty"
    return f"not a readable picture; the formats are {', '.join(FORMATS)}"


def _profile_fault(picture: Picture, kind: str) -> str | None:
    """Why the picture's profile cannot go into a file of this kind, or None."""
    profile = picture.icc_profile or b""
    longest = _LONGEST_PROFILE.get(kind, 0)
    if len(profile) > longest:
        return f"{kind} cannot hold the colour profile" + (f" of {len(profile)} bytes" if longest else "")
    becomes_rgb = kind == "WEBP" or (kind == "TIFF" and picture.bits == 16 and picture.alpha is not None)
    # The header's colour space, ICC.1:2022, 7.2.6.
    if becomes_rgb and picture.pixels.shape[2] == 1 and profile[16:20] == b"GRAY":
        return f"{kind} holds the gray pixels as RGB and so cannot hold their colour profile"
    return None


def _encode(picture: Picture, kind: str) -> bytes:
    if picture.bits == 16:
        return {"PNG": deep.encode_png, "TIFF": deep.encode_tiff, "PPM": deep.encode_ppm}[kind](picture)
    presets: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95, "subsampling": 0},  # optimised, a detailed picture overflows Pillow's buffer
        "WEBP": {"lossless": True, "exact": True},
        "TIFF": {"compression": "tiff_adobe_deflate"},
    }
    options = presets.get(kind, {})
    if picture.icc_profile:
        options["icc_profile"] = picture.icc_profile
    buffer = io.BytesIO()
    to_pil(picture).save(buffer, kind, **options)
    return buffer.getvalue()
