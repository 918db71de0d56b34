# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What the README shows works as it is written there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sr_kernels
from sr_kernels.cli import build_parser
from tests.closeness import assert_as_close

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def run(snippet: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    return names


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The files that the first snippet opens; the checkpoint is a small one of the same layout."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save("photo.png")
    network = sr_kernels.create("rrdbnet", scale=4, num_feat=8, num_block=1, num_grow_ch=4)
    torch.save({"params_ema": network.state_dict()}, "RealESRGAN_x4plus.pth")
    return tmp_path


def test_the_ten_lines_of_use(folder):
    names = run(SNIPPETS[0])
    assert Image.open(folder / "photo_x2.png").size == (32, 24)
    assert names["y"].shape == (1, 3, 256, 256)
    assert names["z"].shape == (1, 64, 180, 320)


def test_any_network_in_one_line(capsys):
    names = run(SNIPPETS[1])
    assert "Sequential: " in capsys.readouterr().out
    x = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        ours, eager = names["fast"](x), names["network"](x)
        assert_as_close(ours, eager, names["network"].double()(x.double()))


def test_the_equivalence():
    names = run(SNIPPETS[2])
    assert names["fused"].shape == names["plain"].shape == (1, 16, 180, 320)
    assert (names["fused"] - names["plain"]).abs().max() <= 1e-5 * names["plain"].abs().max()


def test_the_choice_of_backends(capsys):
    names = run(SNIPPETS[3])
    assert len(names["names"]) == 1
    assert "torch" in capsys.readouterr().out


def test_every_snippet_is_run():
    assert len(SNIPPETS) == 4


def test_the_commands_exist():
    commands = re.findall(r"^    sr-kernels (.*?)(?:\s+#.*)?$", README, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        assert callable(build_parser().parse_args(command.split()).run)


def test_the_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?\bmake ([a-z]+)\b", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_layers_and_models_are_all_of_them():
    named = set(re.findall(r"`(\w+)`", README.split("## Layers")[1].split("## Models")[0]))
    layers = set(sr_kernels.nn.__all__) - {"FusedSequential"}
    assert layers <= named
    models = README.split("## Models")[1].split("## Which")[0]
    assert all(f"`{name}`" in models for name in sr_kernels.models.list_models())


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "docs" / "performance.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
