# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Bringing what a caller may write into the flat form of the schemas."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Sequence
from typing import Any

import torch
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


def integer(op: str, name: str, value: Any, wanted: str = "an int") -> int:
    """value as the schema takes it: also numpy's integers and, traced, symbolic ones."""
    if isinstance(value, int):
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be {wanted}, got {value!r}; {_cure(value)}") from None


def _cure(value: object) -> str:
    return "round it" if isinstance(value, numbers.Real) else "give whole numbers"


def number(op: str, name: str, value: Any) -> float:
    """value as the schema takes it. A tensor is refused: it would lose its gradient without a word."""
    if isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        return value  # type: ignore[return-value]
    if not isinstance(value, numbers.Real):
        cure = "; use its .item()" if isinstance(value, Tensor) else ""
        raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}{cure}")
    return float(value)


def flag(op: str, name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be True or False, got {value!r}")
    return value


def text(op: str, name: str, value: object, default: str) -> str:
    """value, or the schema's word for None."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{op}: {name} must be a string or None, got {type(value).__name__}")
    return value or default


def pair(op: str, name: str, value: int | Sequence[int]) -> tuple[int, int]:
    if type(value) is int:
        return value, value
    wanted = "an int or a pair (height, width) of ints"
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{op}: {name} must be {wanted}, got {value!r}")
        return integer(op, name, value[0], wanted), integer(op, name, value[1], wanted)
    both = integer(op, name, value, wanted)
    return both, both


def padding(
    op: str,
    value: int | str | Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int] = (1, 1),
    dilation: Sequence[int] = (1, 1),
) -> tuple[int, int, int, int]:
    """(left, right, top, bottom); "same" puts an odd pixel right and below, as torch does."""
    if type(value) is int and value >= 0:
        return value, value, value, value
    if isinstance(value, str):
        if value == "valid":
            return 0, 0, 0, 0
        if value != "same":
            raise ValueError(f"{op}: padding must be numbers, 'same' or 'valid', got {value!r}")
        if tuple(stride) != (1, 1):
            raise ValueError(f"{op}: padding='same' needs stride 1, got {tuple(stride)}; give numbers")
        height, width = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return width // 2, width - width // 2, height // 2, height - height // 2
    wanted = "an int, (height, width), (left, right, top, bottom), 'same' or 'valid'"
    given: tuple[Any, ...] = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(given) not in (2, 4):
        raise ValueError(f"{op}: padding must be {wanted}, got {value!r}")
    given = tuple(integer(op, "padding", side, wanted) for side in given)
    if len(given) == 2:
        height, width = given
        sides = (width, width, height, height)
    else:
        sides = (given[0], given[1], given[2], given[3])
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
        flat += [item[0], number(op, "the weight of a residual", item[1])]
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
