# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Which configuration a layer gets: the user's, the shipped one, the rule's."""

from __future__ import annotations

import json

import pytest
import torch

from sr_kernels.backends.base import ConvArgs, DenseBlockArgs
from sr_kernels.backends.triton import backend, configs, plan, tune
from sr_kernels.backends.triton.configs import Config, Layer
from sr_kernels.config import set_precision

LAYER = Layer("boxes", 64, 64, 3, 3, 1, 2)
OTHER = Config(4, 32, 32, 16, 2, 5, True)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SR_KERNELS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(configs, "_tuned", {})
    return tmp_path


def test_the_users_table_comes_first(monkeypatch):
    rule = configs.default(LAYER)
    assert configs.choose(LAYER, "no such chip", "device") == rule
    monkeypatch.setattr(configs, "shipped", lambda chip: {LAYER.key(): Config(2, 8, 16, 16)})
    assert configs.choose(LAYER, "chip", "device") == Config(2, 8, 16, 16)
    configs.keep("device", {LAYER.key(): OTHER})
    assert configs.choose(LAYER, "chip", "device") == OTHER
    assert configs.choose(LAYER, "chip", "another") == Config(2, 8, 16, 16)


def test_what_is_kept_is_read_again(folder, monkeypatch):
    configs.keep("a", {"x": OTHER})
    configs.keep("b", {"y": OTHER})
    configs.keep("a", {"z": Config(4, 4, 16, 16)})
    monkeypatch.setattr(configs, "_tuned", {})
    assert configs.tuned("a") == {"x": OTHER, "z": Config(4, 4, 16, 16)}
    assert configs.tuned("b") == {"y": OTHER}
    assert [path.name for path in folder.iterdir()] == ["triton.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"d": 3}', '{"d": {"k": {"th": 3}}}', '{"d": {"k": {"unknown": 1}}}']
)
def test_a_spoilt_file_is_no_table(folder, text):
    (folder / "triton.json").write_text(text)
    assert configs.tuned("d") == {}
    configs.keep("d", {"x": OTHER})
    assert json.loads((folder / "triton.json").read_text())["d"].keys() == {"x"}


@pytest.mark.parametrize(
    "values", [{"th": 3}, {"bn": 8}, {"warps": 0}, {"stages": 9}, {"bk": 8}, {"th": 1, "tw": 8}]
)
def test_impossible_configurations_are_refused(values):
    with pytest.raises(ValueError):
        Config(**{"th": 8, "tw": 16, "bn": 64, "bk": 64, **values})


def test_shipped_tables_are_read():
    assert "sm_90" in configs.chips()
    for chip in configs.chips():
        table = configs.shipped(chip)
        assert table
        for key in table:
            assert key.split()[0] in configs.LOADS


@pytest.mark.parametrize("task", tune.USUAL, ids=str)
def test_candidates_of_the_usual_layers(task):
    a = task.arguments("cpu", 8, 8)
    load = plan.load_of(a)
    found = tune.candidates(plan.layer_of(a, load))
    assert len(found) == len(set(found)) > 3


def test_keys_of_the_usual_layers_differ():
    layers = [(task.arguments("cpu", 8, 8), task) for task in tune.USUAL]
    keys = [plan.layer_of(a, plan.load_of(a)).key() for a, _ in layers]
    assert len(set(keys)) == len(keys)


@pytest.fixture
def permissions():
    """torch's settings of TF32 as they were, each of its own."""
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this PyTorch has one setting for all ops")
    parts = [torch.backends.cudnn.conv, torch.backends.cudnn.rnn]
    before = [part.fp32_precision for part in parts]
    yield
    for part, value in zip(parts, before, strict=True):
        part.fp32_precision = value


def test_tf32_needs_both_permissions(permissions):
    assert plan.precision_of(torch.float32) == "ieee"
    with set_precision("medium"):
        torch.backends.cudnn.allow_tf32 = True
        assert plan.precision_of(torch.float32) == "tf32"
        assert plan.precision_of(torch.float16) == "ieee"
        torch.backends.cudnn.allow_tf32 = False
        assert plan.precision_of(torch.float32) == "ieee"


def test_torchs_setting_of_convolutions_is_read(permissions):
    """Where it differs from that of recurrent networks, the older setting cannot be read at all."""
    with set_precision("medium"):
        for conv, rnn in (("tf32", "ieee"), ("ieee", "tf32")):
            torch.backends.cudnn.conv.fp32_precision = conv
            torch.backends.cudnn.rnn.fp32_precision = rnn
            assert plan.precision_of(torch.float32) == conv


def test_the_permission_is_asked_at_every_call(permissions, monkeypatch):
    """What was prepared while torch allowed TF32 is not run once it does not."""
    x, weight = torch.randn(1, 16, 5, 5), torch.randn(16, 16, 3, 3)
    grown = torch.randn(16, 32, 3, 3)
    a = ConvArgs(x, weight, padding=(1, 1, 1, 1))
    block = DenseBlockArgs(x, [weight, grown], [None, None])
    ran: list[str] = []
    monkeypatch.setattr(plan.ConvPlan, "launch", lambda self, *args: ran.append(self.precision))
    with set_precision("medium"):
        convolution, dense = backend._Conv2d(a), backend._DenseBlock(block)
        for allowed in (True, False, True):
            torch.backends.cudnn.allow_tf32 = allowed
            convolution(a)
            dense(block)
    assert ran == [expected for expected in ("tf32", "ieee", "tf32") for _ in range(3)]
