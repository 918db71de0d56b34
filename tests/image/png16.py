# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A second, plain encoder of 16-bit PNG, to test reading with: every filter in turn, and interlacing."""

from __future__ import annotations

import struct
import zlib

import numpy as np

COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png16(
    pixels: np.ndarray, interlaced: bool = False, chunks: tuple[tuple[bytes, bytes], ...] = ()
) -> bytes:
    """pixels (H, W, 1..4) uint16 -> a PNG file; `chunks` go between the header and the pixels."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPE[channels], 0, 0, int(interlaced))
    if interlaced:
        passes = [pixels[y::dy, x::dx] for y, x, dy, dx in ADAM7]
        data = b"".join(filtered(p) for p in passes if p.size)
    else:
        data = filtered(pixels)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, content) for name, content in body)


def chunk(name: bytes, content: bytes) -> bytes:
    """Length, name, content, checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def filtered(pixels: np.ndarray) -> bytes:
    """Rows with filter types 0, 1, 2, 3, 4, 0, 1 ... byte by byte, as the specification words it."""
    rows = pixels.astype(">u2").reshape(len(pixels), -1).view(np.uint8).tolist()
    step = 2 * pixels.shape[2]
    above = [0] * len(rows[0])
    out = bytearray()
    for y, row in enumerate(rows):
        out.append(y % 5)
        for i, x in enumerate(row):
            a, b = row[i - step] if i >= step else 0, above[i]
            c = above[i - step] if i >= step else 0
            out.append((x - (0, a, b, (a + b) // 2, paeth(a, b, c))[y % 5]) % 256)
        above = row
    return bytes(out)


def paeth(a: int, b: int, c: int) -> int:
    """The neighbour nearest to a + b - c, left before up before corner."""
    return min((a, b, c), key=lambda n: abs(a + b - c - n))
