# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks.gpu: layers and networks on a GPU against eager PyTorch and torch.compile."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.gpu import cases, contenders, report
from benchmarks.gpu.device import Device, open_device, slug
from benchmarks.gpu.measure import GpuRun, measure
from benchmarks.gpu.work import ceilings
from sr_kernels.bench import machine
from sr_kernels.bench.problem import Case
from sr_kernels.bench.runner import Settings

_RESERVE = 15.0  # seconds kept for the last case's timing and for writing


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    add = found.add_argument
    add(
        "--cases",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="only cases whose name or group has one of these",
    )
    add(
        "--peers",
        nargs="*",
        default=list(contenders.PEERS),
        metavar="NAME",
        help="only these; compiled is of the layers, compiled_max (max-autotune) of the networks, see --deep "
        "(default: %(default)s)",
    )
    add(
        "--backends",
        nargs="*",
        metavar="NAME",
        help="ours on these beside the automatic choice (default: all)",
    )
    add("--backend", default="auto", help="ours is forced onto this one (default: %(default)s)")
    add("--deep", action="store_true", help="compile layers and networks in both modes")
    add(
        "--minutes",
        type=float,
        default=6.0,
        help="in all; what torch.compile has no time left for is left out, and said (default: %(default)s)",
    )
    add("--seconds", type=float, default=0.6, help="of timing a case (default: %(default)s)")
    add("--dtype", choices=("float16", "bfloat16"), default="float16")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run on tiny pictures")
    add("--out", type=Path, metavar="FOLDER", help="where results go (default: benchmarks/results)")
    add("--name", help="of the results: gpu-NAME.json (default: the chip's)")
    add("--list", action="store_true", help="print the cases, measure nothing")
    add("--show", type=Path, metavar="FILE", help="print the tables of a JSON file, measure nothing")
    add(
        "--report",
        action="store_true",
        help="write the tables of docs/gpu.md and the plots of docs/img from benchmarks/results",
    )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as asked; 1 where a result of ours is wrong."""
    start = time.monotonic()
    args = parser().parse_args(arguments)
    try:
        if args.report:
            return report.write_documents()
        if args.show:
            print(report.text(GpuRun.read(args.show)))
            return 0
        chosen = cases.select(args.cases)
        if args.list:
            print("\n".join(f"{case.group:8} {case.label()}" for case in chosen))
            return 0
        device = open_device(args.device)
        run, target = measure_all(args, chosen, device, start)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"benchmarks.gpu: error: {error}", file=sys.stderr)
        return 2
    print(report.text(run))
    if found := report.wrong(run):
        print(f"{len(found)} results of ours are wrong or missing: {', '.join(found)}")
    print(f"{target or 'nothing was written'}, {time.monotonic() - start:.0f} s")
    return 1 if report.wrong(run) else 0


def measure_all(
    args: argparse.Namespace, chosen: Sequence[Case], device: Device, start: float
) -> tuple[GpuRun, Path | None]:
    """Every case beside eager, then as many as there is time for beside torch.compile too. What is done goes
    to stderr, and to the file after each case. Returns the run and the file."""
    dtype = getattr(torch, args.dtype)
    known = contenders.our_backends(device)
    backends = list(known) if args.backends is None else args.backends
    contenders.contenders(device, args.peers, backends)  # names are right
    if device.type == "cpu":
        chosen = [cases.shrunk(case) for case in chosen]
    settings = Settings(args.seconds, fewest=5, most=30, sample=0.01)
    environment = machine.environment() | device.environment()
    measured = ceilings(device, dtype)
    device.release()
    run = GpuRun(
        environment,
        {**asdict(settings), "backend": args.backend, "dtype": args.dtype, "minutes": args.minutes},
        measured,
    )
    run.notes = [f"backend {name} is absent: {reason}" for name, reason in known.items() if reason]
    backends = [name for name in backends if not known[name]]
    target = _target(args, environment["gpu"], device)
    print(report.provenance(run), *run.notes, sep="\n", file=sys.stderr, flush=True)

    def left() -> float:
        return 60 * args.minutes - (time.monotonic() - start) - _RESERVE

    def one(case: Case, peers: Sequence[str]) -> float:
        begun = time.monotonic()
        everybody = contenders.contenders(device, peers, backends, args.backend)
        found, done = measure(case, everybody, device, settings, dtype)
        device.release()
        run.put(found, done)
        if target:
            target.write_text(run.to_json())
        seconds = time.monotonic() - begun
        cells = report.row(run, found[0], report.columns(found))
        names = [contenders.TITLES.get(name, name) for name in report.columns(found)]
        pairs = ", ".join(f"{n} {c}" for n, c in zip(names, cells[1:], strict=False))
        total = time.monotonic() - start
        print(f"[{total:.0f} s, {seconds:.1f} s] {found[0].name}: {pairs} us", file=sys.stderr, flush=True)
        return seconds

    cheap = [name for name in args.peers if name in contenders.EAGER]
    plain: dict[Case, float] = {}
    for case in chosen:
        if left() < 0:
            run.notes.append(f"no time left for {case.label()}")
            continue
        try:
            plain[case] = one(case, cheap)
        except Exception as failure:  # out of memory, or a peer that cannot run it at all
            run.notes.append(f"{case.label()} failed: {type(failure).__name__}: {str(failure)[:300]}")
            print(run.notes[-1], file=sys.stderr, flush=True)
            device.release()
    worst: dict[bool, float] = {}  # by whether the case is a whole network: measured over guessed
    for case in sorted(plain, key=cases.compile_order):
        modes = _modes(case, args)
        if not modes:
            continue
        guess = cases.compile_seconds(case) * len(modes)
        if left() < guess * min(worst.get(case.whole, 1.0), 2.0) + plain[case]:
            run.notes.append(report.NO_TIME + case.label())
            continue
        try:
            seconds = one(case, [*cheap, *modes])
        except Exception as failure:
            run.notes.append(f"{case.label()} with torch.compile failed: {str(failure)[:300]}")
            device.release()
            continue
        worst[case.whole] = max(worst.get(case.whole, 0.0), (seconds - plain[case]) / guess)
    if target:
        target.write_text(run.to_json())
    return run, target


def _modes(case: Case, args: argparse.Namespace) -> list[str]:
    """The modes of torch.compile that this case is given."""
    wanted = contenders.COMPILED if args.deep else ("compiled_max",) if case.whole else ("compiled",)
    return [name for name in wanted if name in args.peers]


def _target(args: argparse.Namespace, gpu: str, device: Device) -> Path | None:
    """The file of results; None for a dry run and for a part of a run, unless a folder is asked for."""
    if args.out is None and (device.type == "cpu" or args.cases):
        return None
    folder = args.out or report.RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    return Path(folder) / f"gpu-{args.name or slug(gpu)}.json"


if __name__ == "__main__":
    sys.exit(main())
