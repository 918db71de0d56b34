# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks.sweep: its sizes, its statements, and a tiny run."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import sweep
from benchmarks.sweep import Point, Sweep


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def synthetic(*ours: float, left_out: tuple[str, ...] = ()) -> Sweep:
    points = [
        Point("net", 1, megapixels, *sweep.size(megapixels), 3, time, 2 * time if megapixels <= 1 else None)
        for megapixels, time in zip(sweep.MEGAPIXELS, ours, strict=False)
    ]
    environment = {"processor": "P", "extension": "x", "torch": "2.0", "load": "0.10"}
    return Sweep(environment, {"seconds": 1.0}, points, list(left_out))


@pytest.mark.parametrize("megapixels", sweep.MEGAPIXELS)
def test_sizes(megapixels):
    height, width = sweep.size(megapixels)
    assert height * width == pytest.approx(megapixels * 1e6, rel=0.02)
    assert width / height == pytest.approx(16 / 9, rel=0.03)


@pytest.mark.parametrize(
    ("last", "word"), [(115.0, "constant within 15%"), (116.0, "constant NOT within 15%")]
)
def test_the_statement_goes_by_the_farthest_from_the_median(last: float, word: str):
    found = synthetic(200.0, *[100.0] * 6, last)  # the smallest size does not count
    (line,) = sweep.statements(found)
    assert word in line
    assert "100 ns a pixel from 0.1 to 8 megapixels" in line


def test_what_does_not_fit_is_said_and_not_measured(monkeypatch):
    monkeypatch.setattr(sweep, "free_memory", lambda: 0)
    found = sweep.measure([0.05], [1], sweep.Settings(0.0))
    assert not found.points
    assert len(found.left_out) == len(sweep.NETWORKS)
    assert all("GiB needed" in line for line in found.left_out)
    assert [line for line in sweep.statements(found) if line.startswith("left out")]


def test_json_holds_everything(tmp_path):
    found = synthetic(*[100.0] * 8, left_out=("too large",))
    path = tmp_path / "sweep.json"
    path.write_text(found.to_json())
    assert Sweep.read(path) == found
    assert json.loads(path.read_text())["statements"] == sweep.statements(found)
    path.write_text('{"schema": 0}')
    with pytest.raises(ValueError, match="measure again"):
        Sweep.read(path)


def test_the_table_has_a_row_for_each_size():
    rows = sweep.markdown(synthetic(*[100.0] * 8)).splitlines()
    assert "| 0.05 | 100 (200) |" in rows
    assert "| 8 | 100 |" in rows
    assert rows[0] == "P, x kernels, PyTorch 2.0; load average 0.10."


def test_a_tiny_run(tmp_path, capsys):
    target = tmp_path / "results" / "sweep.json"
    arguments = ["--megapixels", "0.01", "--threads", "1", "--seconds", "0", "--json", str(target)]
    assert sweep.main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(target)
    points = Sweep.read(target).points
    assert [p.network for p in points] == [n.name for n in sweep.NETWORKS]
    assert all(p.ours > 0 and p.eager_cl is not None and p.eager_cl > 0 for p in points)


def test_a_wrong_result_is_an_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sweep.peers, "ours", lambda problem: lambda: 2 * problem.ours(*problem.inputs))
    arguments = ["--megapixels", "0.01", "--threads", "1", "--seconds", "0", "--json", str(tmp_path / "a")]
    assert sweep.main(arguments) == 2
    assert "differ" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
