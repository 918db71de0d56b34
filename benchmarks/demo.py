# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The main job once: a photograph made small, enlarged again with the shipped model, measured and shown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from rich.text import Text

import sr_kernels
from benchmarks.panels import Panel, comparison
from sr_kernels.bench import machine, peers, plain
from sr_kernels.bench.problem import Problem
from sr_kernels.bench.results import OURS, Result, Timing
from sr_kernels.bench.runner import Settings, interleave
from sr_kernels.bench.tables import console, milliseconds
from sr_kernels.image.metrics import SHAVE, psnr_y, ssim_y
from sr_kernels.image.resize import bicubic, degrade
from sr_kernels.train.data import read_pixels, skimage_folder

NAME = "astronaut"
SCALES = (2, 4)
CROP = (172, 62, 128, 96)  # left, top, width, height in the original: the face


@dataclass(frozen=True)
class Enlargement:
    """One scale: the pictures, uint8 (H, W, 3), and what was measured."""

    scale: int
    low: np.ndarray
    high: np.ndarray
    plain: np.ndarray  # by bicubic
    ours: np.ndarray
    kernels: tuple[str, ...]  # that ran in upscale(), each once
    times: dict[str, Timing]  # of the network alone
    difference: float  # largest from eager, full scale = 1
    changed: int  # 8-bit values that differ from eager's

    def psnr(self, picture: np.ndarray) -> float:
        """Luma PSNR in dB against the original."""
        return psnr_y(picture, self.high, SHAVE)

    def ssim(self, picture: np.ndarray) -> float:
        """Luma SSIM against the original."""
        return ssim_y(picture, self.high, SHAVE)


def enlarge(photograph: np.ndarray, scale: int, settings: Settings) -> Enlargement:
    """photograph (H, W, 3) uint8 reduced by `scale` and enlarged again by the shipped model."""
    low, high = degrade(photograph, scale)
    model = sr_kernels.models.embedded(scale)
    with sr_kernels.record_kernels() as kernels:
        ours = sr_kernels.upscale(low, model, scale)
    x = torch.from_numpy(low).permute(2, 0, 1)[None].float().div(255.0).contiguous()
    problem = Problem(plain.of(model), plain.frozen(model), (x,))
    with torch.no_grad():
        calls = {c.name: c.build(problem) for c in peers.contenders(["eager", "eager_cl"])}
        times = interleave(calls, settings)
        mine, theirs = calls[OURS](), calls["eager"]()
    return Enlargement(
        scale,
        low,
        high,
        bicubic(low, (high.shape[0], high.shape[1])),
        ours,
        tuple(sorted(set(kernels))),
        times,
        float((mine - theirs).abs().max()),
        int((_eight_bits(mine) != _eight_bits(theirs)).sum()),
    )


def table(found: Sequence[Enlargement]) -> Table:
    """One column a scale."""
    threads = torch.get_num_threads()
    plural = "s" if threads > 1 else ""
    result = Table(
        title=f"{NAME}, {machine.processor()}, {threads} thread{plural}, torch {torch.__version__}"
    )
    result.add_column("")
    for e in found:
        result.add_column(f"{e.scale}x", justify="right")

    def row(name: str, cells: Sequence[str], last: bool = False) -> None:
        result.add_row(name, *map(Text, cells), end_section=last)

    row("pixels", [f"{_size(e.low)} -> {_size(e.high)}" for e in found], last=True)
    row("Y-PSNR, bicubic", [f"{e.psnr(e.plain):.2f} dB" for e in found])
    gains = [e.psnr(e.ours) - e.psnr(e.plain) for e in found]
    row(
        "Y-PSNR, ours",
        [f"{gain:+.2f}   {e.psnr(e.ours):.2f} dB" for e, gain in zip(found, gains, strict=True)],
    )
    row("SSIM, bicubic", [f"{e.ssim(e.plain):.4f}" for e in found])
    row("SSIM, ours", [f"{e.ssim(e.ours):.4f}" for e in found], last=True)
    row("network, ours", [f"{milliseconds(Result(e.times[OURS]))} ms" for e in found])
    for name, title in (("eager", "network, eager PyTorch"), ("eager_cl", "network, eager channels_last")):
        row(title, [_versus(e, name) for e in found], last=name == "eager_cl")
    row("backend", [", ".join(sorted({k.partition("/")[0] for k in e.kernels})) for e in found])
    row("kernels", ["\n".join(e.kernels) for e in found], last=True)
    row("largest difference from eager", [f"{e.difference:.1e} of full scale" for e in found])
    row("8-bit values that differ", [f"{e.changed:,} of {e.ours.size:,}" for e in found])
    return result


def write(found: Enlargement, folder: Path) -> list[Path]:
    """The pictures and the side-by-side PNG of one scale; their paths."""
    left, top, width, height = CROP
    crop = (left, top, left + width, top + height)
    panels = [
        Panel(f"bicubic   {found.psnr(found.plain):.2f} dB", found.plain),
        Panel(f"sr_kernels   {found.psnr(found.ours):.2f} dB", found.ours),
        Panel("original", found.high),
    ]
    title = f"{NAME}, {found.scale}x: {_size(found.low)} -> {_size(found.high)} pixels"
    note = "dB: PSNR of luma against the original. Below: the marked part, each pixel enlarged as a square."
    pictures = {
        "low": Image.fromarray(found.low),
        "bicubic": Image.fromarray(found.plain),
        "ours": Image.fromarray(found.ours),
        "comparison": comparison(title, note, panels, crop),
    }
    paths = []
    for name, picture in pictures.items():
        path = folder / f"{NAME}_x{found.scale}_{name}.png"
        picture.save(path)
        paths.append(path)
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job at every scale, print the table and the paths; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("out") / "demo", help="folder (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing a scale (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        photograph = read_pixels(skimage_folder() / f"{NAME}.png")
        args.out.mkdir(parents=True, exist_ok=True)
        machine.keep_pages()
        settings = Settings(seconds=args.seconds, fewest=3, most=200)
        found = [enlarge(photograph, scale, settings) for scale in SCALES]
        paths = [path for e in found for path in write(e, args.out)]
    except (OSError, ValueError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    to = console()
    to.print(table(found))
    if reasons := sr_kernels.available_backends()["cpu"]:
        to.print(
            Text(
                f"The native kernels are not here ({'; '.join(reasons)}), so PyTorch's own ran for ours too. "
                "With a C++ compiler installed, make setup builds them."
            )
        )
    for path in paths:
        print(path)
    return 0


def _eight_bits(y: torch.Tensor) -> torch.Tensor:
    return y.clamp(0.0, 1.0).mul(255.0).round()


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _versus(e: Enlargement, peer: str) -> str:
    time, ratio = e.times[peer], e.times[peer].median / e.times[OURS].median
    return f"(ours {ratio:.2f}x as fast)   {milliseconds(Result(time))} ms"


if __name__ == "__main__":
    sys.exit(main())
