# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A committed baseline of ratios, and what has become slower since.

Ratios to peers that run beside ours, not times: they say the same on a machine that is busier or hotter than
it was. They differ between processors, so the baseline is one for each machine that somebody gave one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from benchmarks.cases import CASES
from sr_kernels.bench.problem import Case
from sr_kernels.bench.results import OURS, CaseResult, Run
from sr_kernels.bench.tables import TITLES

BASELINE = Path(__file__).with_name("baseline.json")
PEERS = ("eager_cl", "openvino")
BAND = 0.10  # a change of a ratio that is noise, at least
_SCHEMA = 1
_SLOW = ("RRDBNet-23 x4 256x256",)  # half a minute a round; the same layers as at 64x64


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as a peer ours is, and how far off it may be: half the quartiles' distance of
    both times, each relative to its median."""

    ratio: float
    spread: float


@dataclass(frozen=True)
class Comparison:
    """One ratio then and now; now is None where ours or the peer has none, and `note` says why."""

    case: str
    peer: str
    before: Ratio
    now: Ratio | None
    note: str = ""

    @property
    def band(self) -> float:
        """The relative change that is noise: a tenth, or more where the times scatter."""
        return max(BAND, self.before.spread + (self.now.spread if self.now else 0.0))

    @property
    def change(self) -> float:
        """Now relative to then; 0 where there is no ratio now."""
        return self.now.ratio / self.before.ratio if self.now else 0.0

    @property
    def verdict(self) -> str:
        """regressed, faster, same, or not measured."""
        if self.now is None:
            return "not measured" if self.note else "regressed"
        if self.change < 1.0 - self.band:
            return "regressed"
        return "faster" if self.change > 1.0 + self.band else "same"


def cases(chosen: Sequence[Case]) -> list[Case]:
    """Those of the chosen cases that are compared."""
    return [case for case in chosen if case.group != "avx2" and case.label() not in _SLOW]


def ratios(case: CaseResult) -> dict[str, Ratio]:
    """Of the peers that are compared with, where they have one."""
    return {
        peer: Ratio(round(ratio, 3), round(_scatter(case, OURS) + _scatter(case, peer), 3))
        for peer in PEERS
        if (ratio := case.ratio(peer)) is not None
    }


def _scatter(case: CaseResult, name: str) -> float:
    timing = case.results[name].timing
    assert timing is not None
    return (timing.q3 - timing.q1) / 2 / timing.median


def machine_of(run: Run) -> str:
    """What a baseline holds for: processor, instruction set, threads."""
    found = run.environment
    return f"{found['processor']}, {found['extension']}, {run.settings['threads']} threads"


def compare(run: Run, path: Path = BASELINE) -> list[Comparison]:
    """Every ratio that the baseline has of a measured case.

    Raises ValueError where the baseline has nothing for this machine or for a measured case.
    """
    machines = _read(path)
    machine = machine_of(run)
    if machine not in machines:
        known = "; ".join(machines) or "none"
        raise ValueError(
            f"no baseline for {machine!r} (there is: {known}); --rebase writes one: do it on a good commit"
        )
    then = machines[machine]
    if new := [case.name for case in run.cases if case.name not in then]:
        raise ValueError(f"no baseline for {', '.join(new)}; --rebase with --cases adds them")
    found = []
    for case in run.cases:
        now = ratios(case)
        for peer, before in then[case.name].items():
            note = "" if peer in now else _why(case, peer)
            found.append(Comparison(case.name, peer, Ratio(**before), now.get(peer), note))
    return found


def _why(case: CaseResult, peer: str) -> str:
    """Why there is no ratio, where that is not our fault; "" where it is."""
    theirs = case.results.get(peer)
    if theirs is None:
        return "not asked for"
    if theirs.timing is None or not theirs.parity:
        return theirs.note or "its result is wrong"
    return ""


def check(
    chosen: Sequence[Case], measure: Callable[[Sequence[Case], float], Run], path: Path = BASELINE
) -> list[Comparison]:
    """Measures and compares. Cases that look slower are measured again, four times as long, which decides.

    measure(cases, factor) takes `factor` times the usual seconds.
    """
    found = compare(measure(chosen, 1.0), path)
    suspects = {c.case for c in found if c.verdict == "regressed"}
    if not suspects:
        return found
    again = compare(measure([case for case in chosen if case.label() in suspects], 4.0), path)
    return [c for c in found if c.case not in suspects] + again


def rebase(run: Run, path: Path = BASELINE) -> None:
    """Writes the run's ratios as this machine's baseline; cases that were not measured keep theirs, those
    that are no longer there go. Raises ValueError where a result of ours is wrong."""
    if wrong := [case.name for case in run.cases if not case.results[OURS].parity]:
        raise ValueError(f"ours is wrong in {', '.join(wrong)}: no baseline is written")
    machines = _read(path)
    known = {case.label() for case in CASES} | {case.name for case in run.cases}
    before = machines.get(machine_of(run), {})
    kept = {name: entry for name, entry in before.items() if name in known}
    new = {case.name: {peer: asdict(ratio) for peer, ratio in ratios(case).items()} for case in run.cases}
    machines[machine_of(run)] = kept | new
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps({"schema": _SCHEMA, "machines": machines}, indent=1) + "\n")
    part.replace(path)


def _read(path: Path) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """machine -> case -> peer -> ratio and spread."""
    if not path.exists():
        return {}
    document = json.loads(path.read_text())
    if document.get("schema") != _SCHEMA:
        raise ValueError(f"{path}: schema is {document.get('schema')!r}, this version reads {_SCHEMA}")
    return document["machines"]


def table(found: Iterable[Comparison]) -> Table:
    """A row for each ratio."""
    result = Table(title=f"Ratios to peers, baseline and now; noise is {BAND:.0%}, or what the times scatter")
    for name in ("case", "peer", "baseline", "now", "change", "noise", ""):
        result.add_column(name, justify="left" if name in ("case", "peer", "") else "right")
    for c in found:
        now = f"{c.now.ratio:.2f}x" if c.now else "-"
        change = f"{c.change - 1.0:+.0%}" if c.now else "-"
        verdict = f"{c.verdict}: {c.note}" if c.note else c.verdict
        cells = [c.case, TITLES.get(c.peer, c.peer), f"{c.before.ratio:.2f}x", now, change]
        style = "bold red" if c.verdict == "regressed" else None
        result.add_row(*map(Text, [*cells, f"{c.band:.0%}", verdict]), style=style)
    return result
