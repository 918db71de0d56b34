# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a problem has to do at least: the operations of its convolutions and the bytes that they move.

The floor of Williams, Waterman and Patterson's model (Roofline, 2009), convolution by convolution: each takes
at least its operations at the measured rate of a matrix product, and at least its input, weights and output,
once each, at the measured rate of a copy.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.device import Device
from sr_kernels.bench.problem import Problem


@dataclass(frozen=True)
class Ceilings:
    """Measured: 10^9 bytes a second of a copy, reads and writes; 10^12 operations a second of a matrix
    product."""

    copy: float
    matmul: float


@dataclass(frozen=True)
class Step:
    """Like convolutions: how many, the operations and bytes of one."""

    count: int
    gflop: float
    gigabytes: float


@dataclass(frozen=True)
class Work:
    """The convolutions of a problem, or the one step of an op that only moves values."""

    steps: tuple[Step, ...]

    @property
    def gigabytes(self) -> float:
        """Of all steps."""
        return sum(step.count * step.gigabytes for step in self.steps)

    def floor(self, ceilings: Ceilings) -> float:
        """Milliseconds that it takes at least."""
        return 1e3 * sum(
            step.count * max(step.gflop / 1e3 / ceilings.matmul, step.gigabytes / ceilings.copy)
            for step in self.steps
        )


class _Convolutions(TorchDispatchMode):
    """Notes the operations and bytes of every convolution.

    An input that was enlarged by repetition counts with its smaller size and the taps that reach different
    pixels: the enlargement need not be written, nor its equal products be computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[float, float]] = Counter()
        self.enlarged: list[tuple[Tensor, Tensor, int]] = []  # result, what it was made from, factor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **(kwargs or {}))
        name = func.name().partition(".")[0]
        if name == "aten::upsample_nearest2d":
            self.enlarged.append((y, args[0], y.shape[-1] // args[0].shape[-1]))
        elif name == "aten::convolution":
            x, weight, transposed = args[0], args[1], args[6]
            pixels = (x if transposed else y).shape
            flop = 2.0 * pixels[0] * pixels[2] * pixels[3] * weight.numel()
            for big, small, factor in self.enlarged:
                if big is x:
                    x = small
                    flop *= _taps(weight.shape[2], factor) * _taps(weight.shape[3], factor)
            self.found[flop / 1e9, _gigabytes(x, weight, y)] += 1
        return y


def _taps(size: int, factor: int) -> float:
    """The share of different pixels among those that `size` taps reach, averaged over the phases."""
    half = size // 2
    reached = [len({(phase + tap - half) // factor for tap in range(size)}) for phase in range(factor)]
    return sum(reached) / factor / size


def _gigabytes(*tensors: Tensor) -> float:
    return sum(t.numel() * t.element_size() for t in tensors) / 1e9


def work(problem: Problem, y: Tensor) -> Work:
    """Of a problem whose result is y. Where one step is all, its residuals and base count too."""
    mode = _Convolutions()
    with torch.no_grad(), mode:
        copy.deepcopy(problem.plain).to("meta")(*(x.to("meta") for x in problem.inputs))
    steps = tuple(Step(count, *pair) for pair, count in mode.found.items())
    if sum(step.count for step in steps) > 1:
        return Work(steps)
    moved = _gigabytes(*problem.inputs, *problem.plain.parameters(), y)
    return Work((Step(1, steps[0].gflop if steps else 0.0, moved),))


def ceilings(device: Device, dtype: torch.dtype) -> Ceilings:
    """A copy far beyond the caches, and a product of matrices of random values."""
    real = device.type == "cuda"
    size, edge = (2 << 30, 8192) if real else (1 << 20, 128)
    x = torch.randn(size // dtype.itemsize, device=device.type, dtype=dtype)
    z = torch.empty_like(x)
    copied = _median(device, lambda: z.copy_(x))
    a, b = (torch.randn(edge, edge, device=device.type, dtype=dtype) for _ in range(2))
    multiplied = _median(device, lambda: a @ b)
    return Ceilings(2 * size / copied / 1e9, 2 * edge**3 / multiplied / 1e12)


def _median(device: Device, call: Any, rounds: int = 15) -> float:
    """Seconds of a call."""
    for _ in range(3):
        call()
    times = sorted(device.timer(call, 1) for _ in range(rounds))
    return times[len(times) // 2]
