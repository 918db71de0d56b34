# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A run on a GPU as tables, for the terminal and for docs/gpu.md, and as plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import plots
from benchmarks.gpu.contenders import PEERS, TITLES
from benchmarks.gpu.measure import GpuRun
from benchmarks.report import fill, grid
from sr_kernels.bench import runtimes
from sr_kernels.bench.results import OURS, CaseResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "gpu.md"
RESULTS = ROOT / "benchmarks" / "results"
GROUPS = {
    "layer": "Layers",
    "memory": "Memory-bound ops",
    "network": "Whole networks",
    "called": "Whole networks, as called from Python",
}
SHORT = {"eager": "NCHW", "eager_cl": "chan_last", "compiled": "compile", "compiled_max": "max-auto"}
LAST = ("TFLOP/s", "GB/s", "of the floor", "ours to the best peer", "RMS error ours / eager")
NOT_YET = "Not measured yet: no results of a GPU are in `benchmarks/results`."


def microseconds(case: CaseResult, name: str) -> str:
    """The median, or what stands in for it."""
    result = case.results.get(name)
    if result is None or result.timing is None:
        return "-"
    us = 1e3 * result.timing.median
    text = f"{us:.0f}" if us >= 100 else f"{us:.1f}"
    return text if result.parity else f"{text} WRONG"


def best_peer(case: CaseResult) -> tuple[str, float] | None:
    """The fastest peer with parity and how many times as fast ours is."""
    return case.fastest([name for name in case.peers if name in PEERS])


def row(run: GpuRun, case: CaseResult, names: Sequence[str]) -> list[str]:
    """Times in microseconds, then what ours reaches."""
    work, time = run.work[case.name], case.time(OURS)
    cells = [case.name, *(microseconds(case, name) for name in names)]
    if time is None:
        return [*cells, "-", "-", "-", "-", "-"]
    best = best_peer(case)
    ratio = f"{best[1]:.2f}x {_short(best[0])}" if best else "-"
    tflops = f"{case.gflop / time:.0f}" if case.gflop else "-"
    cells += [tflops, f"{1e3 * work.gigabytes / time:.0f}", f"{work.floor(run.ceilings) / time:.0%}", ratio]
    error = case.results[OURS].error
    return [*cells, "-" if error is None else f"{error.rms:.0e} / {case.eager_error.rms:.0e}"]


def _short(name: str) -> str:
    return SHORT.get(name, name)


def columns(cases: Sequence[CaseResult]) -> list[str]:
    """The contenders that any of the cases has a time of, ours first."""
    found = {name for case in cases for name in case.results if case.time(name) is not None}
    return [name for name in TITLES if name in found] + sorted(found - set(TITLES))


