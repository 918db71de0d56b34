# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""sr-kernels optimize: the report of a checkpoint, and its network as ONNX."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import sr_kernels
from sr_kernels import config
from sr_kernels.cli import main


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "small.pth"
    torch.save(
        sr_kernels.create("rrdbnet", scale=4, num_feat=8, num_block=1, num_grow_ch=4).state_dict(), path
    )
    return path


def test_the_report_is_printed(weights, capsys):
    before, threads = config.get_precision(), torch.get_num_threads()
    assert main(["optimize", str(weights), "--report", "--size", "24x16", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("RRDBNet: ")
    assert "parity: largest error" in printed or "nothing was optimised" in printed
    assert (config.get_precision(), torch.get_num_threads()) == (before, threads)


def test_a_shipped_model_has_a_report_too(capsys):
    assert main(["optimize", "compact_x2", "--size", "16x16"]) == 0
    assert capsys.readouterr().out.startswith("SRVGG: ")


@pytest.mark.parametrize(
    "options", [["--dtype", "bfloat16"], ["--precision", "highest"], ["--backend", "torch"]]
)
def test_options_reach_optimize(weights, capsys, monkeypatch, options):
    from sr_kernels import optimizer

    given = {}

    def spy(model, example, **settings):
        given.update(settings, shape=tuple(example.shape))
        return optimize(model, example, **settings)

    optimize = optimizer.optimize
    monkeypatch.setattr(optimizer, "optimize", spy)
    assert main(["optimize", str(weights), "--size", "20x12", *options]) == 0
    expected = {"dtype": None, "precision": None, "backend": None, "shape": (1, 3, 12, 20)}
    value = {"bfloat16": torch.bfloat16}.get(options[1], options[1])
    assert given == {**expected, options[0].lstrip("-"): value}


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the packages onnx, onnxscript and onnxruntime are not all installed",
)
def test_onnx_is_written_and_checked(weights, tmp_path, capsys):
    target = tmp_path / "out" / "small.onnx"
    target.parent.mkdir()
    assert main(["optimize", str(weights), "--onnx", str(target)]) == 0
    printed = capsys.readouterr().out
    assert f"{target}: {target.stat().st_size:,} bytes; checked with ONNX Runtime" in printed
    assert "RRDBNet" not in printed
    assert [path.name for path in target.parent.iterdir()] == ["small.onnx"]


def test_without_onnx_the_cure_is_told(weights, tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else find(name, *a)
    )
    assert main(["optimize", str(weights), "--onnx", str(tmp_path / "x.onnx")]) == 1
    assert "pip install" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere.pth"], "there is no checkpoint at /nowhere.pth"),
        (["nonsense"], "nonsense"),
        (["compact_x2", "--onnx", "/nowhere/x.onnx"], "there is no folder /nowhere"),
        (["compact_x2", "--onnx", "x.onnx", "--dtype", "float16"], "leave --dtype out"),
        (["compact_x2", "--set", "a=1"], "made already"),
    ],
)
def test_what_cannot_be_done_is_told(arguments, message, capsys):
    assert main(["optimize", *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["x.pth", "--size", "3"], ["x.pth", "--dtype", "int8"]])
def test_wrong_usage(arguments):
    assert main(["optimize", *arguments]) == 2
