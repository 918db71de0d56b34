# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Launch configurations: a shipped table per chip, the user's own on disk, and a rule for what is in neither.

The key names what decides the time of a tile: how the input is read, channels, window, stride, element size.
`sr-kernels tune` fills the user's table; nothing is ever measured inside a forward.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from sr_kernels import config

LOADS = ("boxes", "pointers", "window", "taps")
LARGEST_TILE = 128  # rows and columns, at most: offsets within a tile must fit in 32 bits


@dataclass(frozen=True, slots=True)
class Config:
    """A program's share: th x tw pixels by bn packed channels, bk inputs (or taps) at a time. Of "taps",
    whose programs compute all channels, bn says nothing and is 16."""

    th: int
    tw: int
    bn: int
    bk: int
    warps: int = 4
    stages: int = 3
    swap: bool = False  # weights are the left operand of the product

    def __post_init__(self) -> None:
        for name in ("th", "tw", "bn", "bk", "warps"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, got {value!r}")
        if self.bn < 16 or self.bk < 16 or self.th * self.tw < 16:
            raise ValueError(
                f"bn, bk and th*tw must be at least 16, got {self.bn}, {self.bk}, {self.th * self.tw}"
            )
        if max(self.th, self.tw) > LARGEST_TILE:
            raise ValueError(f"th and tw must be at most {LARGEST_TILE}, got {self.th}, {self.tw}")
        if not 1 <= self.stages <= 8:
            raise ValueError(f"stages must be 1 to 8, got {self.stages}")


@dataclass(frozen=True, slots=True)
class Layer:
    """What a configuration is chosen by."""

    load: str
    ci: int
    co: int
    kh: int
    kw: int
    stride: int
    bytes: int  # of an element

    def key(self) -> str:
        """Such as "boxes 64->64 3x3 s1 16-bit"."""
        return f"{self.load} {self.ci}->{self.co} {self.kh}x{self.kw} s{self.stride} {8 * self.bytes}-bit"


def power_of_two(value: int) -> int:
    """The least power of two that is not below value."""
    return 1 << max(value - 1, 0).bit_length()


def default(layer: Layer) -> Config:
    """The rule for layers that no table has."""
    bn = min(max(power_of_two(layer.co), 16), 64)
    if layer.load == "taps" and layer.bytes == 4:
        return Config(2, 64, 16, min(max(power_of_two(layer.ci), 16), 32), 8, 2)
    if layer.load == "taps":
        return Config(4, 64, 16, min(max(power_of_two(layer.ci), 16), 64), 8, 3)
    if layer.load == "window":
        return Config(8, 16, bn, 32, 4, 2)
    bk = min(max(power_of_two(layer.ci), 16), 64 if layer.bytes == 2 else 32)
    if layer.bytes == 4:
        return Config(8, 8, min(bn, 32), bk, 4, 2)
    if layer.load == "pointers":
        return Config(8, 16, bn, min(bk, 32), 4, 3)
    return Config(8, 16, bn, bk, 4, 4)


@functools.cache
def shipped(chip: str) -> Mapping[str, Config]:
    """The table of the package for a chip such as "sm_90"; empty for one that it has none for."""
    file = resources.files(__package__).joinpath("tables", f"{chip}.json")
    return _parse(json.loads(file.read_text())) if file.is_file() else {}


def chips() -> list[str]:
    """Those that the package has tables for."""
    found = resources.files(__package__).joinpath("tables").iterdir()
    return sorted(file.name.removesuffix(".json") for file in found if file.name.endswith(".json"))


def _parse(table: Mapping[str, Any]) -> dict[str, Config]:
    return {key: Config(**value) for key, value in table.items()}


def _path() -> str:
    return os.path.join(config.get("SR_KERNELS_CACHE_DIR"), "triton.json")


_tuned: dict[str, Mapping[str, Config]] = {}


def tuned(device: str) -> Mapping[str, Config]:
    """The user's table for a device (its name with the versions of driver and triton)."""
    found = _tuned.get(device)
    if found is None:
        found = {}
        # a spoilt file is no table
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError), open(_path()) as file:
            found = _parse(json.load(file).get(device, {}))
        _tuned[device] = found
    return found


def keep(device: str, table: Mapping[str, Config]) -> str:
    """Adds to the user's table for a device; the file's path. Raises OSError where it cannot be written."""
    path = _path()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    everything: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        loaded = json.loads(Path(path).read_text())
        everything = loaded if isinstance(loaded, dict) else {}
    merged = {**tuned(device), **table}
    everything[device] = {key: asdict(value) for key, value in sorted(merged.items())}
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix="triton")
    with os.fdopen(handle, "w") as file:
        json.dump(everything, file, indent=1)
    os.replace(temporary, path)
    _tuned[device] = merged
    return path


def choose(layer: Layer, chip: str, device: str) -> Config:
    """The user's configuration, else the shipped one, else the rule's."""
    key = layer.key()
    return tuned(device).get(key) or shipped(chip).get(key) or default(layer)
