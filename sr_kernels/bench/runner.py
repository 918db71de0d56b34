# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Times contenders side by side in one process and checks what they compute."""

from __future__ import annotations

import copy
import functools
import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sr_kernels.backends import record_kernels
from sr_kernels.bench import alone, exchange
from sr_kernels.bench.contender import Call, Contender
from sr_kernels.bench.peers import eager, eager_bfloat16, eager_channels_last
from sr_kernels.bench.problem import Case, Problem
from sr_kernels.bench.results import OURS, CaseResult, Error, Result, Timing, has_parity
from sr_kernels.config import get_precision

# How far from float64 a result may be, in eager's errors: the promise of the default precision, "high".
FACTOR = 4.0
_HIGHEST = 2.0  # and of "highest"
Progress = Callable[[str, int, int, str], None]  # phase, done, total, what comes next
Timer = Callable[[Callable[[], object], int], float]  # a call, how often it is made; seconds in all
_LONG = 0.2  # seconds


@dataclass(frozen=True)
class Settings:
    """How long a case is measured, and whether memory is, of whole networks."""

    seconds: float = 2.0
    fewest: int = 5  # rounds
    most: int = 40
    sample: float = 0.02  # seconds; shorter calls are repeated within a round
    pause: float = 0.0  # seconds before each contender, in which the threads of the one before fall asleep
    memory: bool = False
    backend: str = "auto"  # of ours


