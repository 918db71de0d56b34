# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether an optimised module is faster than the module itself, here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sr_kernels.optimizer.module import assembled
from sr_kernels.optimizer.region import Region
from sr_kernels.optimizer.samples import Sample

if TYPE_CHECKING:
    from sr_kernels.optimizer.report import Report

_SIDE = 128  # pixels of a made-up picture that times are taken on
_LONGEST = 0.5  # seconds of one run
_ROUNDS = 5
_SLOWER = 0.95  # ratios below, twice, are no noise


@dataclass(frozen=True)
class Timing:
    """The shortest of interleaved runs, which other load disturbs least, milliseconds."""

    shape: tuple[int, ...]
    eager: float
    eager_channels_last: float
    ours: float

    @property
    def ratio(self) -> float:
        """How many times as fast as the faster eager."""
        return min(self.eager, self.eager_channels_last) / self.ours


def kept(
    model: nn.Module, regions: dict[str, Region], tried: Sequence[Sample], report: Report, *, made_up: bool
) -> dict[str, Region]:
    """The regions, or none where they take more time than the module itself; the report is told."""
    fast = assembled(model, regions)
    sample = _large(model, tried[0]) if made_up else tried[0]
    report.time = _measured(model, fast, sample)
    if report.time.ratio < _SLOWER:
        again = _measured(model, fast, sample)
        if again.ratio < _SLOWER:
            report.undone["all rewrites"] = f"not faster: {again.ratio:.2f} times eager's speed"
            return {}
        report.time = again
    return regions


def _large(model: nn.Module, sample: Sample) -> Sample:
    """A sample of the size that a picture's tile has, unless the model takes too long for it."""
    start = time.perf_counter()
    with torch.no_grad():
        sample.run(model)
    taken = time.perf_counter() - start
    pixels = next((x.shape[-1] * x.shape[-2] for x in sample.tensors()), _SIDE * _SIDE)
    if taken * _SIDE * _SIDE / pixels > _LONGEST:
        return sample

    def enlarged(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dim() != 4:
            return x
        return torch.rand((1, x.shape[1], _SIDE, _SIDE), device=x.device).to(x.dtype)

    large = Sample([enlarged(x) for x in sample.args], sample.kwargs)
    try:
        with torch.no_grad():
            large.run(model)
    except Exception:  # a model of one size
        return sample
    return large


def _measured(model: nn.Module, fast: nn.Module, sample: Sample) -> Timing:
    last = Sample([_channels_last(x) for x in sample.args], sample.kwargs)
    runs = {
        "eager": (model, sample),
        "channels_last": (model, last),
        "ours": (fast, sample),
        "fast": (fast, last),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for i in range(_ROUNDS + 1):
            for name, (module, arguments) in runs.items():
                start = time.perf_counter()
                arguments.run(module)
                _finish(sample)
                if i:
                    times[name].append((time.perf_counter() - start) * 1e3)
    best = {name: min(found) for name, found in times.items()}
    shape = next((tuple(x.shape) for x in sample.tensors()), ())
    return Timing(shape, best["eager"], best["channels_last"], min(best["ours"], best["fast"]))


def _finish(sample: Sample) -> None:
    if any(x.is_cuda for x in sample.tensors()):
        torch.cuda.synchronize()


def _channels_last(x: Any) -> Any:
    is_picture = isinstance(x, Tensor) and x.dim() == 4
    return x.contiguous(memory_format=torch.channels_last) if is_picture else x
