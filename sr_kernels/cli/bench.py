# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""sr-kernels bench: a model on this machine, beside what it could be run with instead."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sr_kernels import config
from sr_kernels.cli.arguments import positive, setting, size, threads
from sr_kernels.cli.progress import Progress, Update

if TYPE_CHECKING:
    from sr_kernels.bench.contender import Contender
    from sr_kernels.bench.model import ModelCase
    from sr_kernels.bench.results import CaseResult, Run

DEFAULT = ("eager", "eager_cl", "onnxruntime", "openvino", "ncnn", "eager_bf16", "openvino_bf16")
AGAINST = (*DEFAULT[:2], "compile", *DEFAULT[2:], "ncnn_bf16")
_LARGE = 100.0  # GFLOP; above it float64 would take a minute, and eager's error is taken on a small picture
_SMALL = 64


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Register `bench` with the command line's subparsers."""
    parser = commands.add_parser(
        "bench",
        help="time a model on this machine beside other runtimes",
        description="Time a model beside eager PyTorch and the runtimes that are installed, interleaved in "
        "one process, with every result checked. The exit status is 1 where a result of ours is wrong.",
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--model",
        metavar="NAME",
        help="one that the package carries (default: compact_x4), or an architecture: weights are made up",
    )
    which.add_argument("--weights", type=Path, metavar="FILE", help="a checkpoint, .safetensors or .pth")
    add("--scale", type=positive, metavar="N", help="times larger (default: the model's own, 4 if embedded)")
    add(
        "--set",
        type=setting,
        action="append",
        metavar="KEY=VALUE",
        help="an argument of the architecture, as num_block=6 (repeatable)",
    )
    add("--size", type=size, default=(320, 180), metavar="WxH", help="of the picture (default: 320x180)")
    add(
        "--against",
        nargs="+",
        choices=AGAINST,
        metavar="NAME",
        help=f"of {', '.join(AGAINST)} (default: all that are installed but compile and ncnn_bf16)",
    )
    add("--threads", type=threads, metavar="N", help="of everybody (default: PyTorch's own choice)")
    add("--precision", choices=config.PRECISIONS, default="high", help="of ours (default: %(default)s)")
    add("--backend", choices=("auto", *config.BACKENDS), default="auto", help="of ours (default: auto)")
    add("--seconds", type=float, default=8.0, help="of timing, about (default: %(default)s)")
    add("--no-memory", action="store_true", help="leave out the memory, which takes a process for each")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured there too")
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure and print as the parsed arguments say; the exit status."""
    if args.weights is not None and not args.weights.is_file():
        raise FileNotFoundError(f"--weights {args.weights}: no such file")
    if args.json is not None and not args.json.resolve().parent.is_dir():
        raise FileNotFoundError(f"--json {args.json}: there is no folder {args.json.resolve().parent}")
    from sr_kernels.bench import machine, tables
    from sr_kernels.bench.results import OURS

    load = machine.load()
    if load > 0.5 * (os.cpu_count() or 1):
        print(f"other programs are running (load {load:.1f}): do not trust the times", file=sys.stderr)
    with config.set_precision(args.precision):
        result = _measured(args, _case(args), _contenders(args), load)
    to = tables.console()
    (found,) = result.cases
    to.print(tables.contenders(found))
    for line in [*tables.fastest(found), *tables.notes(result), tables.provenance(result)]:
        to.print(line, markup=False, highlight=False, soft_wrap=True)
    if args.json is not None:
        part = args.json.with_name(f".{args.json.name}.{os.getpid()}")
        try:
            part.write_text(result.to_json())
            part.replace(args.json)
        finally:
            part.unlink(missing_ok=True)
    return 0 if found.results[OURS].parity else 1


def _contenders(args: argparse.Namespace) -> list[Contender]:
    """Raises ValueError where one that was asked for cannot run."""
    from sr_kernels.bench import peers

    names = ["compiled" if name == "compile" else name for name in args.against or DEFAULT]
    found = peers.contenders(names, args.backend)
    for contender in found[1:]:
        if args.against and (why := contender.missing()):
            raise ValueError(f"--against {contender.name}: {why}")
    return found


def _case(args: argparse.Namespace) -> ModelCase:
    """The case, its model tried before anything is timed."""
    from sr_kernels.bench.model import ModelCase
    from sr_kernels.bench.runner import gflop

    source, scale = str(args.weights or args.model or "compact"), args.scale
    if source == "compact":
        source, scale = f"compact_x{scale or 4}", None
    name = args.weights.name if args.weights else source
    width, height = args.size
    case = ModelCase(name, height, width, source=source, scale=scale, options=tuple(args.set or ()))
    if gflop(case.build()) > _LARGE and height * width > _SMALL**2:
        multiple = case.model().input_multiple
        sides = (max(multiple, min(side, _SMALL) // multiple * multiple) for side in (height, width))
        case = replace(case, checked=(next(sides), next(sides)))
    return case


def _measured(args: argparse.Namespace, case: ModelCase, contenders: list[Contender], load: float) -> Run:
    import torch

    from sr_kernels.bench import machine
    from sr_kernels.bench.results import Run
    from sr_kernels.bench.runner import Settings, measure

    before = torch.get_num_threads()
    settings = Settings(args.seconds, fewest=3, pause=0.005, memory=not args.no_memory, backend=args.backend)
    described = {
        **asdict(settings),
        "threads": machine.set_threads(args.threads or before),
        "pages_kept": machine.keep_pages(),
        "precision": args.precision,
        "load_before": round(load, 2),
    }
    try:
        with Progress(unit="steps", still=True) as progress:
            phases: dict[str, Update] = {}

            def report(phase: str, done: int, total: int, note: str) -> None:
                if phase not in phases:
                    phases[phase] = progress.watch(phase)
                phases[phase](done, total, note)

            found: CaseResult = measure(case, contenders, settings, report)
    finally:
        torch.set_num_threads(before)
    return Run(machine.environment(), described, [found])
