# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks.sweep: time per pixel of the input against its size."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.problems import NetworkCase
from sr_kernels.bench import machine, peers
from sr_kernels.bench.results import OURS
from sr_kernels.bench.runner import Settings, interleave

RESULTS = Path(__file__).resolve().parent / "results" / "cpu-sweep.json"
SCHEMA = 1
MEGAPIXELS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
CONSTANT_FROM = 0.1  # megapixels, from which on the time per pixel is to be constant
CONSTANT_WITHIN = 0.15  # of its median
EAGER_UP_TO = 1.0  # megapixels; eager's buffers are many
_AGREEMENT = 2e-4  # of the largest value: two correct float32 results differ by less


@dataclass(frozen=True)
class Swept:
    """A network: `features` channels in its widest layers, `tail` values of the result an input pixel."""

    name: str
    features: int
    tail: int
    sizes: tuple[tuple[str, int], ...] = ()
    embedded: bool = False

    def case(self, height: int, width: int) -> NetworkCase:
        """The network at one size."""
        return NetworkCase(self.name, height, width, scale=4, sizes=self.sizes, embedded=self.embedded)

    def bytes(self, pixels: int) -> int:
        """Memory of a call: two layers, the result twice, the input twice."""
        return 4 * pixels * (2 * self.features + 2 * self.tail + 6)


# Two body layers say of a pixel's time what sixteen do, in a sixth of the time.
NETWORKS = (
    Swept("SRVGG 64f/2 x4", 64, 48, (("num_feat", 64), ("num_conv", 2))),
    Swept("embedded compact x4", 32, 48, embedded=True),
)


@dataclass(frozen=True)
class Point:
    """One network at one size; nanoseconds a pixel of the input, medians."""

    network: str
    threads: int
    megapixels: float
    height: int
    width: int
    rounds: int
    ours: float
    eager_cl: float | None = None


@dataclass(frozen=True)
class Sweep:
    """A whole sweep: where, how, and every point; left_out says what was not measured, and why."""

    environment: dict[str, str]
    settings: dict[str, Any]
    points: list[Point]
    left_out: list[str]

    def to_json(self) -> str:
        """The sweep, with what follows from it for readers without this module."""
        document = {"schema": SCHEMA, **asdict(self), "statements": statements(self)}
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Sweep:
        """The sweep in the file. Raises FileNotFoundError, or ValueError for another schema."""
        found = json.loads(path.read_text())
        if found.get("schema") != SCHEMA:
            raise ValueError(
                f"{path}: schema is {found.get('schema')!r}, this version reads {SCHEMA}: measure again"
            )
        points = [Point(**point) for point in found["points"]]
        return cls(found["environment"], found["settings"], points, found["left_out"])

    def lines(self) -> dict[tuple[str, int], list[Point]]:
        """The points of each network and number of threads, by size."""
        found: dict[tuple[str, int], list[Point]] = {}
        for point in sorted(self.points, key=lambda p: p.megapixels):
            found.setdefault((point.network, point.threads), []).append(point)
        return found


def statements(sweep: Sweep) -> list[str]:
    """For each line whether the time per pixel is constant, then what was left out."""
    found = []
    for (network, threads), points in sweep.lines().items():
        wide = [p for p in points if p.megapixels >= CONSTANT_FROM]
        if len(wide) < 2:
            continue
        median = statistics.median(p.ours for p in wide)
        worst = max(wide, key=lambda p: abs(p.ours - median))
        off = worst.ours / median - 1.0
        word = "within" if abs(off) <= CONSTANT_WITHIN else "NOT within"
        found.append(
            f"{network}, {_threads(threads)}: {median:.0f} ns a pixel from {wide[0].megapixels:g} to "
            f"{wide[-1].megapixels:g} megapixels, constant {word} {CONSTANT_WITHIN:.0%} "
            f"(most at {worst.megapixels:g}: {off:+.0%})"
        )
    return found + [f"left out: {line}" for line in sweep.left_out]


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def size(megapixels: float) -> tuple[int, int]:
    """(height, width) of about 16:9, multiples of 4 and 8."""
    width = 8 * round((megapixels * 1e6 * 16 / 9) ** 0.5 / 8)
    return 4 * round(megapixels * 1e6 / width / 4), width


