# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""sr-kernels train: the compact network on photographs, and the held-out table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sr_kernels.cli.arguments import positive, threads

if TYPE_CHECKING:
    from sr_kernels.train.trainer import Trainer

CHECKPOINT = "checkpoint.pt"
SAVE_EVERY = 1000
PRINT_EVERY = 200
Report = Callable[[int, float], None]


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
    metadata = {
        "architecture": "srvgg",
        "scale": str(args.scale),
        "num_feat": str(args.features),
        "num_conv": str(args.convs),
        "steps": str(args.steps),
        "seed": str(args.seed),
    }
    trainer.export(weights, metadata)
    minutes = trainer.seconds / 60
    print(f"{weights}: {trainer.step} steps, {trainer.skipped} skipped, {minutes:.1f} minutes of training")
    try:
        held_out = held_out_photographs()
    except FileNotFoundError as error:
        print(f"no held-out table: {error}")
        return 0
    print(table(evaluate(trainer.average, args.scale, held_out), args.scale))
    return 0


def _loop(trainer: Trainer, checkpoint: Path) -> None:
    total = trainer.config.steps
    with _progress(trainer.step, total) as report:
        while trainer.step < total:
            loss = trainer.train_step()
            if trainer.step % SAVE_EVERY == 0 or trainer.step == total:
                trainer.save(checkpoint)
            report(trainer.step, loss)


@contextmanager
def _progress(done: int, total: int) -> Iterator[Report]:
    """A bar on a terminal, a line now and then elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total, completed=done, loss=float("nan"))
        smooth = _Smooth()
        yield lambda step, loss: bar.update(task, completed=step, loss=smooth(loss))


class _Smooth:
    """A moving average of the finite losses."""

    def __init__(self) -> None:
        self.value = float("nan")

    def __call__(self, loss: float) -> float:
        if loss - loss == 0.0:  # finite
            self.value = loss if self.value != self.value else 0.99 * self.value + 0.01 * loss
        return self.value


class _Lines:
    def __init__(self, total: int) -> None:
        self.total, self.smooth = total, _Smooth()

    def __call__(self, step: int, loss: float) -> None:
        value = self.smooth(loss)
        if step % PRINT_EVERY == 0 or step == self.total:
            print(f"step {step}/{self.total}  loss {value:.5f}", file=sys.stderr, flush=True)
