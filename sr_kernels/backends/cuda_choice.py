# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Which backend takes less time on an NVIDIA GPU where several are able: what was measured, in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sr_kernels.backends import registry
from sr_kernels.backends.base import ConvArgs


@dataclass(frozen=True)
class Fact:
    """Where `faster` takes less time for a convolution than `slower`."""

    slower: str
    faster: str
    holds: Callable[[ConvArgs], bool]  # by device, dtype, shapes and strides alone
    figures: str  # hardware, layer, both times


# The first backend of the order runs what no fact speaks of.
FACTS: tuple[Fact, ...] = ()


def capability(a: ConvArgs) -> int:
    """Compute capability of the input's device, 10 * major + minor."""
    major, minor = torch.cuda.get_device_capability(a.input.device)
    return 10 * major + minor


def slower(backend: str, op: str, args: object) -> list[str]:
    """See Backend.slower; a fact counts where the faster backend can run the call."""
    if not isinstance(args, ConvArgs):
        return []
    return [
        f"{fact.faster} takes less time: {fact.figures}"
        for fact in FACTS
        if fact.slower == backend and fact.holds(args) and _is_able(fact.faster, op, args)
    ]


def _is_able(backend: str, op: str, args: ConvArgs) -> bool:
    return not registry.unavailable(backend) and not registry.find(backend).reasons(op, args)
