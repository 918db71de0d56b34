# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether an optimised module is faster than the module itself, here."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sr_kernels.optimizer.module import assembled
from sr_kernels.optimizer.region import Region
from sr_kernels.optimizer.report import Report, Timing
from sr_kernels.optimizer.samples import Sample

_FEWEST, _MOST = 3, 15  # rounds, beside one that is not counted
_SECONDS = 1.0  # after which there are no further ones
_SLOWER = 0.97  # ratios of the shortest runs below, in two measurements, are no noise


def kept(model: nn.Module, regions: dict[str, Region], sample: Sample, report: Report) -> dict[str, Region]:
    """The regions, or none where they take more time than the module itself; the report is told."""
    fast = assembled(model, regions)
    report.time = _measured(model, fast, sample)
    if report.time.ratio < _SLOWER:
        again = _measured(model, fast, sample)
        if again.ratio < _SLOWER:
            report.undone["all rewrites"] = f"not faster: {again.ratio:.2f} times eager's speed"
            return {}
        report.time = again
    return regions


def _measured(model: nn.Module, fast: nn.Module, sample: Sample) -> Timing:
    sample = sample.to_copy()
    last = Sample(*tree_map(_channels_last, (sample.args, sample.kwargs)))
    runs = {"eager": (model, sample), "channels_last": (model, last), "ours": (fast, sample)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    begin = time.perf_counter()
    with torch.inference_mode():
        for i in range(1 + _MOST):
            if i > _FEWEST and time.perf_counter() - begin > _SECONDS:
                break
            for name, (module, arguments) in runs.items():
                start = time.perf_counter()
                arguments.run(module)
                _finish(sample)
                if i:
                    times[name].append((time.perf_counter() - start) * 1e3)
    best = {name: min(found) for name, found in times.items()}
    shape = next((tuple(x.shape) for x in sample.tensors()), ())
    return Timing(shape, best["eager"], best["channels_last"], best["ours"])


def _finish(sample: Sample) -> None:
    if any(x.is_cuda for x in sample.tensors()):
        torch.cuda.synchronize()


def _channels_last(x: Any) -> Any:
    is_picture = isinstance(x, Tensor) and x.dim() == 4
    return x.contiguous(memory_format=torch.channels_last) if is_picture else x
