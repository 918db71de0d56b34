# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Architecture, layout and sizes of a state dict, from its keys and shapes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sr_kernels.models.layouts import LAYOUTS, REFUSED, CheckpointError, State


@dataclass(frozen=True)
class Detected:
    """sizes: the model's arguments that the weights tell. open: arguments that they don't, with the reason
    why one must be given, or None where a default serves."""

    architecture: str
    layout: str
    state: State
    sizes: dict[str, Any]
    open: dict[str, str | None]


def detect(state: State) -> Detected:
    """Raises CheckpointError for another architecture, or shapes that contradict each other."""
    for pattern, name in REFUSED:
        for key in state:
            if re.fullmatch(pattern, key):
                raise CheckpointError(f"this is {name}, which is not supported (key {key!r})")
    for layout in LAYOUTS:
        if layout.matches(state):
            converted = layout.convert(state)
            sizes, open = _SIZES[layout.architecture](converted)
            return Detected(layout.architecture, layout.name, converted, sizes, open)
    known = ", ".join(f"{x.architecture} ({x.name})" for x in LAYOUTS)
    raise CheckpointError(
        f"no known architecture: the weights hold {len(state)} tensors, {_some(state)}; known are {known}"
    )


def _some(keys: Iterable[str], limit: int = 5) -> str:
    keys = list(keys)
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more


def _shape(state: State, key: str, rank: int = 4) -> tuple[int, ...]:
    tensor = state.get(key)
    if tensor is None:
        raise CheckpointError(f"the checkpoint lacks {key!r}")
    if not isinstance(tensor, Tensor) or tensor.dim() != rank or 0 in tensor.shape:
        found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise CheckpointError(f"{key!r} of the checkpoint is {found}; a shape of {rank} sizes was expected")
    return tuple(tensor.shape)


def _count(state: State, pattern: str) -> int:
    """How many different numbers the pattern's group takes; they must be 0, 1, 2, ... without a gap."""
    numbers = sorted({int(m[1]) for key in state if (m := re.fullmatch(pattern, key))})
    if numbers != list(range(len(numbers))):
        gap = next(i for i, n in enumerate(numbers) if i != n)
        raise CheckpointError(f"the checkpoint's blocks have a gap: number {gap} of {pattern!r} is missing")
    return len(numbers)


