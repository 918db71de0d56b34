# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""sr-kernels bench: what it measures, prints and writes, and how it refuses."""

from __future__ import annotations

import copy
import importlib.util
import json

import pytest
import torch

import sr_kernels
from sr_kernels import config
from sr_kernels.bench import peers
from sr_kernels.bench.results import OURS, Run
from sr_kernels.cli import bench, main

BRIEF = ("--seconds", "0", "--threads", "1", "--no-memory")
TINY = ("--model", "srvgg", "--set", "num_feat=8", "--set", "num_conv=1", "--size", "24x16")


def test_a_model_is_measured_and_written(tmp_path, capsys):
    target = tmp_path / "run.json"
    before, threads = config.get_precision(), torch.get_num_threads()
    arguments = ["bench", *TINY, *BRIEF, "--against", "eager", "eager_cl", "--json", str(target)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for text in ("srvgg 16x24", "eager channels_last", "fastest float32 peer", "1 threads"):
        assert text in printed
    run = Run.read(target)
    (case,) = run.cases
    assert case.peers == ["eager", "eager_cl"]
    assert case.ratio("eager") is not None
    assert (run.settings["threads"], run.settings["precision"]) == (1, "high")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".json"] == ["run.json"]
    assert (config.get_precision(), torch.get_num_threads()) == (before, threads)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_precision_is_that_of_ours(precision, tmp_path):
    target = tmp_path / "run.json"
    chosen = ["--precision", precision, "--against", "eager", "--json", str(target)]
    assert main(["bench", *TINY, *BRIEF, *chosen]) == 0
    run = Run.read(target)
    assert run.settings["precision"] == precision
    assert run.cases[0].results[OURS].precision == ("bf16" if precision == "medium" else "fp32")


def test_memory_is_measured_by_default(tmp_path):
    target = tmp_path / "run.json"
    assert main(["bench", *TINY, *BRIEF[:-1], "--against", "eager", "--json", str(target)]) == 0
    assert all(entry.peak_mib is not None for entry in Run.read(target).cases[0].results.values())


def test_a_checkpoint_is_measured(tmp_path):
    network = sr_kernels.create("rrdbnet", scale=2, num_feat=8, num_block=1, num_grow_ch=4)
    path, target = tmp_path / "network.pth", tmp_path / "run.json"
    torch.save(network.state_dict(), path)
    chosen = ["bench", "--weights", str(path), *BRIEF, "--against", "eager", "--json", str(target)]
    assert main([*chosen, "--size", "12x8"]) == 0
    assert Run.read(target).cases[0].name == "network.pth 8x12"


def test_sizes_that_the_model_does_not_take_are_named(tmp_path, capsys):
    arguments = ["bench", "--model", "rrdbnet", "--scale", "2", "--set", "num_block=1", "--size", "13x8"]
    assert main([*arguments, *BRIEF]) == 1
    assert "size is 13x8; this model takes multiples of 2" in capsys.readouterr().err


def test_of_large_work_eager_is_checked_on_a_small_picture(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "_LARGE", 0.0)
    monkeypatch.setattr(bench, "_SMALL", 9)
    target = tmp_path / "run.json"
    assert main(["bench", *TINY, *BRIEF, "--against", "eager", "--json", str(target)]) == 0
    assert Run.read(target).cases[0].checked == (9, 9)


def test_what_is_not_installed_is_named_with_the_command(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "DEFAULT", ("eager", "onnxruntime"))
    assert main(["bench", *TINY, *BRIEF]) == 0
    assert "pip install onnxruntime" in capsys.readouterr().out
    assert main(["bench", *TINY, *BRIEF, "--against", "ncnn"]) == 1
    error = capsys.readouterr().err
    assert "--against ncnn" in error
    assert "pip install ncnn onnx" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "320"], "WIDTHxHEIGHT"),
        (["--size", "0x4"], "WIDTHxHEIGHT"),
        (["--against", "nobody"], "nobody"),
        (["--model", "srvgg", "--weights", "x.pth"], "not allowed"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "/nowhere.pth"], "/nowhere.pth: no such file"),
        (["--model", "nonsense"], "nonsense"),
        (["--scale", "3"], "compact_x3"),
        (["--model", "srvgg", "--set", "nonsense=1"], "nonsense"),
        (["--json", "/nowhere/run.json"], "/nowhere"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_measured(arguments, message, capsys):
    assert main(["bench", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_wrong_result_of_ours_fails(monkeypatch, capsys):
    def wrong(network):
        other = copy.deepcopy(network)
        next(iter(other.parameters())).add_(0.01)
        return other

    monkeypatch.setattr(peers, "optimize", wrong)
    assert main(["bench", *TINY, *BRIEF, "--against", "eager"]) == 1
    printed = capsys.readouterr().out
    assert "WRONG" in printed
    assert "x as fast" not in printed


def test_every_peer_has_a_name_here():
    known = {"compile" if name == "compiled" else name for name in (*peers.FP32, *peers.BF16)}
    assert set(bench.AGAINST) == known
    assert set(bench.DEFAULT) <= known


def test_the_json_has_what_a_reader_needs(tmp_path):
    target = tmp_path / "run.json"
    assert main(["bench", *TINY, *BRIEF, "--against", "eager", "--json", str(target)]) == 0
    document = json.loads(target.read_text())
    assert {"processor", "torch", "kernel", "features"} <= set(document["environment"])
    assert document["cases"][0]["fastest_fp32"][0] == "eager"
