# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""sr-kernels tune: measures the Triton kernels' configurations on this GPU and keeps the fastest."""

from __future__ import annotations

import argparse

from sr_kernels.cli.arguments import positive


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Register `tune` with the command line's subparsers."""
    parser = commands.add_parser(
        "tune",
        help="measure the Triton kernels' configurations on this GPU",
        description="Compile and time launch configurations of the usual super-resolution layers, and keep "
        "the fastest of each for this device, driver and triton. Without it, shipped tables and a rule "
        "decide.",
    )
    parser.add_argument(
        "--only", metavar="TEXT", help="layers whose key, as printed, contains it, such as 64->64 or taps"
    )
    parser.add_argument("--most", type=positive, default=64, metavar="N", help="configurations a layer (64)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that compile")
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--json", metavar="FILE", help="write every time measured there")
    return parser


def run(args: argparse.Namespace) -> int:
    """Tune and print a line a layer; the exit status."""
    import json
    from dataclasses import asdict, replace
    from pathlib import Path

    from sr_kernels.backends import available_backends
    from sr_kernels.cli.progress import Progress

    if reasons := available_backends()["triton"]:
        raise RuntimeError(f"nothing to tune, the Triton backend does not run here: {'; '.join(reasons)}")
    from sr_kernels.backends.triton import configs, plan, tune
    from sr_kernels.backends.triton.launch import INTERPRETED

    if INTERPRETED:
        raise RuntimeError("nothing to tune: TRITON_INTERPRET is set, kernels are interpreted; unset it")

    tasks = [replace(task, dtype=args.dtype) for task in tune.USUAL]
    if args.only:
        tasks = [task for task in tasks if args.only in tune.layer_of(task)[1].key()]
        if not tasks:
            raise ValueError(f"no layer has {args.only!r} in its key; try 64->64, 9x9 or taps")
    path = ""
    best: dict[str, configs.Config] = {}
    everything = []
    with Progress(unit="configurations") as bar:
        for outcome in tune.tune(tasks, most=args.most, workers=args.workers, progress=bar.watch("tuning")):
            key = outcome.layer.key()
            if not outcome.times:
                print(
                    f"{key:<36} no configuration of {len(outcome.failed)} ran; the first: {outcome.failed[0]}"
                )
                continue
            seconds, winner = outcome.times[0]
            usual = next((s for s, c in outcome.times if c == tune.in_force(outcome.layer)), None)
            gain = f"{usual / seconds:.2f}x the usual" if usual else "the usual did not run"
            print(f"{key:<36} {seconds * 1e6:8.1f} us  {gain}, {_words(winner)}", flush=True)
            if key not in best:  # kept at once: what was measured stays if the run is cut short
                best[key] = winner
                path = configs.keep(plan.device_key(0), {key: winner})
            times = [{"us": round(s * 1e6, 2), **asdict(c)} for s, c in outcome.times]
            everything.append(
                {"key": key, "task": asdict(outcome.task), "failed": outcome.failed, "times": times}
            )
            if args.json:
                found = {"device": plan.device_key(0), "layers": everything}
                Path(args.json).write_text(json.dumps(found, indent=1))
    if best:
        print(f"kept in {path}")
    return 0 if best else 1


def _words(c: object) -> str:
    return str(c).removeprefix("Config(").removesuffix(")")