def _root(key: str, product: int, channels: int) -> int:
    """The factor r of product == channels * r * r."""
    factor = math.isqrt(product // channels)
    if factor < 1 or channels * factor * factor != product:
        raise CheckpointError(
            f"{key!r} of the checkpoint has {product} outputs: not {channels} channels times a square"
        )
    return factor


def _srvgg(state: State) -> tuple[dict[str, Any], dict[str, str | None]]:
    last = max(int(m[1]) for key in state if (m := re.fullmatch(r"body\.(\d+)\.weight", key)))
    features, channels = _shape(state, "body.0.weight")[:2]
    outputs = _shape(state, f"body.{last}.weight")[0]
    if last % 2 or last // 2 > len(state):
        raise CheckpointError(f"the last layer is body.{last}: not an even number, or layers are missing")
    sizes: dict[str, Any] = {
        "scale": _root(f"body.{last}.weight", outputs, channels),
        "channels": channels,
        "num_feat": features,
        "num_conv": (last - 2) // 2,
    }
    if any(int(m[1]) % 2 for key in state if (m := re.fullmatch(r"body\.(\d+)\.weight", key))):
        return {**sizes, "activation": "prelu"}, {}
    why = "the weights have no PReLU slopes and do not tell it; give activation='relu' or 'leaky_relu'"
    return sizes, {"activation": why}


def _espcn(state: State) -> tuple[dict[str, Any], dict[str, str | None]]:
    first, channels = _shape(state, "first_part.0.weight")[:2]
    second = _shape(state, "first_part.2.weight")[0]
    outputs = _shape(state, "last_part.0.weight")[0]
    scale = _root("last_part.0.weight", outputs, channels)
    return {"scale": scale, "channels": channels, "features": (first, second)}, {}


def _fsrcnn(state: State) -> tuple[dict[str, Any], dict[str, str | None]]:
    d, channels = _shape(state, "first_part.0.weight")[:2]
    s = _shape(state, "mid_part.0.weight")[0]
    layers = _count(state, r"mid_part\.(\d+)\.weight")
    sizes = {"channels": channels, "d": d, "s": s, "m": layers // 2 - 2}
    return sizes, {"scale": "FSRCNN's weights have the same shapes for every scale; give scale="}


def _edsr(state: State) -> tuple[dict[str, Any], dict[str, str | None]]:
    features, channels = _shape(state, "conv_first.weight")[:2]
    scale = 1
    for i in range(0, 2 * len(state), 2):
        if f"upsample.{i}.weight" not in state:
            break
        outputs = _shape(state, f"upsample.{i}.weight")[0]
        scale *= _root(f"upsample.{i}.weight", outputs, features)
    sizes: dict[str, Any] = {
        "scale": scale,
        "channels": channels,
        "num_feat": features,
        "num_block": _count(state, r"body\.(\d+)\.conv1\.weight"),
    }
    open: dict[str, str | None] = {"res_scale": None, "rgb_mean": None, "image_range": None}
    sizes |= _mean_shift(state, channels)
    return sizes, {name: why for name, why in open.items() if name not in sizes}


def _mean_shift(state: State, channels: int) -> dict[str, Any]:
    """The mean and range that sub_mean and add_mean were made from: biases -range * mean and its opposite."""
    shifts = {name: state.pop(f"{name}.bias", None) for name in ("sub_mean", "add_mean")}
    for name, bias in shifts.items():
        if bias is None:
            continue
        if bias.shape != (channels,):
            raise CheckpointError(
                f"'{name}.bias' of the checkpoint is {tuple(bias.shape)}, not ({channels},)"
            )
        if not bool(bias.isfinite().all()):
            raise CheckpointError(f"'{name}.bias' of the checkpoint holds NaN or infinite values")
    shift, back = shifts.values()
    if shift is None and back is None:
        return {}
    if shift is None or back is None or not bool((shift == -back).all()):
        found = ", ".join(f"{name} {None if b is None else b.tolist()}" for name, b in shifts.items())
        raise CheckpointError(f"the checkpoint's mean shifts are not each other's opposite: {found}")
    if not shift.any():
        return {"rgb_mean": (0.0,) * channels}  # of any range
    image_range = 255.0 if float(shift.abs().max()) > 1 else 1.0  # a mean is below 1
    return {"image_range": image_range, "rgb_mean": tuple(round(-float(v) / image_range, 6) for v in shift)}


def _rrdbnet(state: State) -> tuple[dict[str, Any], dict[str, str | None]]:
    features, inputs = _shape(state, "conv_first.weight")[:2]
    channels = _shape(state, "conv_last.weight")[0]
    unshuffle = {4 * channels: 2, 16 * channels: 4}.get(inputs, 1)
    doublings = sum(re.fullmatch(r"conv_up\d+\.weight", key) is not None for key in state)
    if 2**doublings % unshuffle:
        raise CheckpointError(
            f"{doublings} doublings after a pixel-unshuffle of {unshuffle} is no enlargement"
        )
    return {
        "scale": 2**doublings // unshuffle,
        "in_channels": inputs // unshuffle**2,
        "out_channels": channels,
        "num_feat": features,
        "num_block": _count(state, r"body\.(\d+)\.rdb1\.conv1\.weight"),
        "num_grow_ch": _shape(state, "body.0.rdb1.conv1.weight")[0],
        "unshuffle": unshuffle,
    }, {}


_SIZES: dict[str, Callable[[State], tuple[dict[str, Any], dict[str, str | None]]]] = {
    "srvgg": _srvgg,
    "espcn": _espcn,
    "fsrcnn": _fsrcnn,
    "edsr": _edsr,
    "rrdbnet": _rrdbnet,
}
