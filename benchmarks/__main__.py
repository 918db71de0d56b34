# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks: time layers and networks against PyTorch's own ways of running them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import report
from benchmarks.cases import select
from sr_kernels.bench import machine, peers, tables
from sr_kernels.bench.problem import Case
from sr_kernels.bench.results import OURS, Run
from sr_kernels.bench.runner import Settings, measure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cpu-layers.json"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = found.add_argument
    add(
        "--cases",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="only cases whose name or group has one of these",
    )
    add("--peers", nargs="+", default=[], metavar="NAME", help="only these: eager, eager_cl, compiled")
    add("--quick", action="store_true", help="few rounds, without torch.compile; nothing is written")
    add("--threads", type=int, default=2, help="of everybody (default: %(default)s)")
    add("--seconds", type=float, default=2.0, help="of timing a case (default: %(default)s)")
    add("--backend", default="auto", help="ours is forced onto this one (default: %(default)s)")
    add(
        "--give-pages-back", action="store_true", help="leave the allocator as it is, see docs/performance.md"
    )
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="where results go (default for a whole run: benchmarks/results/cpu-layers.json)",
    )
    add("--list", action="store_true", help="print the cases, measure nothing")
    add("--show", type=Path, metavar="FILE", help="print the tables of a JSON file, measure nothing")
    add(
        "--readme",
        action="store_true",
        help="write the marked tables of README.md and docs/performance.md from the whole run's JSON file "
        "and the held-out photographs, measure nothing",
    )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as asked; 1 where a result of ours is wrong."""
    args = parser().parse_args(arguments)
    try:
        if args.show:
            tables.show(Run.read(args.show), tables.console())
            return 0
        if args.readme:
            return write_documents()
        cases = select(args.cases)
        if args.list:
            print("\n".join(f"{case.group:8} {case.label()}" for case in cases))
            return 0
        run = measure_all(args, cases)
    except (OSError, ValueError) as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        return 2
    tables.show(run, tables.console())
    target = args.json or (None if args.quick or args.cases or args.peers else RESULTS)
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(run.to_json())
        print(target)
    return 1 if tables.wrong(run) else 0


def measure_all(args: argparse.Namespace, cases: Sequence[Case]) -> Run:
    """Every case in turn; what is done goes to stderr."""
    pages_kept = not args.give_pages_back and machine.keep_pages()
    threads = machine.set_threads(args.threads)
    settings = Settings(seconds=0.3, fewest=3, most=5) if args.quick else Settings(seconds=args.seconds)
    names = args.peers or (["eager", "eager_cl"] if args.quick else [])
    contenders = peers.contenders(names, args.backend)
    load = machine.load()
    if load > 0.5 * threads:
        print(
            f"other programs are running (load {load:.1f}): the times are not to be trusted", file=sys.stderr
        )
    run = Run(
        machine.environment(),
        {
            **asdict(settings),
            "threads": threads,
            "backend": args.backend,
            "pages_kept": pages_kept,
            "load_before": round(load, 2),
        },
    )
    start = time.monotonic()
    for i, case in enumerate(cases, 1):
        result = measure(case, contenders, settings)
        run.cases.append(result)
        times = ", ".join(f"{peer} {tables.against(result, peer)}" for peer in result.peers)
        print(
            f"[{i}/{len(cases)}, {time.monotonic() - start:.0f} s] {result.name}: "
            f"ours {tables.milliseconds(result.results[OURS])} ms, {times}",
            file=sys.stderr,
            flush=True,
        )
    return run


def write_documents() -> int:
    """Fill the marked blocks; say what changed."""
    run = Run.read(RESULTS)
    readme, performance = ROOT / "README.md", ROOT / "docs" / "performance.md"
    blocks = (
        (readme, "quality", report.quality()),
        (readme, "bench", report.markdown(run, brief=True)),
        (performance, "bench", report.markdown(run)),
    )
    for path, block, text in blocks:
        changed = report.fill(path, block, text)
        print(f"{path.relative_to(ROOT)}: {block} {'written' if changed else 'unchanged'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
