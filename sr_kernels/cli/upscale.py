# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""sr-kernels upscale: a picture, or a folder of them, larger."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sr_kernels import config
from sr_kernels.cli.arguments import positive, setting, threads
from sr_kernels.cli.progress import Progress

if TYPE_CHECKING:
    from torch import nn

DTYPES = ("float32", "bfloat16", "float16")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Register `upscale` with the command line's subparsers."""
    parser = commands.add_parser(
        "upscale",
        help="enlarge a picture or a folder of pictures",
        description="Enlarge a picture, or every picture of a folder (not of its subfolders). The input is "
        "never overwritten. Of a folder, existing outputs are skipped: an interrupted run can be repeated.",
    )
    add = parser.add_argument
    add("input", metavar="IN", type=Path, help="a PNG, JPEG, WebP, TIFF, BMP or PPM file, or a folder")
    add(
        "output",
        metavar="OUT",
        type=Path,
        nargs="?",
        help="a file or a folder (default: NAME_x2.png beside the file, or IN_x2 beside the folder)",
    )
    add("--scale", type=positive, metavar="N", help="times larger (default: the model's own, 2 if embedded)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", metavar="NAME", help="a model that the package carries (default: compact)")
    which.add_argument("--weights", type=Path, metavar="FILE", help="a checkpoint, .safetensors or .pth")
    add(
        "--set",
        type=setting,
        action="append",
        metavar="KEY=VALUE",
        help="what the file does not tell of its model, as activation=relu or res_scale=0.1 (repeatable)",
    )
    add(
        "--tile", type=positive, metavar="N", help="input pixels a side at a time (default: as memory allows)"
    )
    add("--dtype", choices=DTYPES, help="of the arithmetic (default: the model's own)")
    add("--backend", choices=("auto", *config.BACKENDS), help="of the kernels (default: auto)")
    add("--threads", type=threads, metavar="N", help="of the CPU (default: PyTorch's own choice)")
    add("--overwrite", action="store_true", help="replace existing outputs")
    add(
        "--max-pixels",
        type=positive,
        metavar="N",
        help="refuse larger inputs, which may be decompression bombs (default: about 89 million)",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Enlarge as the parsed arguments say; the exit status."""
    if not args.input.exists():
        raise FileNotFoundError(f"{args.input}: no such file or folder")
    if not (args.input.is_file() or args.input.is_dir()):
        raise ValueError(f"{args.input}: is neither a file nor a folder")
    if args.weights is not None and not args.weights.is_file():
        raise FileNotFoundError(f"--weights {args.weights}: no such file")
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    from sr_kernels.image import MAX_PIXELS
    from sr_kernels.pipeline import check_scale, resolve_model

    model = resolve_model(args.weights or args.model, args.scale, options=dict(args.set or ()) or None)
    scale = int(getattr(model, "scale", 0))
    check_scale(args.scale, scale)
    limit = args.max_pixels or MAX_PIXELS
    job = Job(model, scale, args.tile, args.dtype, args.backend, args.overwrite, limit)
    if args.input.is_dir():
        return _run_folder(job, args.input, args.output)
    target = args.output
    if target is None:
        target = args.input.with_name(f"{args.input.stem}_x{scale}.png")
    elif target.is_dir():
        target = target / f"{args.input.stem}_x{scale}.png"
    with Progress() as progress:
        print(job.enlarge(args.input, target, progress.watch(args.input.name)))
    return 0


@dataclass(frozen=True)
class Job:
    """What is done to every picture of a run."""

    model: nn.Module
    scale: int
    tile: int | None
    dtype: str | None
    backend: str | None
    overwrite: bool
    max_pixels: int

    def enlarge(self, source: Path, target: Path, progress: Callable[[int, int], None]) -> str:
        """Read, enlarge, write; one line that says what was done."""
        from sr_kernels.backends import record_kernels
        from sr_kernels.image.io import check_writable, read, write
        from sr_kernels.pipeline import upscale

        if target.exists() and target.samefile(source):
            raise ValueError(
                f"{target}: is the input itself, which is never overwritten: name another output"
            )
        start = time.perf_counter()
        picture = read(source, self.max_pixels)
        check_writable(picture, target, self.overwrite, self.scale)
        with record_kernels() as kernels:
            larger = upscale(
                picture,
                self.model,
                self.scale,
                tile=self.tile,
                dtype=self.dtype,
                backend=self.backend,
                progress=progress,
            )
        write(larger, target, self.overwrite)
        seconds = time.perf_counter() - start
        sizes = f"{picture.width}x{picture.height} -> {larger.width}x{larger.height}"
        return f"{source} -> {target}  {sizes}  {seconds:.2f} s  {_summary(kernels)}"


def _run_folder(job: Job, source: Path, target: Path | None) -> int:
    from sr_kernels.cli import describe
    from sr_kernels.image.io import SUFFIXES

    target = target or source.resolve().with_name(f"{source.resolve().name}_x{job.scale}")
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target}: is a file; of a folder the output must be a folder")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target}: is the input folder itself: name another output folder")
    files = sorted(
        p for p in source.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES and p.name[0] != "."
    )
    if not files:
        raise FileNotFoundError(f"{source}: no pictures ({' '.join(SUFFIXES)}) in this folder")
    target.mkdir(parents=True, exist_ok=True)
    done, skipped, failures = 0, 0, []
    with Progress(len(files)) as progress:
        for file, name in zip(files, _names(files, job.scale), strict=True):
            output = target / name
            if output.exists() and not job.overwrite:
                skipped += 1
            else:
                try:
                    print(job.enlarge(file, output, progress.watch(file.name)), flush=True)
                    done += 1
                except Exception as error:
                    failures.append(describe(error))
                    print(f"sr-kernels: error: {failures[-1]}", file=sys.stderr)
            progress.next_picture()
    print(f"{done} enlarged, {skipped} skipped because their output exists, {len(failures)} failed")
    for failure in failures:
        print(f"  failed: {failure}")
    return 1 if failures else 0


def _names(files: list[Path], scale: int) -> list[str]:
    """NAME_x2.png, or NAME.jpg_x2.png for files whose outputs would share a name; no name comes twice."""
    names = [f"{p.stem}_x{scale}.png" for p in files]
    whole = [f"{p.name}_x{scale}.png" for p in files]
    # Again and again, since a whole name may be a third file's short one. Whole names all differ.
    while len(set(names)) < len(names):
        counts = Counter(names)
        names = [w if counts[n] > 1 else n for n, w in zip(names, whole, strict=True)]
    return names


def _summary(kernels: list[str]) -> str:
    layers = sorted({k for k in kernels if "image_to_float" not in k and "float_to_image" not in k})
    return ", ".join(layers) or "PyTorch's own kernels"