def markdown(sweep: Sweep) -> str:
    """The points as a table, ns a pixel; in brackets eager channels_last."""
    lines = sweep.lines()
    sizes = sorted({p.megapixels for p in sweep.points})
    heads = ["megapixels", *(f"{network}, {_threads(threads)}" for network, threads in lines)]
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for megapixels in sizes:
        cells = [f"{megapixels:g}"]
        for points in lines.values():
            point = next((p for p in points if p.megapixels == megapixels), None)
            eager = "" if point is None or point.eager_cl is None else f" ({point.eager_cl:.0f})"
            cells.append("-" if point is None else f"{point.ours:.0f}{eager}")
        rows.append(f"| {' | '.join(cells)} |")
    where = sweep.environment
    said = f"{where['processor']}, {where['extension']} kernels, PyTorch {where['torch']}"
    return "\n".join(
        [
            f"{said}; load average {where['load']}.",
            "",
            *rows,
            "",
            *(f"- {line}" for line in statements(sweep)),
        ]
    )


def free_memory() -> int:
    """Bytes that the system can give now."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable"))


def reserve(amount: int) -> None:
    """Takes `amount` bytes once and leaves them to the allocator, which keeps them.

    Otherwise it would grow from size to size and take new pages, as dear as the work on them, at every call.
    """
    torch.empty(amount, dtype=torch.uint8).fill_(1)


def measure_point(network: Swept, megapixels: float, threads: int, settings: Settings) -> Point:
    """One point at the threads that are set. Raises RuntimeError where ours and eager differ."""
    height, width = size(megapixels)
    with torch.no_grad():
        problem = network.case(height, width).build()
        calls = {OURS: peers.ours(problem)}
        if megapixels <= EAGER_UP_TO:
            calls["eager_cl"] = peers.eager_channels_last(problem)
            mine, theirs = (call() for call in calls.values())
            off, largest = float((mine - theirs).abs().max()), float(theirs.abs().max())
            if not off <= _AGREEMENT * largest:
                raise RuntimeError(f"{network.name} {height}x{width}: ours and eager differ by {off:.1e}")
            del mine, theirs
        found = interleave(calls, settings)
    per_pixel = {name: 1e6 * timing.median / (height * width) for name, timing in found.items()}
    return Point(
        network.name,
        threads,
        megapixels,
        height,
        width,
        found[OURS].rounds,
        per_pixel[OURS],
        per_pixel.get("eager_cl"),
    )


def measure(sizes: Sequence[float], threads: Sequence[int], settings: Settings) -> Sweep:
    """Every network at every size that fits into the free memory."""
    environment, free = machine.environment(), free_memory()
    needs = [network.bytes(math.prod(size(m))) for network in NETWORKS for m in sizes]
    if machine.keep_pages():
        most = max((need for need in needs if need <= 0.8 * free), default=0)
        reserve(int(min(1.75 * most, 0.8 * free)))  # more than is needed, since buffers leave gaps
    points, left_out = [], []
    for count in threads:
        if machine.set_threads(count) != count:
            left_out.append(f"{_threads(count)}: this machine has {torch.get_num_threads()} cores")
            continue
        for network in NETWORKS:
            for megapixels in sorted(
                sizes, reverse=True
            ):  # what small sizes leave would part the large buffers
                height, width = size(megapixels)
                need = network.bytes(height * width)
                what = f"{network.name}, {_threads(count)}, {megapixels:g} megapixels"
                if need > 0.8 * free:
                    left_out.append(
                        f"{what}: about {need / 2**30:.1f} GiB needed, {free / 2**30:.1f} GiB free"
                    )
                    continue
                point = measure_point(network, megapixels, count, settings)
                points.append(point)
                print(f"{what}: {point.ours:.0f} ns a pixel", file=sys.stderr, flush=True)
    return Sweep(environment, asdict(settings), points, left_out)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    found.add_argument("--megapixels", nargs="+", type=float, default=MEGAPIXELS, help="of the input")
    found.add_argument("--threads", nargs="+", type=int, default=(1, 2), help="(default: 1 and 2)")
    found.add_argument("--seconds", type=float, default=0.5, help="of timing a point (default: %(default)s)")
    found.add_argument("--json", type=Path, default=RESULTS, help="where results go (default: %(default)s)")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, say whether the time per pixel is constant."""
    args = parser().parse_args(arguments)
    settings = Settings(args.seconds, fewest=2, most=15, pause=0.002)
    try:
        found = measure(args.megapixels, args.threads, settings)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"benchmarks.sweep: error: {error}", file=sys.stderr)
        return 2
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(found.to_json())
    print("\n".join([*statements(found), str(args.json)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
