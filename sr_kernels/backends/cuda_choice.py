# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Which backend takes less time on an NVIDIA GPU where several are able: what was measured, in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sr_kernels.backends import cuda_check, cuda_plan, registry
from sr_kernels.backends.base import ConvArgs


@dataclass(frozen=True)
class Fact:
    """Where `faster` takes less time than `slower`."""

    slower: str
    faster: str
    ops: tuple[str, ...]
    holds: Callable[[Any], bool]  # of the op's arguments; by device, dtype, shapes and strides alone
    figures: str  # hardware, layer, both times; docs/gpu.md says how they were taken


def capability(a: ConvArgs) -> int:
    """Compute capability of the input's device, 10 * major + minor."""
    major, minor = torch.cuda.get_device_capability(a.input.device)
    return 10 * major + minor


def _has_special(a: ConvArgs) -> bool:
    return cuda_plan.has_special(a, cuda_check.left_out(a.input.device))


_FIRST = 8  # inputs, at most, of layers that Triton's kernels compute as one product of all taps

# The first backend of the order runs what no fact speaks of.
FACTS: tuple[Fact, ...] = (
    Fact(
        "cuda",
        "triton",
        ("conv2d",),
        lambda a: capability(a) == 90 and not _has_special(a),
        "on an H100 the portable CUDA kernels are the slower ones; float16 at 720x1280: 3x3 of stride 2 "
        "434 us against 70, 12->12 204 against 67, 5x5 3->64 330 against 100, 9x9 64->3 639 against 293",
    ),
    Fact(
        "triton",
        "torch",
        ("conv2d",),
        lambda a: a.input.dtype == torch.float32 and a.weight.shape[1] > _FIRST,
        "products in float32 are cuDNN's; on an H100 64->64 at 360x640 takes 697 us in it, 234 with TF32, "
        "and 2595 in Triton",
    ),
    Fact(
        "cuda",
        "triton",
        ("pixel_shuffle", "pixel_unshuffle"),
        lambda args: True,
        "on an H100 64 channels of 720x1280 in float16 took 852 us in CUDA C++ while it moved one element a "
        "thread, and 80 in Triton; what moves 16 bytes has not been measured",
    ),
    Fact(
        "cuda",
        "triton",
        ("image_to_float", "float_to_image"),
        lambda args: True,
        "on an H100 an 8-bit picture of 2880x5120 takes 89 us to floats in CUDA C++ and 78 in Triton, and 75 "
        "and 73 back",
    ),
)


def slower(backend: str, op: str, args: object) -> list[str]:
    """See Backend.slower; a fact counts where the faster backend can run the call."""
    return [
        f"{fact.faster} takes less time: {fact.figures}"
        for fact in FACTS
        if fact.slower == backend and op in fact.ops and fact.holds(args) and _is_able(fact.faster, op, args)
    ]


def _is_able(backend: str, op: str, args: object) -> bool:
    return not registry.unavailable(backend) and not registry.find(backend).reasons(op, args)
