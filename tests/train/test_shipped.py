# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The weights in the package: their size, their metadata, and their gain on the held-out photographs."""

from __future__ import annotations

import re
import shlex
from dataclasses import astuple
from pathlib import Path

import pytest
from safetensors import safe_open

import sr_kernels
from sr_kernels import cli, models
from sr_kernels.train.evaluate import evaluate, mean

GAIN = {2: 1.5, 4: 0.6}  # dB of Y-PSNR over bicubic, mean of the four
DOCUMENT = Path(__file__).parents[2] / "docs" / "embedded_model.md"


def weights(scale: int) -> Path:
    return Path(sr_kernels.__file__).parent / "weights" / f"compact_x{scale}.safetensors"


def documented_mean(scale: int) -> list[float]:
    """Mean PSNR of bicubic and ours, then mean SSIM of both, from the document's table of the scale."""
    rows = DOCUMENT.read_text().split(f"| x{scale} |")[1].splitlines()
    cells = next(row for row in rows if row.startswith("| mean |")).split("|")
    return [float(cells[i]) for i in (2, 3, 5, 6)]


@pytest.mark.parametrize("scale", [2, 4])
def test_the_weights_are_small_and_say_what_they_are(scale: int) -> None:
    assert weights(scale).stat().st_size < 300_000
    model = models.embedded(scale)
    assert 40_000 <= sum(p.numel() for p in model.parameters()) <= 60_000
    with safe_open(weights(scale), "pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(model.state_dict())
    assert metadata["architecture"] == "srvgg"
    assert metadata["scale"] == str(model.scale) == str(scale)
    assert int(metadata["steps"]) > 1000


@pytest.mark.parametrize("scale", [2, 4])
def test_the_weights_say_how_they_were_made_as_the_document_does(scale: int) -> None:
    with safe_open(weights(scale), "pt") as file:
        metadata = file.metadata()
    text = DOCUMENT.read_text().replace("\\\n", " ")
    documented = re.search(rf"sr-kernels train --scale {scale} .*", text)
    assert documented
    args, recorded = (
        cli.build_parser().parse_args(shlex.split(command)[1:])
        for command in (documented[0], metadata["command"])
    )
    for name in ("scale", "steps", "batch", "patch", "features", "convs", "learning_rate", "loss", "seed"):
        assert getattr(args, name) == getattr(recorded, name)
        key = {"features": "num_feat", "convs": "num_conv"}.get(name, name)
        assert metadata[key] == str(getattr(args, name))
    assert metadata["threads"] == str(args.threads)
    assert re.fullmatch("[0-9a-f]{16}", metadata["pictures"])
    assert f"{weights(scale).stat().st_size:,}" in text


@pytest.mark.parametrize("scale", [2, 4])
def test_the_gain_over_bicubic_on_held_out_photographs(scale: int) -> None:
    scores = evaluate(models.embedded(scale), scale)
    assert len(scores) == 4
    assert mean(scores).gain >= GAIN[scale]
    assert all(s.gain > 0.3 and s.model_ssim > s.bicubic_ssim for s in scores)
    # Rounded to print; and another instruction set may round an 8-bit pixel here and there the other way.
    documented, found = documented_mean(scale), astuple(mean(scores))[1:]
    assert documented[:2] == pytest.approx(found[:2], abs=0.005 + 0.001)
    assert documented[2:] == pytest.approx(found[2:], abs=0.00005 + 0.00001)
