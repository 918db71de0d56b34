# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Sixteen bits of colour, which Pillow decodes to eight and does not write.

Reading keeps Pillow's decoders: the file is decoded twice, once for the high bytes and once, under the
raw mode of the other byte order, for the low ones. Writing is ours: PNG (W3C PNG, third edition) and
baseline TIFF 6.0 with Adobe deflate.
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from PIL import Image

from sr_kernels.image.chunks import SIGNATURE, chunk
from sr_kernels.image.picture import Picture, PictureError

_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_ROWS = 64  # a band of rows at a time when filtering
_TIFF_LIMIT = 2**32 - 2**20
_BLOCK = 2**20  # bytes of text at a time
_DIGITS = 9  # of a number in text; fits 32 bits


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a file just opened holds 16 bits of colour or of gray and alpha, by its header alone."""
    if image.format == "PPM":
        return image.mode == "RGB" and isinstance(_args(image), tuple) and _args(image)[1] > 255
    return image.mode in ("RGB", "RGBA") and ";16" in _raw_mode(image)


def read_deep_colour(image: Image.Image, reopen: Callable[[], Image.Image]) -> Picture:
    """The picture of an opened file for which `is_deep_colour` holds; `reopen` opens it a second time."""
    profile = image.info.get("icc_profile") or None
    if image.format == "PPM":
        return Picture(_read_ppm(image), None, None, "RGB;16")
    raw_mode = _raw_mode(image)
    if raw_mode.startswith("LA;16"):
        # Two bytes of gray and two of alpha are four bytes to Pillow.
        _set_raw_mode(image, "RGBA")
        pairs = np.asarray(image).astype(np.uint16)
        gray, plane = pairs[..., 0] << 8 | pairs[..., 1], pairs[..., 2] << 8 | pairs[..., 3]
        return Picture(gray[..., None], plane, profile, "LA;16")
    high = raw_mode.replace("RGBa", "RGBA")
    low = high[:-1] + _SWAPPED[high[-1]]
    other = reopen()
    _set_raw_mode(image, high)
    _set_raw_mode(other, low)
    pixels = np.asarray(image).astype(np.uint16)
    pixels <<= 8
    pixels |= np.asarray(other)
    colours = pixels[..., :3].copy()
    alpha: np.ndarray | None = None
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3].copy()
        if raw_mode.startswith("RGBa"):
            scaled = colours.astype(np.uint64) * 65535 // np.maximum(alpha, 1)[..., None]
            colours = np.minimum(scaled, 65535).astype(np.uint16)
    elif (key := image.info.get("transparency")) is not None:
        opaque = (colours != np.asarray(key, np.uint16)).any(axis=2)
        alpha = np.where(opaque, 65535, 0).astype(np.uint16)
    return Picture(colours, alpha, profile, image.mode + ";16")


def encode_png(picture: Picture) -> bytes:
    """16-bit PNG: gray, gray and alpha, RGB or RGBA, with the profile; filters chosen row by row."""
    stacked = picture.stacked()
    height, width, channels = stacked.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header)]
    if picture.icc_profile:
        chunks.append(chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc_profile)))
    compressor = zlib.compressobj(6)
    above = np.zeros(width * channels * 2, np.uint8)
    for top in range(0, height, _ROWS):
        rows = _bytes(stacked[top : top + _ROWS], ">u2")
        data = compressor.compress(_filter(rows, above, 2 * channels).tobytes())
        if data:
            chunks.append(chunk(b"IDAT", data))
        above = rows[-1]
    chunks += [chunk(b"IDAT", compressor.flush()), chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(chunks)


def encode_tiff(picture: Picture) -> bytes:
    """16-bit little-endian TIFF, deflated with horizontal prediction, alpha unassociated, with the profile.

    Gray with alpha is written as RGBA: libraries, Pillow among them, read no 16-bit TIFF of two channels.
    """
    stacked = picture.stacked()
    if stacked.shape[2] == 2:
        stacked = stacked[..., [0, 0, 0, 1]]
    height, width, channels = stacked.shape
    if stacked.nbytes > _TIFF_LIMIT:
        raise PictureError("a TIFF file holds at most 4 GB: write PNG instead")
    strips = []
    for top in range(0, height, _ROWS):
        rows = stacked[top : top + _ROWS].copy()
        rows[:, 1:] -= stacked[top : top + _ROWS, :-1]
        strips.append(zlib.compress(_bytes(rows, "<u2").tobytes(), 6))
    offsets = np.cumsum([8, *map(len, strips)])
    tags: list[tuple[int, int, bytes]] = [
        (256, 4, struct.pack("<I", width)),
        (257, 4, struct.pack("<I", height)),
        (258, 3, struct.pack("<H", 16) * channels),
        (259, 3, struct.pack("<H", 8)),  # Adobe deflate
        (262, 3, struct.pack("<H", 2 if channels >= 3 else 1)),
        (273, 4, offsets[:-1].astype("<u4").tobytes()),
        (277, 3, struct.pack("<H", channels)),
        (278, 4, struct.pack("<I", _ROWS)),
        (279, 4, np.array([*map(len, strips)], "<u4").tobytes()),
        (284, 3, struct.pack("<H", 1)),  # interleaved
        (317, 3, struct.pack("<H", 2)),  # horizontal prediction
    ]
    if picture.alpha is not None:
        tags.append((338, 3, struct.pack("<H", 2)))  # unassociated alpha
    if picture.icc_profile:
        tags.append((34675, 7, picture.icc_profile))
    return _tiff_file(b"".join(strips), tags)


def encode_ppm(picture: Picture) -> bytes:
    """16-bit binary PGM or PPM."""
    magic = "P6" if picture.pixels.shape[2] == 3 else "P5"
    header = f"{magic}\n{picture.width} {picture.height}\n65535\n".encode()
    return header + picture.pixels.astype(">u2").tobytes()


def _args(image: Image.Image) -> Any:
    tile = getattr(image, "tile", None)
    return tile[0].args if tile else ""


def _raw_mode(image: Image.Image) -> str:
    args = _args(image)
    return str(args[0] if isinstance(args, tuple) else args)


def _set_raw_mode(image: Any, name: str) -> None:
    image.tile = [
        tile._replace(args=(name, *tile.args[1:]) if isinstance(tile.args, tuple) else name)
        for tile in image.tile
    ]


def _read_ppm(image: Any) -> np.ndarray:
    """(H, W, 3) uint16 of a P6 or P3 file whose largest value exceeds 255, scaled to 65535 as PPM defines."""
    width, height = image.size
    tile = image.tile[0]
    largest, count = tile.args[1], width * height * 3
    image.fp.seek(tile.offset)
    if tile.codec_name == "ppm_plain":
        values = _plain_values(image.fp, count)
    else:
        values = np.frombuffer(image.fp.read(2 * count), ">u2")
    if values.size < count:
        raise PictureError(f"image file is truncated ({values.size} of {count} values)")
    if values.max() > largest:
        raise PictureError(f"a value of {values.max()} exceeds the header's largest, {largest}")
    if largest != 65535:
        return np.rint(values * 65535.0 / largest).astype(np.uint16).reshape(height, width, 3)
    return values.astype(np.uint16).reshape(height, width, 3)


def _plain_values(file: IO[bytes], count: int) -> np.ndarray:
    """The first `count` decimal numbers of file, uint16, or fewer where it ends; `#` comments out a line.

    Read a block at a time and no further than needed, whatever else the file holds.
    """
    values = np.empty(count, np.uint16)
    done, begun, in_comment = 0, b"", False
    while done < count:
        block = file.read(_BLOCK)
        text = begun + block
        if in_comment:
            text = b"#" + text
        in_comment = text.rfind(b"#") > max(text.rfind(b"\r"), text.rfind(b"\n"))
        text = re.sub(rb"#[^\r\n]*", b" ", text)
        words = text.split()
        # The last word may go on in the next block.
        begun = words.pop() if words and block and not text[-1:].isspace() else b""
        words = words[: count - done]
        if len(begun) > _DIGITS and len(words) < count - done:
            words.append(begun)
        wrong = next((w for w in words if len(w) > _DIGITS or not w.isdigit()), None)
        if wrong is not None:
            raise PictureError(f"{wrong[:20]!r} stands where a value of at most {_DIGITS} digits should")
        part = np.array(words, dtype=np.uint32)
        if part.size and part.max() > 65535:
            raise PictureError(f"a value of {part.max()} exceeds 65535")
        values[done : done + part.size] = part
        done += part.size
        if not block:
            break
    return values[:done]


def _bytes(rows: np.ndarray, dtype: str) -> np.ndarray:
    """(H, W, C) uint16 -> (H, W*C*2) uint8 in the byte order of dtype."""
    return np.ascontiguousarray(rows.astype(dtype)).view(np.uint8).reshape(len(rows), -1)


def _filter(rows: np.ndarray, above: np.ndarray, pixel: int) -> np.ndarray:
    """PNG's five filters on rows (H, B) uint8, the one of least absolute sum taken row by row:
    (H, 1 + B) with the filter's number in front. `above` is the row before; `pixel` bytes make a pixel."""
    x = rows.astype(np.int16)
    up = np.vstack([above[None], rows[:-1]]).astype(np.int16)
    left = np.zeros_like(x)
    left[:, pixel:] = x[:, :-pixel]
    corner = np.zeros_like(x)
    corner[:, pixel:] = up[:, :-pixel]
    estimate = left + up - corner
    to_left, to_up, to_corner = abs(estimate - left), abs(estimate - up), abs(estimate - corner)
    nearest = np.where(to_up <= to_corner, up, corner)
    paeth = np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest)
    filtered = np.stack([x, x - left, x - up, x - (left + up) // 2, x - paeth]).astype(np.uint8)
    cost = abs(filtered.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
    chosen = cost.argmin(axis=0)
    return np.hstack([chosen[:, None].astype(np.uint8), filtered[chosen, np.arange(len(rows))]])


def _tiff_file(strips: bytes, tags: list[tuple[int, int, bytes]]) -> bytes:
    """Header, strips from offset 8, then one directory with its values behind it."""
    strips += b"\0" * (len(strips) % 2)
    directory = 8 + len(strips)
    behind = directory + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, kind, data in tags:
        count = len(data) // {3: 2, 4: 4, 7: 1}[kind]
        if len(data) <= 4:
            field = data.ljust(4, b"\0")
        else:
            field = struct.pack("<I", behind + len(values))
            values += data + b"\0" * (len(data) % 2)
        entries += struct.pack("<HHI", tag, kind, count) + field
    head = struct.pack("<2sHI", b"II", 42, directory)
    return head + strips + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + values
