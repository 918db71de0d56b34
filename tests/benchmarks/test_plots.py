# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The plots: right figures from made-up results, the same bytes twice, the documents' ones up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import __main__ as command
from benchmarks import plots, report, roofline, sweep
from sr_kernels.bench.results import CaseResult, Error, Result, Run, Timing
from tests.benchmarks import test_roofline, test_sweep

ROOT = Path(__file__).resolve().parents[2]


def made_up(folder: Path, kind: str) -> Path:
    """A file of results of one kind."""
    path = folder / f"{kind}.json"
    if kind == "networks":
        error = Error(1e-6, 1e-7)
        times = {"ours": 10.5, "eager": 52.5, "onnxruntime": 31.5}
        results = {name: Result(Timing(ms, ms, ms, 3, 1), error, True) for name, ms in times.items()}
        results["openvino_bf16"] = Result(Timing(21.5, 21.5, 21.5, 3, 1), error, True, precision="bf16")
        results["ncnn"] = Result(Timing(1.5, 1.5, 1.5, 3, 1), error, False)
        results["compiled"] = Result(note="no compiler")
        cases = [CaseResult(f"net {i}", "network", 1.0, error, results) for i in range(3)]
        path.write_text(Run({}, {}, cases).to_json())
    elif kind == "sweep":
        path.write_text(test_sweep.synthetic(*[100.0] * 8).to_json())
    else:
        path.write_text(test_roofline.synthetic().to_json())
    return path


def words(svg: Path) -> list[str]:
    """The texts of a plot."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg.read_text())


@pytest.fixture
def _matplotlib():
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra 'bench', is not installed")


@pytest.mark.usefixtures("_matplotlib")
@pytest.mark.parametrize("kind", plots.KINDS)
def test_the_same_results_give_the_same_bytes(tmp_path, kind):
    results = made_up(tmp_path, kind)
    once, again = (plots.write(kind, results, tmp_path / str(i)) for i in range(2))
    assert [path.suffix for path in once] == [".svg", ".png"]
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
    assert plots.carried(once[0]) == plots.digest(results)
    assert not re.search(
        r"<dc:date>|matplotlib\.org", once[0].read_text().split("<defs>")[0].split("<!DOCTYPE")[0]
    )
    with Image.open(once[1]) as picture:
        assert 600 < picture.width < 1200


@pytest.mark.usefixtures("_matplotlib")
def test_bars_are_of_right_results_alone(tmp_path):
    svg, _ = plots.write("networks", made_up(tmp_path, "networks"), tmp_path)
    found = words(svg)
    for text in ("10.5", "52.5", "31.5", "21.5", "net 0", "net 2", "ours"):
        assert text in found, text
    assert "1.50" not in found
    assert any("hatched" in text for text in found)
    assert found.index("52.5") < found.index("10.5")  # the fastest is the last, on top


@pytest.mark.usefixtures("_matplotlib")
def test_lines_and_points_are_named(tmp_path):
    svg, _ = plots.write("sweep", made_up(tmp_path, "sweep"), tmp_path)
    assert {"net, 1 thread", "0.05", "8"} <= set(words(svg))
    svg, _ = plots.write("roofline", made_up(tmp_path, "roofline"), tmp_path)
    assert {"net", "peak 300 GFLOP/s"} <= set(words(svg))


def test_a_plot_of_nothing_carries_nothing(tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>")
    assert plots.carried(tmp_path / "a.svg") == ""


def test_the_documents_show_the_results_that_are_there():
    page = ROOT / "docs" / "performance.md"
    kinds = dict(command.plotted())
    assert set(kinds) == set(plots.KINDS)
    for kind, results in kinds.items():
        svg = plots.FOLDER / f"cpu-{kind}.svg"
        assert plots.carried(svg) == plots.digest(results), (
            f"{svg.name} is old: python -m benchmarks --readme"
        )
        assert svg.with_suffix(".png").exists()
        assert f"img/{svg.name}" in page.read_text()
    found = sweep.Sweep.read(kinds["sweep"])
    assert report.filled(page, "sweep") == sweep.markdown(found)
    layers = roofline.Roofline.read(kinds["roofline"])
    assert report.filled(page, "roofline") == roofline.markdown(layers)
    assert "docs/img/cpu-networks.svg" in (ROOT / "README.md").read_text()
