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

from sr_kernels import cli, models
from sr_kernels.cli import main
from sr_kernels.image.resize import bicubic
from sr_kernels.train.trainer import Trainer

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
    assert "compact_x2.safetensors: 4 steps, 0 skipped" in printed.out
    rows = re.findall(r"^\| (\w+) \| \d\d\.\d\d \| \d\d\.\d\d \| [+-]\d\.\d\d \|", printed.out, re.MULTILINE)
    assert rows == ["astronaut", "chelsea", "coffee", "rocket", "mean"]
    weights = tmp_path / "out" / "compact_x2.safetensors"
    with safe_open(weights, "pt") as file:
        assert file.metadata()["architecture"] == "srvgg"
        assert file.metadata()["scale"] == "2"
        assert file.metadata()["batch"] == "2"
        assert file.metadata()["patch"] == "8"
        assert file.metadata()["learning_rate"] == "0.002"
        assert re.fullmatch("[0-9a-f]{16}", file.metadata()["pictures"])
        assert file.metadata()["command"] == (
            "sr-kernels train --scale 2 --data data --steps 4 --batch 2 --patch 8 --features 4 --convs 1 "
            "--learning-rate 0.002 --loss l1 --seed 0"
        )
    model = models.load(weights)
    assert model.scale == 2
    assert model(torch.zeros(1, 3, 5, 7)).shape == (1, 3, 10, 14)


def test_an_interrupted_run_goes_on_and_agrees_with_a_straight_one(
    data: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    assert train(data, tmp_path / "straight") == 0
    monkeypatch.setattr(cli.train, "SAVE_EVERY", 1)
    train_step = Trainer.train_step

    def interrupted(self: Trainer) -> float:
        if self.step == 2:
            raise KeyboardInterrupt
        return train_step(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", interrupted)
        assert train(data, tmp_path / "out") == 130
    assert not (tmp_path / "out" / "compact_x2.safetensors").exists()
    assert train(data, tmp_path / "out") == 1
    assert "--resume" in capsys.readouterr().err

    steps = []
    monkeypatch.setattr(Trainer, "train_step", lambda self: steps.append(self.step) or train_step(self))
    assert train(data, tmp_path / "out", "--resume") == 0
    assert "resumed at step 2" in capsys.readouterr().out
    assert steps == [2, 3]
    straight, resumed = (
        load_file(tmp_path / name / "compact_x2.safetensors") for name in ("straight", "out")
    )
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


def test_resume_with_another_network_is_explained(data: Path, tmp_path: Path, capsys) -> None:
    assert train(data, tmp_path / "out") == 0
    assert train(data, tmp_path / "out", "--resume", "--features", "5") == 1
    err = capsys.readouterr().err
    assert "is of another run: network of 8 tensors" in err
    assert len(err) < 400


def test_an_output_that_cannot_be_written_is_found_before_the_work(
    data: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    def too_late(self: Trainer) -> float:
        raise AssertionError("training began")

    monkeypatch.setattr(Trainer, "train_step", too_late)
    (tmp_path / "file").write_text("in the way")
    assert train(data, tmp_path / "file" / "out") == 1
    assert f"{tmp_path / 'file' / 'out'}: Not a directory" in capsys.readouterr().err


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
