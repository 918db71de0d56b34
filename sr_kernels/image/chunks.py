# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""PNG's chunks (W3C PNG, third edition): one made, and a file taken apart as far as its colour profile."""

from __future__ import annotations

import contextlib
import struct
import zlib
from typing import IO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONGEST_PROFILE = 2**20  # bytes; Pillow takes a longer one for a decompression bomb and refuses the picture


def chunk(name: bytes, data: bytes) -> bytes:
    """Length, name, data, checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def without_long_profile(file: IO[bytes]) -> bytes | None:
    """The PNG file without its colour profile, where that is longer than LONGEST_PROFILE bytes; else None,
    for other formats and damaged files too. The profile is decompressed no further than that."""
    file.seek(0)
    if file.read(8) != SIGNATURE:
        return None
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name in (b"IDAT", b"IEND"):
            return None
        if name != b"iCCP":
            file.seek(length + 4, 1)
            continue
        begin = file.tell() - 8
        # A name, its terminating zero, the method, then the stream.
        compressed = file.read(length).partition(b"\0")[2][1:]
        with contextlib.suppress(zlib.error):
            if len(zlib.decompressobj().decompress(compressed, LONGEST_PROFILE + 1)) > LONGEST_PROFILE:
                file.seek(begin + length + 12)
                rest = file.read()
                file.seek(0)
                return file.read(begin) + rest
        return None
    return None
