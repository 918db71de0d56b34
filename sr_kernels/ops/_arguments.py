# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Bringing what a caller may write into the flat form of the schemas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

Residual = Tensor | Sequence[tuple[Tensor, float]]


def tensors(op: str, **named: object) -> None:
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}")


def optional_tensors(op: str, **named: object) -> None:
    for name, value in named.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{op}: {name} must be a tensor or None, got {type(value).__name__}")


def pair(op: str, name: str, value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{op}: {name} must be an int or a pair (height, width), got {value!r}")
        return value[0], value[1]
    return value, value  # type: ignore[return-value]


def padding(
    op: str,
    value: int | str | Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int] = (1, 1),
    dilation: Sequence[int] = (1, 1),
) -> tuple[int, int, int, int]:
    """(left, right, top, bottom); "same" puts an odd pixel right and below, as torch does."""
    if isinstance(value, str):
        if value == "valid":
            return 0, 0, 0, 0
        if value != "same":
            raise ValueError(f"{op}: padding must be numbers, 'same' or 'valid', got {value!r}")
        if tuple(stride) != (1, 1):
            raise ValueError(f"{op}: padding='same' needs stride 1, got {tuple(stride)}; give numbers")
        height, width = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return width // 2, width - width // 2, height // 2, height - height // 2
    if isinstance(value, (tuple, list)) and len(value) == 4:
        sides = (value[0], value[1], value[2], value[3])
    elif isinstance(value, (tuple, list)) and len(value) != 2:
        raise ValueError(
            f"{op}: padding must be an int, (height, width) or (left, right, top, bottom), got {value!r}"
        )
    else:
        height, width = pair(op, "padding", value)
        sides = (width, width, height, height)
    if any(side < 0 for side in sides):
        raise ValueError(f"{op}: padding must not be negative, got {value!r}; crop the input instead")
    return sides


def residuals(op: str, value: Residual | None) -> tuple[Tensor | None, float, Tensor | None, float]:
    """(residual1, its weight, residual2, its weight) of None, a tensor, or at most two (tensor, weight)."""
    if value is None:
        return None, 1.0, None, 1.0
    if isinstance(value, Tensor):
        return value, 1.0, None, 1.0
    if not isinstance(value, (list, tuple)):
        raise TypeError(
            f"{op}: residual must be a tensor or a list of (tensor, weight), got {type(value).__name__}"
        )
    flat: list[Any] = []
    for item in value:
        if not isinstance(item, (list, tuple)) or len(item) != 2 or not isinstance(item[0], Tensor):
            raise TypeError(f"{op}: residual must hold pairs (tensor, weight), got {type(item).__name__}")
        flat += [item[0], float(item[1])]
    if len(value) > 2:
        raise ValueError(
            f"{op}: residual may hold two pairs, got {len(value)}; add the rest with residual_add"
        )
    flat += [None, 1.0] * (2 - len(value))
    return flat[0], flat[1], flat[2], flat[3]


def pairs(
    residual1: Tensor | None, weight1: float, residual2: Tensor | None, weight2: float
) -> tuple[tuple[Tensor, float], ...]:
    """The flat form back as pairs."""
    if residual1 is None:
        return () if residual2 is None else ((residual2, weight2),)
    return ((residual1, weight1),) if residual2 is None else ((residual1, weight1), (residual2, weight2))
