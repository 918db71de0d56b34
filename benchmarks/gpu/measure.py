# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""One case on the device: results checked, calls captured, timed side by side; and what a whole run holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import build
from benchmarks.gpu.device import Device
from benchmarks.gpu.work import Ceilings, Step, Work, work
from sr_kernels.bench.contender import Contender
from sr_kernels.bench.problem import Case, Problem
from sr_kernels.bench.results import CaseResult, Result, Run, Timing
from sr_kernels.bench.runner import Entry, Judge, Settings, enter, gflop, interleave

CALLED = " as called"  # after the name of a case whose calls were made one by one, not replayed from a graph
_CALLS = 8  # in a graph
_LONG = 5e-3  # seconds of a call that fills a graph alone


@dataclass
class GpuRun:
    """Where, how, what the chip can do, and every case with its work."""

    environment: dict[str, str]
    settings: dict[str, Any]
    ceilings: Ceilings
    cases: list[CaseResult] = field(default_factory=list)
    work: dict[str, Work] = field(default_factory=dict)  # by the case's name
    notes: list[str] = field(default_factory=list)

    def put(self, found: Sequence[CaseResult], done: Work) -> None:
        """Adds a case's results, in the place of earlier ones."""
        for case in found:
            names = [other.name for other in self.cases]
            if case.name in names:
                self.cases[names.index(case.name)] = case
            else:
                self.cases.append(case)
            self.work[case.name] = done

    def to_json(self) -> str:
        """A Run's document with the rest beside it."""
        document = json.loads(Run(self.environment, self.settings, self.cases).to_json())
        document["ceilings"], document["notes"] = asdict(self.ceilings), self.notes
        for entry in document["cases"]:
            entry["work"] = asdict(self.work[entry["name"]])
            entry["floor_ms"] = self.work[entry["name"]].floor(self.ceilings)
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> GpuRun:
        """The inverse of to_json. Raises FileNotFoundError, or ValueError for another schema."""
        text = path.read_text()
        run, document = Run.from_json(text), json.loads(text)
        done = {
            entry["name"]: Work(tuple(Step(**step) for step in entry["work"]["steps"]))
            for entry in document["cases"]
        }
        return cls(
            run.environment,
            run.settings,
            Ceilings(**document["ceilings"]),
            run.cases,
            done,
            document["notes"],
        )


def measure(
    case: Case, contenders: Sequence[Contender], device: Device, settings: Settings, dtype: torch.dtype
) -> tuple[list[CaseResult], Work]:
    """The case by replayed graphs and, of whole networks, also call by call; a contender that fails is noted.

    Raises what building the case or PyTorch's own result raises, and what has stopped the device.
    """
    with torch.no_grad():
        torch._dynamo.reset()  # its limit of recompilations is per function, not per module
        problem = build(case, device.type, dtype)
        device.search(False)
        judge = Judge(case, problem, False, torch.float32 if case.whole else torch.float64)
        done = work(problem, problem.plain(*problem.inputs))
        device.search(True)
        results, entries = _entered(contenders, problem, judge, device)
        if case.fewest is not None:
            settings = replace(settings, fewest=case.fewest)
        replays, per = _captured(entries, results, judge, device)
        timings = interleave(replays, settings, timer=device.timer)
        timed = {n: replace(r, timing=_divided(timings.get(n), per.get(n, 1))) for n, r in results.items()}
        found = [_result(case, case.label(), case.group, problem, judge, timed)]
        if case.whole:
            replays.clear()
            called = interleave(
                {name: entry.call for name, entry in entries.items()}, settings, timer=device.timer
            )
            timed = {name: replace(result, timing=called.get(name)) for name, result in results.items()}
            found.append(_result(case, case.label() + CALLED, "called", problem, judge, timed))
    device.synchronize()
    return found, done


def _entered(
    contenders: Sequence[Contender], problem: Problem, judge: Judge, device: Device
) -> tuple[dict[str, Result], dict[str, Entry]]:
    """Everybody's first call judged."""
    results: dict[str, Result] = {}
    entries: dict[str, Entry] = {}
    for contender in contenders:
        try:
            found = enter(contender, problem, judge)
            device.synchronize()
        except Exception as failure:
            found = Result(note=_words(failure))
            device.synchronize()  # raises where the failure has taken the device with it
        if isinstance(found, Entry):
            entries[contender.name], found = found, found.result
        results[contender.name] = found
    return results, entries


def _captured(
    entries: dict[str, Entry], results: dict[str, Result], judge: Judge, device: Device
) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """Everybody's graph and the calls in it; the result that a replay leaves is judged too. What cannot be
    captured is called as it is, and noted."""
    replays: dict[str, Callable[[], object]] = {}
    per: dict[str, int] = {}
    for name, entry in entries.items():
        calls = 1 if device.timer(entry.call, 1) > _LONG else _CALLS
        try:
            replay, y = device.capture(entry.call, calls)
        except Exception as failure:
            results[name] = replace(results[name], note=f"not captured: {_words(failure)}")
            replays[name], per[name] = entry.call, 1
            continue
        error = judge.error(y)
        allowed = results[name].error
        assert allowed is not None
        # the same kernels on the same values: what differs at all is the order of atomic additions
        if error.largest > 2 * allowed.largest + 1e-6 or error.largest != error.largest:
            results[name] = replace(
                results[name], parity=False, error=error, note="a replayed graph computes something else"
            )
        del y
        replays[name], per[name] = replay, calls
    return replays, per


def _words(failure: Exception) -> str:
    return f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"


def _divided(timing: Timing | None, calls: int) -> Timing | None:
    if timing is None:
        return None
    parts = (part / calls for part in (timing.median, timing.q1, timing.q3))
    return Timing(*parts, timing.rounds, timing.calls * calls)


def _result(
    case: Case, label: str, group: str, problem: Problem, judge: Judge, results: dict[str, Result]
) -> CaseResult:
    return CaseResult(label, group, gflop(problem), judge.strict, results, case.targets)