def interleave(
    calls: Mapping[str, Callable[[], object]],
    settings: Settings,
    clock: Callable[[], float] = time.perf_counter,
    progress: Progress = lambda phase, done, total, note: None,
    known: Mapping[str, float] = MappingProxyType({}),
    timer: Timer | None = None,
) -> dict[str, Timing]:
    """Times every callable once a round, the order rotating, so that drifts of the machine hit all alike.

    known: seconds that an earlier call took; where they are long, none more is made to plan with.
    timer: what takes the seconds of so many calls in a row; by default the clock before and after.
    """
    timer = timer or functools.partial(_seconds, clock)
    repeats, cost = {}, 0.0
    for name, call in calls.items():
        once = known.get(name, 0.0)
        for _ in range(2):  # the first call may be a cold one, which does not matter where it takes long
            once = once if once > _LONG else max(timer(call, 1), 1e-9)
        repeats[name] = max(1, math.ceil(settings.sample / once))
        cost += repeats[name] * once
    rounds = max(settings.fewest, min(settings.most, int(settings.seconds / cost)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(rounds):
            progress("timing, rounds", i, rounds, "")
            for name in names[i % len(names) :] + names[: i % len(names)]:
                call, count = calls[name], repeats[name]
                time.sleep(settings.pause)
                samples[name].append(timer(call, count) / count)
    finally:
        if collecting:
            gc.enable()
    return {name: Timing.of(samples[name], repeats[name]) for name in calls}


def _seconds(clock: Callable[[], float], call: Callable[[], object], count: int) -> float:
    start = clock()
    for _ in range(count):
        call()
    return clock() - start


class Judge:
    """Says whether a result of a case is right.

    Everything is compared with float64, in units of the RMS of what the network adds to its base, and may err
    FACTOR times as much as eager PyTorch: ours as the more exact of its two layouts, a float32 peer, which is
    eager or computes as it does, as the other one, a bf16 peer as eager in bf16, and so
    ours under "medium". Where float64 takes too
    long, eager's errors are taken at the smaller size that the case names; at the full one everybody is
    compared with eager's own result, and its error comes on top of what is allowed.

    dtype: of the right result, float64, or float32 where everybody computes with less.
    """

    strict: Error
    lenient: Error
    eager: Error  # of the contiguous layout
    own: Error  # of what everybody is compared with

    def __init__(
        self, case: Case, problem: Problem, bfloat16: bool, dtype: torch.dtype = torch.float64
    ) -> None:
        self.base = _base(problem)
        if case.checked is None:
            self.truth, self.own = exact(problem, dtype), Error(0.0, 0.0)
        else:
            height, width = case.checked
            small = replace(case, height=height, width=width, checked=None)
            judge = Judge(small, small.build(), bfloat16=False)
            self.strict, self.lenient, self.own = judge.strict, judge.lenient, judge.eager
            self.truth = eager(problem)().double()
        self.scale = float((self.truth - self.base).square().mean().sqrt()) or 1.0
        self.peak = float(self.truth.abs().max()) / self.scale
        if case.checked is None:
            found = [self.error(build(problem)()) for build in (eager, eager_channels_last)]
            self.eager = found[0]
            self.strict, self.lenient = (
                Error(pick(e.largest for e in found), pick(e.rms for e in found)) for pick in (min, max)
            )
        self.bfloat16 = self.error(eager_bfloat16(problem)()) if bfloat16 else None

    def error(self, y: Tensor) -> Error:
        """The difference from the right result. Raises ValueError for another shape."""
        if y.shape != self.truth.shape:
            raise ValueError(f"the result is {tuple(y.shape)}, the exact one {tuple(self.truth.shape)}")
        difference = (y.double() - self.truth).div_(self.scale)
        return Error(float(difference.abs().max()), float(difference.square().mean().sqrt()))

    def parity(self, contender: Contender, error: Error) -> bool:
        """Whether the error is within what the contender may err."""
        allowed, factor = self.lenient, FACTOR
        if contender.name == OURS:
            allowed, factor = self.strict, _HIGHEST if get_precision() == "highest" else FACTOR
        if contender.precision != "fp32":
            assert self.bfloat16 is not None
            allowed = self.bfloat16
        limit = Error(
            factor * allowed.largest + self.own.largest,
            factor * allowed.rms + self.own.rms,
        )
        return has_parity(error, limit, self.peak, 1.0)


@dataclass
class Entry:
    """A contender that has made its first call."""

    call: Call
    result: Result
    variant: int


def measure(
    case: Case,
    contenders: Sequence[Contender],
    settings: Settings,
    progress: Progress = lambda phase, done, total, note: None,
) -> CaseResult:
    """One case. A peer that fails is noted and left out; a failure of ours is raised."""
    contenders = [c for c in contenders if (case.whole or not c.whole) and c.name not in case.without]
    with torch.no_grad():
        problem = case.build()
        try:
            progress("building", 0, len(contenders), "the exact result")
            judge = Judge(case, problem, any(c.precision != "fp32" and not c.missing() for c in contenders))
            results: dict[str, Result] = {}
            entries: dict[str, Entry] = {}
            for i, contender in enumerate(contenders):
                progress("building", i, len(contenders), contender.title)
                found = enter(contender, problem, judge)
                if isinstance(found, Entry):
                    entries[contender.name], found = found, found.result
                results[contender.name] = replace(found, precision=contender.precision)
            if case.fewest is not None:
                settings = replace(settings, fewest=case.fewest)
            calls = {name: entry.call for name, entry in entries.items()}
            first = {name: entry.result.first_seconds for name, entry in entries.items()}
            known = {name: seconds for name, seconds in first.items() if seconds > 5 * _LONG}
            for name, timing in interleave(calls, settings, progress=progress, known=known).items():
                results[name] = replace(results[name], timing=timing)
            if settings.memory and case.whole:
                for i, (name, entry) in enumerate(entries.items()):
                    progress("memory", i, len(entries), name)
                    results[name] = _with_memory(results[name], case, name, entry, problem, settings)
        finally:
            exchange.discard(problem)
    return CaseResult(
        case.label(),
        case.group,
        gflop(problem),
        judge.strict,
        results,
        case.targets,
        judge.bfloat16,
        case.checked,
    )


def enter(contender: Contender, problem: Problem, judge: Judge) -> Entry | Result:
    """Builds a contender and makes its first call: the first variant with parity, else the first of all, or
    why there is none. What ours raises is raised."""
    if note := contender.missing():
        return Result(note=note)
    entries: list[Entry] = []
    try:
        contender.prepare(problem)
        start = time.perf_counter()
        built = contender.build(problem)
        variants: Iterable[Call] = [built] if isinstance(built, Call) else built
        for i, call in enumerate(variants):
            called = time.perf_counter()
            with record_kernels() as kernels:
                y = call()
            first = time.perf_counter() - called
            error = judge.error(y)
            right = judge.parity(contender, error)
            result = Result(None, error, right, called - start, first, call.note, kernels=tuple(kernels))
            entries.append(Entry(call, result, i))
            if right:
                return entries[-1]
            start = time.perf_counter()
    except Exception as failure:
        if contender.name == OURS:
            raise
        text = " ".join(str(failure).split())
        return Result(note=f"{type(failure).__name__}: {text[:200]}")
    return entries[0]


def _with_memory(
    result: Result, case: Case, name: str, entry: Entry, problem: Problem, settings: Settings
) -> Result:
    threads, files = torch.get_num_threads(), problem.files
    task = alone.Task(case, name, entry.variant, threads, settings.backend, files, get_precision())
    try:
        found = alone.run(task)
    except Exception as failure:
        if name == OURS:
            raise
        return replace(result, note=f"{result.note} memory not measured: {failure}".strip())
    return replace(result, peak_mib=found.peak_mib, kernels=result.kernels or found.kernels)


def _base(problem: Problem) -> Tensor:
    """What the network adds to, in float64; zero where there is none."""
    if problem.base is None:
        return torch.zeros((), dtype=torch.float64)
    return problem.base(*(x.double() for x in problem.inputs))


def exact(problem: Problem, dtype: torch.dtype = torch.float64) -> Tensor:
    """The result, computed in that dtype, as float64."""
    if problem.truth is not None:
        return problem.truth(*problem.inputs)
    inputs = [x.to(dtype) if x.is_floating_point() else x for x in problem.inputs]
    return copy.deepcopy(problem.plain).to(dtype)(*inputs).double()


def gflop(problem: Problem) -> float:
    """Floating-point operations of the convolutions as PyTorch does them, in 10^9."""
    inputs = [x.to("meta") for x in problem.inputs]
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(problem.plain).to("meta")(*inputs)
    return counter.get_total_flops() / 1e9
