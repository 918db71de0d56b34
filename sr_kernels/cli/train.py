# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""sr-kernels train: the compact network on photographs, and the held-out table."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sr_kernels.cli.arguments import positive, threads
from sr_kernels.cli.progress import Progress

if TYPE_CHECKING:
    from sr_kernels.train.trainer import Trainer

CHECKPOINT = "checkpoint.pt"
SAVE_EVERY = 1000
# The options that decide what comes out.
_DECISIVE = (
    "scale", "data", "steps", "batch", "patch", "features", "convs", "learning_rate", "loss", "seed", "init",
)  # fmt: skip


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Register `train` with the command line's subparsers."""
    parser = subparsers.add_parser(
        "train",
        help="train the compact network, or print the held-out table",
        description="Train the compact network on photographs (scikit-image's, or those of a folder), write "
        "OUT/compact_xS.safetensors and print the table of the four held-out pictures.",
    )
    add = parser.add_argument
    add("--scale", type=int, choices=(2, 3, 4), help="enlargement")
    add("--out", type=Path, metavar="DIR", help="where the weights and the checkpoint go")
    add("--data", type=Path, metavar="DIR", help="a folder of pictures (default: scikit-image's photographs)")
    add("--steps", type=positive, default=9000, help="batches to train on (default: %(default)s)")
    add("--batch", type=positive, default=12, help="patches a batch (default: %(default)s)")
    add("--patch", type=positive, default=40, help="low-resolution pixels a side (default: %(default)s)")
    add("--features", type=positive, default=32, help="channels of the body (default: %(default)s)")
    add(
        "--convs",
        type=positive,
        default=5,
        help="convolutions between first and last (default: %(default)s)",
    )
    add("--learning-rate", type=float, default=2e-3, help="the highest (default: %(default)s)")
    add("--loss", choices=("l1", "charbonnier"), default="l1", help="default: %(default)s")
    add("--seed", type=int, default=0, help="of weights and patches (default: %(default)s)")
    add("--init", type=Path, metavar="WEIGHTS", help="begin from these where names and shapes agree")
    add("--resume", action="store_true", help="go on from OUT's checkpoint, where there is one")
    add("--threads", type=threads, help="of PyTorch (default: its own choice)")
    add(
        "--evaluate",
        nargs="*",
        type=Path,
        metavar="WEIGHTS",
        help="train nothing, print the held-out table of these weights (none named: the shipped ones)",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Train or evaluate as the parsed arguments say; the exit status."""
    if args.evaluate is None and (args.scale is None or args.out is None):
        print("sr-kernels train: error: --scale and --out are needed, or --evaluate", file=sys.stderr)
        return 2
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.evaluate is None:
        return _train(args)
    from sr_kernels.train import evaluate

    return evaluate.main([str(p) for p in args.evaluate])


def _train(args: argparse.Namespace) -> int:
    import torch

    from sr_kernels.models import create
    from sr_kernels.train.data import PatchSampler, held_out_photographs, training_photographs
    from sr_kernels.train.evaluate import evaluate, table
    from sr_kernels.train.initial import start_from, start_from_nearest
    from sr_kernels.train.trainer import Trainer, TrainingConfig

    torch.manual_seed(args.seed)
    model = create("srvgg", scale=args.scale, num_feat=args.features, num_conv=args.convs)
    start_from_nearest(model)
    if args.init:
        taken = start_from(model, args.init)
        print(f"{len(taken)} of {len(model.state_dict())} tensors taken from {args.init}")
    photographs = training_photographs(args.data)
    print(f"{len(photographs)} pictures: {', '.join(p.name for p in photographs)}")
    config = TrainingConfig(args.steps, args.learning_rate, loss=args.loss)
    trainer = Trainer(model, PatchSampler(photographs, args.scale, args.patch, args.batch, args.seed), config)
    checkpoint = args.out / CHECKPOINT
    if args.resume and checkpoint.exists():
        trainer.resume(checkpoint)
        print(f"resumed at step {trainer.step}")
    elif checkpoint.exists():
        raise ValueError(f"{checkpoint} exists: pass --resume to go on from it, or another --out")
    _loop(trainer, checkpoint)

    weights = args.out / f"compact_x{args.scale}.safetensors"
    trainer.export(weights, _metadata(args, trainer))
    minutes = trainer.seconds / 60
    print(f"{weights}: {trainer.step} steps, {trainer.skipped} skipped, {minutes:.1f} minutes of training")
    try:
        held_out = held_out_photographs()
    except FileNotFoundError as error:
        print(f"no held-out table: {error}")
        return 0
    print(table(evaluate(trainer.average, args.scale, held_out), args.scale))
    return 0


def _metadata(args: argparse.Namespace, trainer: Trainer) -> dict[str, str]:
    """What the network is, the trainer's settings, digests of its data, the command without its folders."""
    import torch

    command = ["sr-kernels", "train"]
    for name in _DECISIVE:
        value = getattr(args, name)
        if value is not None:
            shown = value.name if isinstance(value, Path) else str(value)
            command += [f"--{name.replace('_', '-')}", shown]
    network = {"architecture": "srvgg", "num_feat": args.features, "num_conv": args.convs}
    made = {"command": shlex.join(command), "torch": torch.__version__, "threads": torch.get_num_threads()}
    return {key: str(value) for key, value in {**trainer.settings(), **network, **made}.items()}


def _loop(trainer: Trainer, checkpoint: Path) -> None:
    total = trainer.config.steps
    trainer.save(checkpoint)  # where nothing can be written, say so before the work
    average = float("nan")
    with Progress(unit="steps") as progress:
        update = progress.watch("training")
        while trainer.step < total:
            loss = trainer.train_step()
            if trainer.step % SAVE_EVERY == 0 or trainer.step == total:
                trainer.save(checkpoint)
            if math.isfinite(loss):
                average = loss if math.isnan(average) else 0.99 * average + 0.01 * loss
            update(trainer.step, total, f"loss {average:.5f}")