def table(run: GpuRun, cases: Sequence[CaseResult]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows."""
    names = columns(cases)
    heads = ["case", *(TITLES.get(name, name) for name in names)]
    return [*heads, *LAST], [row(run, case, names) for case in cases]


def text(run: GpuRun) -> str:
    """The run for the terminal: even columns, short names."""
    lines = [provenance(run)]
    for group, title in GROUPS.items():
        cases = [case for case in run.cases if case.group == group]
        if not cases:
            continue
        rows = table(run, cases)[1]
        heads = [
            "case",
            *map(_short, columns(cases)),
            "TFLOP/s",
            "GB/s",
            "floor",
            "best peer",
            "RMS ours/eager",
        ]
        widths = [max(map(len, cells)) for cells in zip(heads, *rows, strict=True)]
        lines += ["", f"{title}, microseconds"]
        for cells in (heads, *rows):
            padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            lines.append(" ".join(padded).rstrip())
    return "\n".join([*lines, "", *notes(run)])


def provenance(run: GpuRun) -> str:
    """Where and how the figures came about."""
    e, dtype = run.environment, run.settings["dtype"]
    chip = ", ".join(
        f"{title}{e[name]}"
        for name, title in (
            ("gpu", ""),
            ("multiprocessors", "multiprocessors: "),
            ("L2", "L2: "),
            ("driver", "driver "),
            ("cuda", "CUDA "),
            ("cudnn", "cuDNN "),
            ("torch", "PyTorch "),
            ("triton", "Triton "),
        )
        if name in e
    )
    return (
        f"{chip}; {dtype}. Measured here: a copy moves {run.ceilings.copy:.0f} GB/s, a matrix product runs "
        f"at {run.ceilings.matmul:.0f} TFLOP/s."
    )


NO_TIME = "no time left for torch.compile of "


def notes(run: GpuRun) -> list[str]:
    """What is absent, failed, is wrong, or was left out."""
    found = Counter(
        f"{TITLES.get(name, name)}: {result.note}"
        for case in run.cases
        if case.group != "called"
        for name, result in case.results.items()
        if result.note
    )
    lines = [f"{note} ({count} case{'s' if count > 1 else ''})" for note, count in found.items()]
    lines += [
        f"WRONG: {case.name}: {TITLES.get(name, name)}: error {result.error}"
        for case in run.cases
        if case.group != "called"
        for name, result in case.results.items()
        if result.error and not result.parity
    ]
    late = [note.removeprefix(NO_TIME) for note in run.notes if note.startswith(NO_TIME)]
    others = [note for note in run.notes if not note.startswith(NO_TIME)]
    if late:
        named = f"{', '.join(late[:3])} and {len(late) - 3} more" if len(late) > 4 else ", ".join(late)
        others.append(NO_TIME + named)
    return [*others, *lines]


def wrong(run: GpuRun) -> list[str]:
    """The cases in which ours, on any backend, has no parity or failed."""
    return [
        f"{case.name}: {name}"
        for case in run.cases
        for name, result in case.results.items()
        if name not in PEERS and not result.parity and (result.error or name == OURS)
    ]


def stem(results: Path) -> str:
    """Of a file of results: its plots' name."""
    return results.stem


def markdown(results: Sequence[Path]) -> str:
    """All files of results, a section each."""
    parts = []
    for path in results:
        run = GpuRun.read(path)
        parts.append(f"## {run.environment['gpu']}\n\n{provenance(run)}")
        for group, title in GROUPS.items():
            if cases := [case for case in run.cases if case.group == group]:
                parts.append(f"### {title}\n\nMicroseconds, medians.\n\n{grid(*table(run, cases))}")
        parts.append(
            f"![Layers: the share of the floor](img/{stem(path)}-floor.svg)\n\n"
            f"![Networks: times as fast as the best peer](img/{stem(path)}-ratios.svg)"
        )
        if lines := notes(run):
            parts.append("\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts) or NOT_YET


def files() -> list[Path]:
    """The results that are there."""
    return sorted(RESULTS.glob("gpu-*.json"))


def write_documents() -> int:
    """Fill docs/gpu.md and draw the plots; 1 where these could not be drawn."""
    found = files()
    print(f"{PAGE.relative_to(ROOT)}: {'written' if fill(PAGE, 'gpu', markdown(found)) else 'unchanged'}")
    if found and (absent := runtimes.missing("matplotlib")):
        print(f"docs/img: not written: {absent}")
        return 1
    for path in found:
        for written in write_plots(path):
            print(f"{written}: written")
    return 0


def write_plots(results: Path, folder: Path = plots.FOLDER) -> list[Path]:
    """The share of the floor of every layer, and the ratios to the best peer. Needs matplotlib."""
    import matplotlib

    run = GpuRun.read(results)
    digest = plots.digest(results)
    with matplotlib.rc_context(plots.STYLE):
        return [
            *plots.save(_floors(run), folder / f"{stem(results)}-floor", digest),
            *plots.save(_ratios(run), folder / f"{stem(results)}-ratios", digest),
        ]


def _floors(run: GpuRun) -> Figure:
    """For each layer a row of points: the floor over the time, of ours and of each peer."""
    cases = [case for case in run.cases if case.group in ("layer", "memory")]
    figure, (axes,) = plots.sheet(1, 1, 0.8 + 0.22 * max(1, len(cases)))
    names = columns(cases)
    for i, name in enumerate(names):
        points = [
            (run.work[case.name].floor(run.ceilings) / time, -y)
            for y, case in enumerate(cases)
            if (time := case.time(name)) and case.results[name].parity
        ]
        if points:
            style = {"color": plots.BLUE} if name == OURS else {"color": plots.LINES[1:][i % 5]}
            axes.plot(
                *zip(*points, strict=True),
                ls="",
                marker=plots.MARKERS[i % len(plots.MARKERS)],
                ms=6 if name == OURS else 4,
                label=TITLES.get(name, name),
                **style,
            )
    axes.set_yticks([-y for y in range(len(cases))], [case.name for case in cases])
    axes.set_xlim(0, 1.05)
    axes.grid(axis="y", lw=0.3)
    axes.set_xlabel("floor over time: 1 is what a copy and a matrix product of this chip allow")
    figure.legend(frameon=False, fontsize=7, loc="outside upper center", ncols=3)
    return figure


def _ratios(run: GpuRun) -> Figure:
    """For each network how many times as fast as each peer ours is."""
    cases = [case for case in run.cases if case.group == "network"]
    peers = [name for name in columns(cases) if name in PEERS]
    figure, (axes,) = plots.sheet(1, 1, 0.8 + 0.14 * max(1, len(cases)) * (1 + len(peers)))
    step = 1.0 / (1 + len(peers))
    for i, peer in enumerate(peers):
        found = [(-y - i * step, ratio) for y, case in enumerate(cases) if (ratio := case.ratio(peer))]
        if found:
            places, ratios = zip(*found, strict=True)
            bars = axes.barh(places, ratios, height=0.9 * step, color=plots.LINES[i], label=TITLES[peer])
            axes.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=2, fontsize=6)
    axes.axvline(1.0, color="black", lw=0.6)
    axes.set_yticks([-y - 0.5 * step * (len(peers) - 1) for y in range(len(cases))], [c.name for c in cases])
    axes.set_xlabel("times as fast as the peer")
    figure.legend(frameon=False, fontsize=7, loc="outside upper center", ncols=3)
    return figure
