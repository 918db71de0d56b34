# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A run in words and tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sr_kernels.bench.peers import CONTENDERS
from sr_kernels.bench.results import OURS, CaseResult, Result, Run

TITLES = {c.name: c.title for c in CONTENDERS}
GROUPS = {"layer": "Layers", "memory": "Memory-bound ops", "network": "Whole networks"}


def peers_of(run: Run) -> list[str]:
    """The peers that any case has, in order."""
    return list(dict.fromkeys(peer for case in run.cases for peer in case.peers))


def milliseconds(result: Result | None) -> str:
    """Three digits, or what stands in for a time."""
    if result is None or result.timing is None:
        return "-"
    return _digits(result.timing.median)


def _digits(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}" if ms >= 1 else f"{ms:.3f}"


def against(case: CaseResult, peer: str) -> str:
    """A peer's time and the ratio to it; no ratio where a result is wrong."""
    result = case.results.get(peer)
    text = milliseconds(result)
    if result is None or result.timing is None:
        return text
    ratio = case.ratio(peer)
    if ratio is None:
        return f"{text} ({'wrong' if not result.parity else 'no ratio'})"
    return f"{text} ({ratio:.2f}x)"


def summary(kernels: Sequence[str]) -> str:
    """Kernel names, each once, with how often it ran."""
    return ", ".join(name if n == 1 else f"{n} {name}" for name, n in Counter(kernels).items())


def errors(case: CaseResult) -> str:
    """The largest error of ours and of eager."""
    mine = case.results[OURS]
    text = f"{mine.error.largest:.1e} / {case.eager_error.largest:.1e}" if mine.error else "-"
    return text if mine.parity else f"{text} WRONG"


def console() -> Console:
    """As wide as the terminal; wide where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=180)


def show(run: Run, to: Console) -> None:
    """The tables of all groups, then targets, slower cases and notes."""
    peers = peers_of(run)
    for group, title in GROUPS.items():
        cases = [case for case in run.cases if case.group == group]
        if not cases:
            continue
        table = Table(title=f"{title}: milliseconds, medians (in brackets: times as fast as it ours is)")
        table.add_column("case", min_width=20)
        for name in (
            "GFLOP",
            "ours",
            "quartiles",
            "GFLOP/s",
            *(TITLES.get(peer, peer) for peer in peers),
            "error ours/eager",
        ):
            table.add_column(name, justify="right")
        table.add_column("kernels", overflow="fold")
        for case in cases:
            gflop, time, rate = rates(case)
            cells = [
                case.name,
                gflop,
                time,
                _quartiles(case),
                rate,
                *(against(case, peer) for peer in peers),
                errors(case),
            ]
            table.add_row(*map(Text, cells), Text(summary(case.kernels)))
        to.print(table)
    for line in [*targets(run), *slower(run), *notes(run)]:
        to.print(Text(line))


def _quartiles(case: CaseResult) -> str:
    timing = case.results[OURS].timing
    return "-" if timing is None else f"{_digits(timing.q1)} - {_digits(timing.q3)}"


def rates(case: CaseResult) -> tuple[str, str, str]:
    """GFLOP, milliseconds and GFLOP/s of ours."""
    time = case.time(OURS)
    rate = f"{case.gflop / time * 1e3:.0f}" if time and case.gflop else "-"
    return f"{case.gflop:.2f}" if case.gflop else "-", milliseconds(case.results[OURS]), rate


def targets(run: Run) -> list[str]:
    """One line for each target."""
    lines = []
    for case in run.cases:
        for wanted, peers in case.targets:
            found = case.fastest(peers)
            measured = [peer for peer in peers if case.ratio(peer) is not None] or peers
            names = " and ".join(TITLES.get(peer, peer) for peer in measured)
            if found is None:
                lines.append(f"target open: {case.name}: no ratio to {names}")
                continue
            peer, ratio = found
            word = "met" if ratio >= wanted else "MISSED"
            lines.append(
                f"target {word}: {case.name}: {ratio:.2f}x the fastest of {names} "
                f"({TITLES.get(peer, peer)}), at least {wanted:.1f}x asked"
            )
    return lines


def slower(run: Run) -> list[str]:
    """The cases in which a peer is faster, the clear ones first; those within the noise are said to be so."""
    found = []
    for case in run.cases:
        for peer in case.peers:
            ratio = case.ratio(peer)
            if ratio is not None and ratio < 1.0:
                noise = "" if case.clearly_slower(peer) else " (quartiles overlap)"
                line = f"slower than {TITLES.get(peer, peer)}: {case.name}: {ratio:.2f}x{noise}"
                found.append((bool(noise), ratio, f"{line}, {summary(case.kernels)}"))
    return [line for _, _, line in sorted(found)] or ["no case is slower than any peer"]


def notes(run: Run) -> list[str]:
    """Why a time is missing, what it is of, or why a result is not to be compared."""
    cases: dict[str, list[str]] = {}
    for case in run.cases:
        for name, result in case.results.items():
            if result.note:
                cases.setdefault(f"{TITLES.get(name, name)}: {result.note}", []).append(case.name)
    found = [
        f"{note} ({', '.join(names) if len(names) <= 3 else f'{len(names)} cases'})"
        for note, names in cases.items()
    ]
    return found + [
        f"WRONG: {case.name}: {TITLES.get(name, name)}: error {result.error}"
        for case in run.cases
        for name, result in case.results.items()
        if result.timing and not result.parity
    ]


def wrong(run: Run) -> list[str]:
    """The cases in which ours has no parity."""
    return [case.name for case in run.cases if not case.results[OURS].parity]


def provenance(run: Run) -> str:
    """Where and how the figures came about, one sentence."""
    machine, settings = run.environment, run.settings
    return (
        f"{machine['processor']}, {settings['threads']} threads, {machine['extension']} kernels, "
        f"PyTorch {machine['torch']}, float32; medians of interleaved rounds, freed memory "
        f"{'kept' if settings['pages_kept'] else 'given back'} by the allocator."
    )
