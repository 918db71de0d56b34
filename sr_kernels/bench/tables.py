# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A run in words and tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sr_kernels.bench.peers import BF16, CONTENDERS
from sr_kernels.bench.results import MEDIUM, OURS, CaseResult, Result, Run

TITLES = {c.name: c.title for c in CONTENDERS}
GROUPS = {
    "layer": "Layers",
    "memory": "Memory-bound ops",
    "network": "Whole networks",
    "avx2": "Whole networks, everybody limited to AVX2",
}


def peers_of(cases: Iterable[CaseResult]) -> list[str]:
    """The peers that any case has a time or a reason of, in order."""
    found = {peer for case in cases for peer in case.peers}
    return [name for name in TITLES if name in found] + sorted(found - set(TITLES))


def timed_peers(cases: Iterable[CaseResult]) -> list[str]:
    """The peers that any case has a time of, in order."""
    cases = list(cases)
    return [peer for peer in peers_of(cases) if any(case.time(peer) for case in cases)]


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
    for group, title in GROUPS.items():
        if cases := [case for case in run.cases if case.group == group]:
            to.print(_times(title, cases))
            if any(r.peak_mib is not None for case in cases for r in case.results.values()):
                to.print(_costs(title, cases))
    for line in [*targets(run), *mediums(run), *slower(run), *notes(run)]:
        to.print(Text(line))


def _times(title: str, cases: Sequence[CaseResult]) -> Table:
    peers = timed_peers(cases)
    table = Table(title=f"{title}: milliseconds, medians (in brackets: times as fast as it ours is)")
    table.add_column("case", min_width=12)
    for name in (
        "GFLOP",
        "ours",
        "quartiles",
        "GFLOP/s",
        *(TITLES.get(peer, peer) for peer in peers),
        "error ours/eager",
    ):
        table.add_column(name, justify="right")
    whole = any(name in BF16 for name in peers)  # a dozen columns are enough
    if not whole:
        table.add_column("kernels", overflow="fold")
    for case in cases:
        gflop, time, rate = rates(case)
        cells = [case.name, gflop, time, _quartiles(case), rate]
        cells += [*(against(case, peer) for peer in peers), errors(case)]
        cells += [] if whole else [summary(case.kernels)]
        table.add_row(*map(Text, cells))
    return table


def _costs(title: str, cases: Sequence[CaseResult]) -> Table:
    names = [OURS, *timed_peers(cases)]
    table = Table(title=f"{title}: seconds to build + of the first call; MiB of memory that a call takes")
    table.add_column("case", min_width=12)
    for name in names:
        table.add_column(TITLES.get(name, name), justify="right")
    for case in cases:
        table.add_row(*map(Text, [case.name, *(costs(case.results.get(name)) for name in names)]))
    return table


def contenders(case: CaseResult) -> Table:
    """One case, a row for each contender that has a time, the fastest first."""
    table = Table(title=f"{case.name}, {case.gflop:.1f} GFLOP")
    table.add_column("")
    headings = (
        "ms",
        "quartiles",
        "ours is",
        "largest error",
        "RMS error",
        "build, s",
        "first call, s",
        "MiB",
    )
    for name in headings:
        table.add_column(name, justify="right")
    timed = [name for name in case.results if case.time(name) is not None]
    for name in sorted(timed, key=lambda name: case.time(name) or 0.0):
        result = case.results[name]
        assert result.timing is not None
        assert result.error is not None
        ratio = case.ratio(name)
        faster = "" if name == OURS else "no ratio" if ratio is None else f"{ratio:.2f}x as fast"
        cells = [
            TITLES.get(name, name),
            _digits(result.timing.median),
            f"{_digits(result.timing.q1)} - {_digits(result.timing.q3)}",
            faster,
            f"{result.error.largest:.1e}{'' if result.parity else ' WRONG'}",
            f"{result.error.rms:.1e}",
            f"{result.build_seconds:.2f}",
            f"{result.first_seconds:.2f}",
            "-" if result.peak_mib is None else f"{result.peak_mib:.0f}",
        ]
        table.add_row(*map(Text, cells), style="bold" if name == OURS else None)
    return table


def fastest(case: CaseResult) -> list[str]:
    """A line for the fastest peer of each precision."""
    lines = []
    for precision, title in (("fp32", "float32"), ("bf16", "bf16")):
        if found := case.fastest(case.of(precision)):
            name, ratio = found
            lines.append(f"{ratio:.2f}x as fast as the fastest {title} peer, {TITLES.get(name, name)}")
    return lines


def costs(result: Result | None) -> str:
    """Seconds of building and of the first call, and the memory of a call."""
    if result is None or result.timing is None:
        return "-"
    memory = "" if result.peak_mib is None else f"; {result.peak_mib:.0f}"
    return f"{result.build_seconds:.1f} + {result.first_seconds:.1f}{memory}"


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
        for target in case.targets:
            found = case.fastest(target.against)
            wanted = f"at least {target.floor:.1f}x asked"
            wanted += f", {target.aim:.1f}x aimed at" if target.aim is not None else ""
            if found is None:
                lines.append(f"target open: {case.name}: no ratio to {_named(case, target.against)}")
                continue
            peer, ratio = found
            word = "MISSED" if ratio < target.floor else "met"
            if target.aim is not None and ratio >= target.floor:
                word = f"met, aim {'met' if ratio >= target.aim else 'missed'}"
            lines.append(
                f"target {word}: {case.name}: {ratio:.2f}x the fastest of {_named(case, target.against)} "
                f"({TITLES.get(peer, peer)}), {wanted}"
            )
    return lines


def _named(case: CaseResult, against: Sequence[str]) -> str:
    measured = [peer for peer in against if case.ratio(peer) is not None] or against
    return " and ".join(TITLES.get(peer, peer) for peer in measured)


def mediums(run: Run) -> list[str]:
    """One line for each case that ran under "medium" too: bf16 products, and what they cost in error."""
    lines = []
    for case in run.cases:
        found, result = case.fastest(case.of("bf16"), MEDIUM), case.results.get(MEDIUM)
        if result is None or result.error is None or result.timing is None:
            continue
        ratio = f", {found[1]:.2f}x the fastest bf16 peer ({TITLES.get(found[0], found[0])})" if found else ""
        theirs = f", eager bf16's {case.bf16_error.rms:.1e}" if case.bf16_error else ""
        lines.append(
            f'under "medium": {case.name}: {milliseconds(result)} ms{ratio}; RMS error {result.error.rms:.1e}'
            f"{theirs}"
        )
    return lines


def slower(run: Run) -> list[str]:
    """The cases in which a float32 peer is faster, the clear ones first, then those within the noise."""
    found = []
    for case in run.cases:
        for peer in case.of("fp32"):
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
    for case in run.cases:
        if case.checked:
            size = "x".join(map(str, case.checked))
            found.append(f"{case.name}: compared with eager's result, whose own error was taken at {size}")
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
