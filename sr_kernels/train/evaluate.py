# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The held-out table: bicubic and a model on four photographs; python -m sr_kernels.train.evaluate."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sr_kernels.image.metrics import SHAVE, psnr_y, ssim_y
from sr_kernels.image.resize import bicubic, degrade
from sr_kernels.train.data import Photograph, held_out_photographs


@dataclass(frozen=True)
class Score:
    """Luma PSNR in dB and SSIM of one picture enlarged by bicubic and by the model."""

    name: str
    bicubic_psnr: float
    model_psnr: float
    bicubic_ssim: float
    model_ssim: float

    @property
    def gain(self) -> float:
        """dB of PSNR over bicubic."""
        return self.model_psnr - self.bicubic_psnr


@torch.inference_mode()
def enlarge(model: nn.Module, low: np.ndarray) -> np.ndarray:
    """model's 8-bit picture (H*s, W*s, 3) of low (H, W, 3) uint8, rounded to nearest."""
    x = torch.from_numpy(np.ascontiguousarray(low)).permute(2, 0, 1)[None].float().div(255.0)
    y = model(x.contiguous(memory_format=torch.channels_last))
    return y[0].clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def evaluate(model: nn.Module, scale: int, photographs: Iterable[Photograph] | None = None) -> list[Score]:
    """Scores on photographs (the held-out four by default), whole, cropped to a multiple of scale.

    The low-resolution picture is the antialiased bicubic reduction, all pictures are 8-bit, and a border
    of four pixels is left out.
    """
    scores = []
    for photograph in held_out_photographs() if photographs is None else photographs:
        low, high = degrade(photograph.pixels, scale)
        plain, ours = bicubic(low, (high.shape[0], high.shape[1])), enlarge(model, low)
        scores.append(
            Score(
                Path(photograph.name).stem,
                psnr_y(plain, high, SHAVE),
                psnr_y(ours, high, SHAVE),
                ssim_y(plain, high, SHAVE),
                ssim_y(ours, high, SHAVE),
            )
        )
    return scores


def mean(scores: Sequence[Score]) -> Score:
    """The average over pictures, named mean."""
    fields = ("bicubic_psnr", "model_psnr", "bicubic_ssim", "model_ssim")
    return Score("mean", *(math.fsum(getattr(s, f) for s in scores) / len(scores) for f in fields))


def table(scores: Sequence[Score], scale: int) -> str:
    """The scores and their mean as a Markdown table."""
    lines = [
        f"| x{scale} | bicubic PSNR-Y | ours PSNR-Y | gain dB | bicubic SSIM-Y | ours SSIM-Y |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {s.name} | {s.bicubic_psnr:.2f} | {s.model_psnr:.2f} | {s.gain:+.2f} "
        f"| {s.bicubic_ssim:.4f} | {s.model_ssim:.4f} |"
        for s in [*scores, mean(scores)]
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of the weights named, or of the shipped ones."""
    from sr_kernels import models

    parser = argparse.ArgumentParser(prog="python -m sr_kernels.train.evaluate", description=__doc__)
    parser.add_argument("weights", nargs="*", type=Path, help="safetensors files (default: the shipped ones)")
    paths = parser.parse_args(arguments).weights
    networks = [models.load(p) for p in paths] or [models.embedded(s) for s in (2, 4)]
    for network in networks:
        print(table(evaluate(network, network.scale), network.scale), end="\n\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
