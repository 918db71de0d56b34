# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Which configuration a layer gets: the user's, the shipped one, the rule's."""

from __future__ import annotations

import json

import pytest
import torch

from sr_kernels.backends.triton import configs, plan, tune
from sr_kernels.backends.triton.configs import Config, Layer

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


def test_tf32_needs_both_permissions(monkeypatch):
    from sr_kernels.config import set_precision

    assert plan.precision_of(torch.float32) == "ieee"
    with set_precision("medium"):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        assert plan.precision_of(torch.float32) == "tf32"
        assert plan.precision_of(torch.float16) == "ieee"
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        assert plan.precision_of(torch.float32) == "ieee"
