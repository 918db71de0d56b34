# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks: time layers and networks against what a user could run instead."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import baseline, plots, report, roofline, sweep
from benchmarks.cases import select
from sr_kernels.bench import machine, peers, runtimes, tables
from sr_kernels.bench.problem import Case
from sr_kernels.bench.results import MEDIUM, OURS, CaseResult, Run
from sr_kernels.bench.runner import Settings, measure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cpu-layers.json"
ZEN5 = RESULTS.with_name("cpu-zen5.json")  # networks on a processor without tiles (AMX), by kernels of before


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
    add(
        "--peers",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"only these: {', '.join((*peers.FP32, *peers.BF16, MEDIUM))}",
    )
    add("--quick", action="store_true", help="few rounds, eager PyTorch alone; nothing is written")
    add("--threads", type=int, default=2, help="of everybody (default: %(default)s)")
    add("--seconds", type=float, default=0.7, help="of timing a layer (default: %(default)s)")
    add(
        "--network-seconds",
        type=float,
        default=6.0,
        help="of timing a whole network (default: %(default)s)",
    )
    add("--no-memory", action="store_true", help="leave out the memory of the networks, a process for each")
    add("--isa", choices=("avx2",), help="limit everybody that can be limited to this instruction set")
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
    add(
        "--check",
        action="store_true",
        help="measure quickly and compare the ratios with benchmarks/baseline.json; 1 where one regressed",
    )
    add(
        "--rebase",
        nargs="?",
        const="",
        metavar="FILE",
        help="write this machine's ratios to baseline.json, measured now or taken from a run's JSON file",
    )
    add("--show", type=Path, metavar="FILE", help="print the tables of a JSON file, measure nothing")
    add(
        "--readme",
        action="store_true",
        help="write the marked tables of README.md and docs/performance.md and the plots of docs/img from "
        "benchmarks/results and the held-out photographs, measure nothing",
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
        if args.isa and not machine.limited():  # libraries read the limit when they are loaded
            command = [
                sys.executable,
                "-m",
                "benchmarks",
                *(sys.argv[1:] if arguments is None else arguments),
            ]
            return subprocess.run(
                command, cwd=ROOT, env={**os.environ, **machine.limits(args.isa)}
            ).returncode
        if args.check or args.rebase is not None:
            return baseline_of(args, baseline.cases(cases))
        run = measure_all(args, [case for case in cases if machine.limited() or case.group != "avx2"])
        if not machine.limited():
            run.cases.extend(measure_limited(args, [case for case in cases if case.group == "avx2"]))
    except (OSError, ValueError, RuntimeError) as error:
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
    settings = Settings(args.seconds, backend=args.backend)
    if args.quick:
        settings = replace(settings, seconds=min(0.3, args.seconds), fewest=3, most=5)
    names = args.peers or (["eager", "eager_cl"] if args.quick else [])
    contenders = peers.contenders(names, args.backend)
    for_networks = replace(
        settings,
        seconds=settings.seconds if args.quick else args.network_seconds,
        pause=0.005,
        memory=not (args.quick or args.no_memory),
    )
    load = machine.load()
    if load > 0.5 * threads:
        print(
            f"other programs are running (load {load:.1f}): the times are not to be trusted", file=sys.stderr
        )
    run = Run(
        machine.environment(),
        {
            **asdict(settings),
            "network_seconds": for_networks.seconds,
            "memory": for_networks.memory,
            "threads": threads,
            "isa": args.isa,
            "pages_kept": pages_kept,
            "load_before": round(load, 2),
        },
    )
    start = time.monotonic()
    for i, case in enumerate(cases, 1):
        if args.quick:
            case = replace(case, fewest=None)
        result = measure(case, contenders, for_networks if case.whole else settings)
        run.cases.append(result)
        times = ", ".join(
            f"{peer} {tables.against(result, peer)}" for peer in result.peers if result.time(peer)
        )
        print(
            f"[{i}/{len(cases)}, {time.monotonic() - start:.0f} s] {result.name}: "
            f"ours {tables.milliseconds(result.results[OURS])} ms, {times}",
            file=sys.stderr,
            flush=True,
        )
    return run


def baseline_of(args: argparse.Namespace, cases: Sequence[Case]) -> int:
    """Checks against the baseline, or writes it; 1 where a ratio regressed."""
    args.peers, args.no_memory = args.peers or list(baseline.PEERS), True
    seconds, network_seconds = (0.5, 2.0) if args.check else (args.seconds, args.network_seconds)

    def measured(chosen: Sequence[Case], factor: float) -> Run:
        args.seconds, args.network_seconds = seconds * factor, network_seconds * factor
        return measure_all(args, chosen)

    if args.rebase is not None:
        run = Run.read(Path(args.rebase)) if args.rebase else measured(cases, 1.0)
        labels = {case.label() for case in cases}
        baseline.rebase(replace(run, cases=[case for case in run.cases if case.name in labels]))
        print(baseline.BASELINE)
        return 0
    found = baseline.check(cases, measured)
    to = tables.console()
    to.print(baseline.table(found))
    regressed = [c for c in found if c.verdict == "regressed"]
    for c in regressed:
        now = f"{c.now.ratio:.2f}x" if c.now else "no ratio: ours is wrong"
        print(f"regressed: {c.case} against {c.peer}: {c.before.ratio:.2f}x, now {now}")
    print(f"{len(found)} ratios, {len(regressed)} regressed")
    return 1 if regressed else 0


def limited(arguments: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """This command in a process that is limited to AVX2."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **machine.limits("avx2")}, **options)


def measure_limited(args: argparse.Namespace, cases: Sequence[Case]) -> list[CaseResult]:
    """The cases of AVX2, in a process that is limited to it."""
    if not cases:
        return []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "avx2.json"
        command = ["--isa", "avx2", "--json", str(target), "--no-memory", "--backend", args.backend]
        command += ["--cases", *(case.label() for case in cases), "--threads", str(args.threads)]
        command += ["--seconds", str(args.seconds), "--network-seconds", str(args.network_seconds)]
        command += ["--peers", *args.peers] if args.peers else []
        command += ["--quick"] if args.quick else []
        command += ["--give-pages-back"] if args.give_pages_back else []
        done = limited(command, stdout=subprocess.DEVNULL)
        if not target.exists():
            raise RuntimeError(f"the run limited to AVX2 failed with status {done.returncode}")
        return Run.read(target).cases


def write_documents() -> int:
    """Fill the marked blocks and draw the plots; say what changed."""
    run = Run.read(RESULTS)
    readme, performance = ROOT / "README.md", ROOT / "docs" / "performance.md"
    blocks = [
        (readme, "quality", report.quality()),
        (readme, "bench", report.markdown(run, brief=True)),
        (performance, "bench", report.markdown(run)),
    ]
    if ZEN5.exists():
        blocks.append((performance, "zen5", report.markdown(Run.read(ZEN5))))
    if sweep.RESULTS.exists():
        blocks.append((performance, "sweep", sweep.markdown(sweep.Sweep.read(sweep.RESULTS))))
    if roofline.RESULTS.exists():
        blocks.append((performance, "roofline", roofline.markdown(roofline.Roofline.read(roofline.RESULTS))))
    for path, block, text in blocks:
        changed = report.fill(path, block, text)
        print(f"{path.relative_to(ROOT)}: {block} {'written' if changed else 'unchanged'}")
    if absent := runtimes.missing("matplotlib"):
        print(f"docs/img: not written: {absent}")
        return 1
    for kind, results in plotted():
        for written in plots.write(kind, results):
            print(f"{written.relative_to(ROOT)}: written")
    return 0


def plotted() -> list[tuple[str, Path]]:
    """The kinds of plots and their results, where these are there."""
    found = [("networks", RESULTS), ("sweep", sweep.RESULTS), ("roofline", roofline.RESULTS)]
    return [(kind, results) for kind, results in found if results.exists()]


if __name__ == "__main__":
    sys.exit(main())
