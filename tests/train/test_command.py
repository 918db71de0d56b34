# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""`sr-kernels train` from end to end on a small folder, and what it says to bad arguments."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sr_kernels import models
from sr_kernels.cli import main
from sr_kernels.image.resize import bicubic

SIZES = ["--features", "4", "--convs", "1", "--patch", "8", "--batch", "2", "--threads", "1"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of one smooth picture of 64 x 64."""
    folder = tmp_path / "data"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(bicubic(noise, (64, 64))).save(folder / "noise.png")
    return folder


@pytest.fixture(autouse=True)
def threads_kept():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def train(data: Path, out: Path, *more: str) -> int:
    return main(
        ["train", "--scale", "2", "--data", str(data), "--out", str(out), "--steps", "4", *SIZES, *more]
    )


def test_training_writes_weights_that_load_and_prints_the_table(data: Path, tmp_path: Path, capsys) -> None:
    assert train(data, tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert "1 pictures: noise.png" in printed.out
    assert "step 4/4" in printed.err
    rows = re.findall(r"^\| (\w+) \| \d\d\.\d\d \| \d\d\.\d\d \| [+-]\d\.\d\d \|", printed.out, re.MULTILINE)
    assert rows == ["astronaut", "chelsea", "coffee", "rocket", "mean"]
    weights = tmp_path / "out" / "compact_x2.safetensors"
    with safe_open(weights, "pt") as file:
        assert file.metadata()["architecture"] == "srvgg"
        assert file.metadata()["scale"] == "2"
    model = models.load(weights)
    assert model.scale == 2
    assert model(torch.zeros(1, 3, 5, 7)).shape == (1, 3, 10, 14)


def test_a_second_run_needs_resume_and_then_agrees(data: Path, tmp_path: Path, capsys) -> None:
    assert train(data, tmp_path / "out") == 0
    weights = load_file(tmp_path / "out" / "compact_x2.safetensors")
    assert train(data, tmp_path / "out") == 1
    assert "--resume" in capsys.readouterr().err
    (tmp_path / "out" / "compact_x2.safetensors").unlink()
    assert train(data, tmp_path / "out", "--resume") == 0
    assert "resumed at step 4" in capsys.readouterr().out
    again = load_file(tmp_path / "out" / "compact_x2.safetensors")
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[k], again[k]) for k in weights)


def test_init_takes_the_tensors_that_agree(data: Path, tmp_path: Path, capsys) -> None:
    start = models.create("srvgg", scale=4, num_feat=4, num_conv=1)
    save_file(start.state_dict(), tmp_path / "start.safetensors")
    assert train(data, tmp_path / "out", "--init", str(tmp_path / "start.safetensors")) == 0
    # Two convolutions and their slopes; the last convolution is of another scale.
    assert "6 of 8 tensors taken" in capsys.readouterr().out
    trained = load_file(tmp_path / "out" / "compact_x2.safetensors")
    # Four steps move no weight by more than four times the learning rate.
    assert (trained["body.0.weight"] - start.state_dict()["body.0.weight"]).abs().max() < 1e-2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--scale", "2"], 2, "--scale and --out are needed"),
        (["--scale", "2", "--out", "{}", "--data", "{}/nowhere"], 1, "nowhere"),
        (["--scale", "2", "--out", "{}", "--steps", "0"], 2, "at least 1"),
        (["--scale", "2", "--out", "{}", "--init", "{}/none.safetensors"], 1, "none.safetensors"),
        (["--evaluate", "{}/none.safetensors"], 1, "none.safetensors"),
    ],
)
def test_bad_arguments_are_named(arguments, status: int, message: str, tmp_path: Path, capsys) -> None:
    assert main(["train", *(a.format(tmp_path) for a in arguments)]) == status
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_init_refuses_another_network(data: Path, tmp_path: Path, capsys) -> None:
    save_file({"other": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert train(data, tmp_path / "out", "--init", str(tmp_path / "other.safetensors")) == 1
    assert "no tensor with a name and shape" in capsys.readouterr().err
    (tmp_path / "broken.safetensors").write_bytes(b"not safetensors")
    assert train(data, tmp_path / "out", "--init", str(tmp_path / "broken.safetensors")) == 1
    assert "is not a safetensors file" in capsys.readouterr().err
