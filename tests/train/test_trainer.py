# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The trainer: learns, resumes bit for bit, skips bad steps, writes whole files or none."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from sr_kernels.image.resize import bicubic
from sr_kernels.train.data import PatchSampler, Photograph
from sr_kernels.train.losses import charbonnier, l1
from sr_kernels.train.trainer import MOST_SKIPPED_IN_A_ROW, Trainer, TrainingConfig


class Small(nn.Module):
    """A stand-in of a network with dropout, whose random numbers a resume must restore."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.dropout(torch.relu(self.first(x)), 0.1, self.training)
        return F.pixel_shuffle(self.last(y), 2) + F.interpolate(x, scale_factor=2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trainer(config: TrainingConfig, seed: int = 0) -> Trainer:
    torch.manual_seed(seed)
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    sampler = PatchSampler([Photograph("a", bicubic(noise, (96, 96)))], 2, 12, 4, seed)
    return Trainer(Small(), sampler, config)


def assert_equal_states(a: object, b: object) -> None:
    """Nested states equal, tensors bit for bit; the time spent is not compared."""
    if isinstance(a, Tensor):
        assert isinstance(b, Tensor)
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert isinstance(b, dict)
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            assert_equal_states(a[key], b[key])
    elif isinstance(a, list):
        assert isinstance(b, list)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal_states(x, y)
    else:
        assert a == b


def test_six_steps_equal_three_and_three_more(tmp_path: Path) -> None:
    config = TrainingConfig(6)
    whole = trainer(config)
    losses = [whole.train_step() for _ in range(6)]

    first = trainer(config)
    resumed_losses = [first.train_step() for _ in range(3)]
    first.save(tmp_path / "checkpoint.pt")
    second = trainer(config)
    torch.manual_seed(99)
    second.resume(tmp_path / "checkpoint.pt")
    resumed_losses += [second.train_step() for _ in range(3)]

    assert resumed_losses == losses
    assert_equal_states(whole.state(), second.state())


def test_resume_refuses_another_configuration(tmp_path: Path) -> None:
    trainer(TrainingConfig(6)).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"learning_rate 0\.002 there, 0\.01 here"):
        trainer(TrainingConfig(6, learning_rate=0.01)).resume(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="seed 0 there, 1 here"):
        trainer(TrainingConfig(6), seed=1).resume(tmp_path / "checkpoint.pt")


def test_resume_refuses_another_network(tmp_path: Path) -> None:
    t = trainer(TrainingConfig(6))
    t.save(tmp_path / "checkpoint.pt")
    wider = Small()
    wider.first, wider.last = nn.Conv2d(3, 9, 3, padding=1), nn.Conv2d(9, 12, 3, padding=1)
    there = r"network of 4 tensors and 1100 values \(\w+\) there, of 4 tensors and 1236 values \(\w+\) here"
    with pytest.raises(ValueError, match=there):
        Trainer(wider, t.sampler, t.config).resume(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(("setting", "second"), [("chances", 2.0), ("pictures", 1.0)])
def test_resume_refuses_another_order_of_data(tmp_path: Path, setting: str, second: float) -> None:
    pixels = [bicubic(np.full((3, 3, 3), n, np.uint8), (96, 96)) for n in (9, 99)]
    photographs = [Photograph("a", pixels[0]), Photograph("b", pixels[1])]
    Trainer(Small(), PatchSampler(photographs, 2, 12, 4), TrainingConfig(6)).save(tmp_path / "checkpoint.pt")
    others = [Photograph("a", pixels[0]), Photograph("b", pixels[1], second)]
    if setting == "pictures":
        others.reverse()
    with pytest.raises(ValueError, match=rf"another run: {setting} \w+ there, \w+ here; resume"):
        Trainer(Small(), PatchSampler(others, 2, 12, 4), TrainingConfig(6)).resume(tmp_path / "checkpoint.pt")


def test_resume_names_a_damaged_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FileNotFoundError):
        trainer(TrainingConfig(6)).resume(path)
    trainer(TrainingConfig(6)).save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"not a checkpoint", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is not a checkpoint of this trainer"):
            trainer(TrainingConfig(6)).resume(path)
    torch.save({"first.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is not a checkpoint of this trainer"):
        trainer(TrainingConfig(6)).resume(path)


@pytest.mark.parametrize("loss", ["l1", "charbonnier"])
def test_training_lowers_the_loss(loss: str) -> None:
    t = trainer(TrainingConfig(60, learning_rate=5e-3, loss=loss))
    losses = [t.train_step() for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_the_average_follows_and_the_rate_ends_low() -> None:
    t = trainer(TrainingConfig(30))
    start = t.average.last.weight.clone()
    rates = []
    for _ in range(30):
        rates.append(t.learning_rate())
        t.train_step()
    moved = (t.model.last.weight - start).abs().max()
    lag = (t.model.last.weight - t.average.last.weight).abs().max()
    assert 0 < lag < moved
    assert rates[0] < rates[1] < rates[2] < rates[3] == max(rates)
    assert rates[-1] < 0.01 * max(rates)
    assert not any(p.requires_grad for p in t.average.parameters())


class Poisoned:
    """A sampler some of whose batches hold a value that is not finite."""

    def __init__(self, value: float, bad: set[int] | None) -> None:
        self.value, self.bad = value, bad

    def draw(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        low = torch.rand(2, 3, 8, 8, generator=generator)
        if self.bad is None or index in self.bad:
            low[0, 0, 0, 0] = self.value
        return low, torch.rand(2, 3, 16, 16, generator=generator)

    def settings(self) -> dict[str, int | str]:
        return {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_step_changes_nothing_and_is_counted(value: float) -> None:
    torch.manual_seed(0)
    t = Trainer(Small(), Poisoned(value, {2}), TrainingConfig(10))
    t.train_step()
    t.train_step()
    before = {k: v.clone() for k, v in t.model.state_dict().items()}
    average = {k: v.clone() for k, v in t.average.state_dict().items()}
    moments = t.optimiser.state_dict()["state"][0]["exp_avg"].clone()
    assert not np.isfinite(t.train_step())
    assert (t.step, t.skipped) == (3, 1)
    assert_equal_states(before, t.model.state_dict())
    assert_equal_states(average, t.average.state_dict())
    assert torch.equal(moments, t.optimiser.state_dict()["state"][0]["exp_avg"])
    assert np.isfinite(t.train_step())
    assert t.skipped == 1
    assert not torch.equal(before["last.weight"], t.model.last.weight)


def test_only_bad_steps_end_the_run() -> None:
    t = Trainer(Small(), Poisoned(float("nan"), None), TrainingConfig(1000))
    for _ in range(MOST_SKIPPED_IN_A_ROW - 1):
        t.train_step()
    with pytest.raises(FloatingPointError, match="not finite"):
        t.train_step()
    assert t.skipped == MOST_SKIPPED_IN_A_ROW


def test_an_interrupted_write_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    t = trainer(TrainingConfig(6))
    t.train_step()
    t.save(path)
    old = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    t.train_step()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            t.save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    t.save(path)
    assert path.read_bytes() != old


def test_a_write_is_whole_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file"
    t = trainer(TrainingConfig(6))
    t.save(path)
    old = path.read_bytes()
    t.train_step()
    seen, synced = [], []
    replace, fsync = os.replace, os.fsync

    def watched(source: Path, target: Path) -> None:
        seen.append((source.parent, source.read_bytes(), target.read_bytes()))
        replace(source, target)

    def noted(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "replace", watched)
    monkeypatch.setattr(os, "fsync", noted)
    t.save(path)
    assert seen == [(path.parent, path.read_bytes(), old)]
    assert old != path.read_bytes()
    assert list(path.parent.iterdir()) == [path]
    assert synced == [False, True], "the file, then the folder that names it"


def test_export_holds_the_average_and_its_metadata(tmp_path: Path) -> None:
    t = trainer(TrainingConfig(6))
    for _ in range(3):
        t.train_step()
    t.export(tmp_path / "weights.safetensors", {"architecture": "srvgg", "scale": "2"})
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert file.metadata() == {"architecture": "srvgg", "scale": "2"}
        assert_equal_states({k: file.get_tensor(k) for k in file.keys()}, dict(t.average.state_dict()))  # noqa: SIM118


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1"):
        TrainingConfig(0)
    with pytest.raises(ValueError, match="loss must be one of l1, charbonnier"):
        TrainingConfig(1, loss="l2")


def test_losses_on_known_values() -> None:
    a, b = torch.tensor([0.0, 3.0]), torch.tensor([4.0, 3.0])
    assert l1(a, b).item() == 2.0
    assert charbonnier(a, b, 3.0).item() == pytest.approx((5.0 + 3.0) / 2.0)
