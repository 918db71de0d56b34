# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks and python -m benchmarks.demo, and the figures that the documents show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sr_kernels
from benchmarks import __main__ as command
from benchmarks import demo, report
from benchmarks.panels import Panel, comparison
from sr_kernels.bench import tables
from sr_kernels.bench.results import Run
from sr_kernels.train.evaluate import evaluate, mean

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_demo_writes_pictures_and_prints_figures(tmp_path):
    for _ in range(2):  # again over its own output
        done = python("-m", "benchmarks.demo", "--out", str(tmp_path), "--seconds", "0.01")
        assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines() if line.startswith(str(tmp_path))]
    assert len(paths) == 8
    assert sorted(paths) == sorted(tmp_path.iterdir())
    sizes = {path.name: Image.open(path).size for path in paths}
    assert sizes["astronaut_x2_low.png"] == (256, 256)
    assert sizes["astronaut_x4_low.png"] == (128, 128)
    assert sizes["astronaut_x2_ours.png"] == sizes["astronaut_x4_ours.png"] == (512, 512)
    assert min(sizes["astronaut_x4_comparison.png"]) > 1000
    for text in ("Y-PSNR, ours", "SSIM, bicubic", "eager channels_last", "kernels", "largest difference"):
        assert text in done.stdout
    backend = "torch" if sr_kernels.available_backends()["cpu"] else "cpu"
    assert f"{backend}/" in done.stdout


def test_the_demo_works_without_the_extension(tmp_path):
    hide = "import sys; sys.modules['sr_kernels._C'] = None; from benchmarks import demo; "
    call = f"sys.exit(demo.main(['--out', {str(tmp_path)!r}, '--seconds', '0.01']))"
    done = python("-c", hide + call)
    assert done.returncode == 0, done.stderr
    assert "torch/conv2d" in done.stdout
    assert "The native kernels are not here" in done.stdout
    assert len(list(tmp_path.iterdir())) == 8


def test_the_demo_names_what_is_missing(monkeypatch, capsys, tmp_path):
    def missing() -> Path:
        raise FileNotFoundError("scikit-image is missing: pip install scikit-image")

    monkeypatch.setattr(demo, "skimage_folder", missing)
    assert demo.main(["--out", str(tmp_path)]) == 1
    assert "pip install scikit-image" in capsys.readouterr().err


def test_panels_lie_side_by_side_unchanged():
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(3)]
    sheet = np.array(comparison("t", "n", [Panel("a", p) for p in pixels], (10, 5, 30, 20)))
    found = [_find(sheet, p[25:]) for p in pixels]  # the part below the mark
    assert all(f is not None for f in found)
    assert found == sorted(found)
    zoomed = pixels[2][5:20, 10:30].repeat(3, 0).repeat(3, 1)
    assert _find(sheet, zoomed) is not None


def _find(sheet: np.ndarray, part: np.ndarray) -> int | None:
    """The column at which the part lies in the sheet."""
    h, w = part.shape[:2]
    starts = np.argwhere((sheet[: -h + 1, : -w + 1] == part[0, 0]).all(-1))
    return next((int(x) for y, x in starts if (sheet[y : y + h, x : x + w] == part).all()), None)


def test_a_quick_run_prints_tables_and_writes_where_asked(tmp_path, capsys):
    target = tmp_path / "results" / "run.json"
    arguments = ["--quick", "--cases", "pixel shuffle", "transposed", "--seconds", "0", "--json", str(target)]
    assert command.main([*arguments, "--threads", "1", "--give-pages-back"]) == 0
    run = Run.read(target)
    assert [case.name for case in run.cases] == ["transposed 9x9 s4 56->1 135x240", "pixel shuffle 2 180x320"]
    assert run.settings["threads"] == 1
    assert run.settings["pages_kept"] is False
    printed = capsys.readouterr().out
    assert "Layers" in printed
    assert "Memory-bound ops" in printed
    assert command.main(["--show", str(target)]) == 0
    assert "transposed" in capsys.readouterr().out


def test_partial_runs_write_nothing_by_themselves(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "RESULTS", tmp_path / "all.json")
    assert command.main(["--quick", "--cases", "pixel shuffle", "--threads", "1", "--give-pages-back"]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_everybody_is_limited_to_avx2(tmp_path):
    target = tmp_path / "run.json"
    chosen = ["--quick", "--seconds", "0", "--json", str(target), "--cases", "SRVGG 64f/16 x4 (AVX2)"]
    done = python("-m", "benchmarks", *chosen, "--threads", "1", "--peers", "eager")
    assert done.returncode == 0, done.stderr
    (case,) = Run.read(target).cases
    assert case.group == "avx2"
    assert case.ratio("eager") is not None
    if not sr_kernels.available_backends()["cpu"]:
        assert all(name.endswith(("/avx2", "/scalar")) for name in case.kernels)
    done = python("-m", "benchmarks", *chosen[:-1], "pixel shuffle", "--isa", "avx2")
    assert done.returncode == 0, done.stderr
    assert Run.read(target).environment["extension"] in ("avx2", "scalar") or case.kernels[0][:3] != "cpu"


def test_wrong_arguments_are_named(capsys):
    assert command.main(["--cases", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert command.main(["--cases", "transposed", "--peers", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err
    assert command.main(["--show", "/nowhere.json"]) == 2


def test_cases_are_listed(capsys):
    assert command.main(["--list", "--cases", "network"]) == 0
    assert "SRVGG 64f/16 x4 180x320" in capsys.readouterr().out


def test_the_times_in_the_documents_are_those_of_the_results():
    readme = report.filled(ROOT / "README.md", "bench")
    performance = report.filled(ROOT / "docs" / "performance.md", "bench")
    run = Run.read(command.RESULTS)
    assert not tables.wrong(run)
    assert readme == report.markdown(run, brief=True)
    assert performance == report.markdown(run)


@pytest.mark.parametrize("scale", [2, 4])
def test_the_gains_in_the_readme_are_those_of_the_shipped_weights(scale):
    rows = report.filled(ROOT / "README.md", "quality").splitlines()
    row = next(row for row in rows if row.startswith(f"| x{scale} |"))
    figures = [float(x) for x in re.findall(r"[-+]?\d+\.\d+", row)]
    bicubic, ours, plain_ssim, ssim = astuple(mean(evaluate(sr_kernels.models.embedded(scale), scale)))[1:]
    expected = [bicubic, plain_ssim, ours, ssim, ours - bicubic]
    # rounded to print, and another instruction set may round an 8-bit pixel here and there the other way
    assert figures[::2] == pytest.approx(expected[::2], abs=0.005 + 0.001)
    assert figures[1::2] == pytest.approx(expected[1::2], abs=0.00005 + 0.00001)
