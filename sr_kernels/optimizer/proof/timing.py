# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether an optimised module, and each of its regions, is faster than the module itself, here."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sr_kernels.optimizer.module import assembled
from sr_kernels.optimizer.region import Region
from sr_kernels.optimizer.report import ALL_REWRITES, Report, Timing
from sr_kernels.optimizer.samples import Sample, watched

_FEWEST, _MOST = 3, 15  # rounds, beside one that is not counted
_SECONDS = 1.0  # after which there are no further ones
_SLOWER = 0.97  # ratios of the shortest runs below, in two measurements, are no noise
_GAIN = 0.97  # of a part's time in eager, at most; the same of all, for it is to be worth the rounding


def kept(model: nn.Module, regions: dict[str, Region], sample: Sample, report: Report) -> dict[str, Region]:
    """The regions, or none where they take more time than the module itself; the report is told."""
    fast = assembled(model, regions)
    report.time = _compared(model, fast, sample)
    if report.time.ratio < _SLOWER:
        again = _compared(model, fast, sample)
        if again.ratio < _SLOWER:
            report.undone[ALL_REWRITES] = f"not faster: {again.ratio:.2f} times eager's speed"
            return {}
        report.time = again
    return regions


def gainful(
    model: nn.Module, regions: dict[str, Region], sample: Sample, report: Report
) -> dict[str, Region]:
    """Those regions of parts that take clearly less time than these, without what runs of other parts in
    them; none where all of them save next to nothing. The report is told of the rest."""
    if regions.keys() <= {""}:
        return regions
    sample = sample.to_copy()
    eager, ours = _Clock(sample), _Clock(sample)
    fast = assembled(model, regions)
    modules = {path: (model.get_submodule(path), fast.get_submodule(path)) for path in regions}
    for path, (_, twin) in modules.items():
        vars(twin)["_sr_region"] = _Timed(ours, path, regions[path])
    with ExitStack() as patches:
        for path, (module, _) in modules.items():
            patches.enter_context(watched(module, functools.partial(eager.timed, path)))
        runs = {"eager": functools.partial(eager.run, model), "ours": functools.partial(ours.run, fast)}
        whole = min(_rounds(runs, functools.partial(_finish, sample))["eager"]) * 1e-3
    found, saved = {}, 0.0
    for path, region in regions.items():
        before, now = eager.best(path), ours.best(path)
        if before and not now:
            report.left[path] = "what calls it holds the original"
        elif now > _GAIN * before:
            report.left[path] = "kernels of the library gain nothing there"
        else:
            found[path] = region
            saved += before - now
    if saved < (1 - _GAIN) * whole:
        report.left.update(dict.fromkeys(found, "kernels of the library gain next to nothing there"))
        return {}
    return found


class _Clock:
    """The seconds of parts in each run, without those of other parts that they call."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._runs: list[dict[str, float]] = []
        self._inner: list[float] = [0.0]  # seconds of the parts inside the ones that are running
        self._finish = functools.partial(_finish, sample)
        self._goes = False

    def run(self, module: nn.Module) -> None:
        """Runs the sample; the clock goes meanwhile."""
        self._runs.append({})
        self._goes = True
        try:
            self._sample.run(module)
        finally:
            self._goes = False

    def timed(self, path: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The function's result; its time is the part's."""
        if not self._goes:
            return function(*args, **kwargs)
        self._finish()
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            self._finish()
            taken = time.perf_counter() - start
            own = taken - self._inner.pop()
            self._inner[-1] += taken
            self._runs[-1][path] = self._runs[-1].get(path, 0.0) + own

    def best(self, path: str) -> float:
        """The least of all runs but the first; 0 for a part that none of them called."""
        return min((run.get(path, 0.0) for run in self._runs[1:]), default=0.0)


class _Timed:
    """A region with a clock."""

    def __init__(self, clock: _Clock, path: str, region: Region) -> None:
        self._clock, self._path, self._region = clock, path, region

    def run(self, *args: Any) -> Any:
        return self._clock.timed(self._path, self._region.run, *args)


def _compared(model: nn.Module, fast: nn.Module, sample: Sample) -> Timing:
    sample = sample.to_copy()
    last = Sample(*tree_map(_channels_last, (sample.args, sample.kwargs)))
    runs = {"eager": (model, sample), "channels_last": (model, last), "ours": (fast, sample)}
    calls = {name: functools.partial(arguments.run, module) for name, (module, arguments) in runs.items()}
    times = _rounds(calls, functools.partial(_finish, sample))
    best = {name: min(found) for name, found in times.items()}
    shape = next((tuple(x.shape) for x in sample.tensors()), ())
    return Timing(shape, best["eager"], best["channels_last"], best["ours"])


def _rounds(runs: Mapping[str, Callable[[], Any]], finish: Callable[[], None]) -> dict[str, list[float]]:
    """Milliseconds of interleaved runs, but for those of the first round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    begin = time.perf_counter()
    with torch.inference_mode():
        for i in range(1 + _MOST):
            if i > _FEWEST and time.perf_counter() - begin > _SECONDS:
                break
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                finish()
                if i:
                    times[name].append((time.perf_counter() - start) * 1e3)
    return times


def _finish(sample: Sample) -> None:
    if any(x.is_cuda for x in sample.tensors()):
        torch.cuda.synchronize()


def _channels_last(x: Any) -> Any:
    is_picture = isinstance(x, Tensor) and x.dim() == 4
    return x.contiguous(memory_format=torch.channels_last) if is_picture else x
