# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Times contenders side by side in one process and checks what they compute."""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sr_kernels.backends import record_kernels
from sr_kernels.bench.peers import Call, Contender, eager, eager_channels_last
from sr_kernels.bench.problem import Case, Problem
from sr_kernels.bench.results import OURS, CaseResult, Error, Result, Timing, has_parity

# How far from float64 a result may be, in eager's errors: the promise of the default precision, "high".
FACTOR = 4.0


@dataclass(frozen=True)
class Settings:
    """How long a case is measured."""

    seconds: float = 2.0
    fewest: int = 5  # rounds
    most: int = 40
    sample: float = 0.02  # seconds; shorter calls are repeated within a round


def interleave(
    calls: Mapping[str, Callable[[], object]],
    settings: Settings,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times every callable once a round, the order rotating, so that drifts of the machine hit all alike."""
    repeats, cost = {}, 0.0
    for name, call in calls.items():
        call()
        start = clock()
        call()
        once = max(clock() - start, 1e-9)
        repeats[name] = max(1, math.ceil(settings.sample / once))
        cost += repeats[name] * once
    rounds = max(settings.fewest, min(settings.most, int(settings.seconds / cost)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(rounds):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                call, count = calls[name], repeats[name]
                start = clock()
                for _ in range(count):
                    call()
                samples[name].append((clock() - start) / count)
    finally:
        if collecting:
            gc.enable()
    return {name: Timing.of(samples[name], repeats[name]) for name in calls}


def measure(case: Case, contenders: Sequence[Contender], settings: Settings) -> CaseResult:
    """One case. A peer that fails is noted and left out; a failure of ours is raised."""
    with torch.no_grad():
        problem = case.build()
        truth = exact(problem)
        scale = float(truth.square().mean().sqrt()) or 1.0
        by_eager = [_error(build(problem)(), truth, scale) for build in (eager, eager_channels_last)]
        # Ours must be near the more exact of eager's two layouts; the peers are eager, or compute as it does.
        strict, lenient = (
            Error(pick(e.largest for e in by_eager), pick(e.rms for e in by_eager)) for pick in (min, max)
        )
        calls: dict[str, Call] = {}
        results: dict[str, Result] = {}
        kernels: tuple[str, ...] = ()
        for contender in contenders:
            if note := contender.missing():
                results[contender.name] = Result(note=note)
                continue
            try:
                start = time.perf_counter()
                with record_kernels() as recorded:
                    call = contender.build(problem)
                    y = call()
                first = time.perf_counter() - start
            except Exception as failure:
                if contender.name == OURS:
                    raise
                text = " ".join(str(failure).split())
                results[contender.name] = Result(note=f"{type(failure).__name__}: {text[:200]}")
                continue
            if contender.name == OURS:
                kernels = tuple(recorded)
            error = _error(y, truth, scale)
            reference = strict if contender.name == OURS else lenient
            parity = has_parity(error, reference, float(truth.abs().max()) / scale, FACTOR)
            results[contender.name] = Result(None, error, parity, first, call.note)
            calls[contender.name] = call
        timings = interleave(calls, settings)
    for name, timing in timings.items():
        results[name] = replace(results[name], timing=timing)
    targets = tuple((target.ratio, target.against) for target in case.targets)
    return CaseResult(case.label(), case.group, gflop(problem), kernels, strict, results, targets)


def exact(problem: Problem) -> Tensor:
    """The result in float64."""
    if problem.truth is not None:
        return problem.truth(*problem.inputs)
    inputs = [x.double() if x.is_floating_point() else x for x in problem.inputs]
    return copy.deepcopy(problem.plain).double()(*inputs).double()


def gflop(problem: Problem) -> float:
    """Floating-point operations of the convolutions as PyTorch does them, in 10^9."""
    inputs = [x.to("meta") for x in problem.inputs]
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(problem.plain).to("meta")(*inputs)
    return counter.get_total_flops() / 1e9


def _error(y: Tensor, truth: Tensor, scale: float) -> Error:
    if y.shape != truth.shape:
        raise ValueError(f"the result is {tuple(y.shape)}, the exact one {tuple(truth.shape)}")
    difference = (y.double() - truth).div_(scale)
    return Error(float(difference.abs().max()), float(difference.square().mean().sqrt()))
