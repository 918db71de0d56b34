# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The results as pictures, SVG and PNG: networks, time per pixel, roofline. Needs matplotlib (extra `bench`).

The same results give the same bytes with the same matplotlib, and each SVG carries the digest of its results.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.roofline import Roofline
from benchmarks.sweep import Sweep
from sr_kernels.bench.results import MEDIUM, OURS, CaseResult, Run
from sr_kernels.bench.tables import TITLES, milliseconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "img"
# Okabe and Ito's colours, told apart by everybody.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999"
)  # fmt: skip
LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = "osD^vP"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "sr_kernels",
    "svg.fonttype": "none",  # text stays text: small, and readers can search it
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
}


def networks(run: Run) -> Figure:
    """A panel for each network: the milliseconds of everybody whose result is right, the fastest on top."""
    cases = [case for case in run.cases if case.group == "network"]
    most = max((sum(r.timing is not None for r in case.results.values()) for case in cases), default=1)
    figure, grid = sheet(-(-len(cases) // 2), 2, 0.45 + 0.17 * most)
    for axes, case in zip(grid, cases, strict=False):
        _bars(axes, case)
    for axes in grid[len(cases) :]:
        axes.axis("off")
    half = any(case.of("bf16") for case in cases)
    hatched = "; hatched: bf16 arithmetic" if half else ""
    figure.suptitle(f"milliseconds a picture, less is better{hatched}", fontsize=8)
    return figure


def _bars(axes: Axes, case: CaseResult) -> None:
    timed = {
        name: time for name, r in case.results.items() if r.parity and (time := case.time(name)) is not None
    }
    names = sorted(timed, key=lambda name: timed[name], reverse=True)
    halves = [case.results[name].precision != "fp32" for name in names]
    bars = axes.barh(
        [_title(name) for name in names],
        [timed[name] for name in names],
        color=[
            BLUE if name == OURS else GREY if not half else "white"
            for name, half in zip(names, halves, strict=True)
        ],
        edgecolor=[BLUE if name in (OURS, MEDIUM) else "#666666" for name in names],
        linewidth=0.6,
    )
    for bar, half in zip(bars, halves, strict=True):
        bar.set_hatch("////" if half else "")
    axes.bar_label(bars, [milliseconds(case.results[name]) for name in names], padding=2, fontsize=7)
    axes.set_title(case.name, loc="left")
    axes.set_xlim(0, 1.15 * max(timed.values(), default=1.0))
    axes.tick_params(axis="y", length=0, labelsize=7)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def _title(name: str) -> str:
    return TITLES.get(name, name).replace("torch.compile, frozen", "torch.compile")


def sweep(found: Sweep) -> Figure:
    """Nanoseconds a pixel of the input against megapixels, a line for each network and number of threads."""
    figure, (axes,) = sheet(1, 1, 3.2)
    for i, ((network, threads), points) in enumerate(found.lines().items()):
        label = f"{network}, {threads} thread{'s' if threads > 1 else ''}"
        colour, marker = LINES[i % len(LINES)], MARKERS[i % len(MARKERS)]
        axes.plot(
            [p.megapixels for p in points],
            [p.ours for p in points],
            color=colour,
            marker=marker,
            ms=4,
            label=label,
        )
        eager = [(p.megapixels, p.eager_cl) for p in points if p.eager_cl is not None]
        if eager:
            axes.plot(
                *zip(*eager, strict=True), color=colour, marker=marker, ms=4, mfc="white", lw=0.8, ls="--"
            )
    axes.plot([], [], color="black", ls="--", lw=0.8, label="dashed: eager channels_last")
    axes.set_xscale("log")
    ticks = sorted({p.megapixels for p in found.points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("megapixels of the input")
    axes.set_ylabel("ns a pixel of the input")
    figure.legend(frameon=False, fontsize=7, loc="outside upper center", ncols=3)
    return figure


def roofline(found: Roofline) -> Figure:
    """Effective GFLOP/s against operations a byte, beside the two bounds; only Winograd goes above."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure, (axes,) = sheet(1, 1, 3.6)
    names = list(dict.fromkeys(layer.network for layer in found.layers))
    densities = [layer.gflop * 1e9 / (layer.mib * 2**20) for layer in found.layers]
    low, high = 0.7 * min(densities), 1.5 * max(densities)
    knee = found.peak / found.copy
    xs = sorted({low, min(max(knee, low), high), high})
    axes.plot(xs, [min(found.peak, x * found.copy) for x in xs], color="black", lw=1)
    axes.plot([max(low, knee), high], [4 * found.peak] * 2, color="black", lw=0.8, ls=":")
    start = max(low, min(knee, high))
    for height, text in (
        (1, f"peak {found.peak:.0f} GFLOP/s"),
        (4, "4 x peak: F(4, 3) without its transforms"),
    ):
        axes.annotate(text, (start, height * found.peak), va="bottom", fontsize=7)
    for i, network in enumerate(names):
        chosen = [
            (d, layer) for d, layer in zip(densities, found.layers, strict=True) if layer.network == network
        ]
        winograd = ["/winograd" in layer.kernel for _, layer in chosen]
        colour = LINES[i % len(LINES)]
        axes.scatter(
            [d for d, _ in chosen],
            [found.shares(layer).gflops for _, layer in chosen],
            marker=MARKERS[i % len(MARKERS)],
            s=22,
            facecolors=[colour if w else "white" for w in winograd],
            edgecolors=colour,
            label=network,
        )
    axes.scatter([], [], marker="o", s=22, facecolors="black", edgecolors="black", label="filled: Winograd")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    axes.set_xlabel(f"operations a byte moved (bandwidth: {found.copy:.0f} GB/s)")
    axes.set_ylabel("GFLOP/s of the convolution as PyTorch does it")
    figure.legend(frameon=False, fontsize=7, loc="outside upper center", ncols=3)
    return figure


def sheet(rows: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """An empty figure without any window system, 7 inches wide, `height` inches a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, max(1, rows) * height), layout="constrained")
    grid = figure.subplots(max(1, rows), columns, squeeze=False)
    return figure, list(grid.flat)


Draw = Callable[[Any], "Figure"]
KINDS: dict[str, tuple[Callable[[Path], Any], Draw]] = {
    "networks": (Run.read, networks),
    "sweep": (Sweep.read, sweep),
    "roofline": (Roofline.read, roofline),
}


def digest(results: Path) -> str:
    """Of a file of results; its plots carry it."""
    return hashlib.sha256(results.read_bytes()).hexdigest()[:16]


def carried(svg: Path) -> str:
    """The digest that a plot carries, "" for none."""
    match = re.search(r"results ([0-9a-f]{16})", svg.read_text())
    return match[1] if match else ""


def save(figure: Figure, stem: Path, stamp: str) -> list[Path]:
    """stem.svg and stem.png, without dates and versions."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    svg, png = stem.with_suffix(".svg"), stem.with_suffix(".png")
    note = f"results {stamp}"
    figure.savefig(svg, metadata={"Date": None, "Creator": None, "Description": note})
    figure.savefig(png, dpi=120, metadata={"Software": None, "Description": note})
    return [svg, png]


def write(kind: str, results: Path, folder: Path = FOLDER) -> list[Path]:
    """The plot of one of KINDS from its results.

    Raises what reading them raises, and ImportError without matplotlib.
    """
    import matplotlib

    read, draw = KINDS[kind]
    found = read(results)
    with matplotlib.rc_context(STYLE):
        return save(draw(found), folder / f"cpu-{kind}", digest(results))
