# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Ratios against a committed baseline: what counts as noise, as a regression, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import baseline
from benchmarks.cases import CASES
from sr_kernels.bench.results import CaseResult, Error, Result, Run, Timing

ROOT = Path(__file__).resolve().parents[2]
FINE = Error(1e-6, 1e-7)


def result(median: float, spread: float = 0.01, parity: bool = True) -> Result:
    return Result(Timing(median, median * (1 - spread), median * (1 + spread), 5, 1), FINE, parity)


def case(name: str, ours: Result, **peers: Result) -> CaseResult:
    return CaseResult(name, "layer", 1.0, FINE, {"ours": ours, **peers})


def run(*cases: CaseResult, processor: str = "P") -> Run:
    return Run({"processor": processor, "extension": "avx2"}, {"threads": 2}, list(cases))


@pytest.fixture
def path(tmp_path) -> Path:
    """A baseline in which ours is three times as fast as eager in case "a"."""
    found = tmp_path / "baseline.json"
    baseline.rebase(run(case("a", result(1.0), eager_cl=result(3.0))), found)
    return found


@pytest.mark.parametrize(
    ("eager", "verdict"),
    [(3.0, "same"), (2.75, "same"), (2.65, "regressed"), (3.25, "same"), (3.4, "faster")],
)
def test_a_tenth_is_noise(path, eager, verdict):
    (found,) = baseline.compare(run(case("a", result(1.0), eager_cl=result(eager))), path)
    assert found.verdict == verdict
    assert found.change == pytest.approx(eager / 3.0, rel=1e-3)


def test_ratios_are_compared_and_not_times(path):
    (found,) = baseline.compare(run(case("a", result(7.0), eager_cl=result(21.0))), path)
    assert found.verdict == "same"


def test_where_times_scatter_more_is_noise(path):
    (found,) = baseline.compare(run(case("a", result(1.0, 0.15), eager_cl=result(2.4, 0.1))), path)
    assert found.band == pytest.approx(0.02 + 0.25, abs=2e-3)
    assert found.verdict == "same"
    (found,) = baseline.compare(run(case("a", result(1.0, 0.15), eager_cl=result(2.1, 0.1))), path)
    assert found.verdict == "regressed"


def test_a_wrong_result_of_ours_is_a_regression(path):
    (found,) = baseline.compare(run(case("a", result(1.0, parity=False), eager_cl=result(3.0))), path)
    assert found.verdict == "regressed"


@pytest.mark.parametrize(
    ("peers", "note"),
    [
        ({}, "not asked for"),
        ({"eager_cl": Result(note="not installed")}, "not installed"),
        ({"eager_cl": result(3.0, parity=False)}, "its result is wrong"),
    ],
)
def test_a_peer_without_a_ratio_is_named(path, peers, note):
    (found,) = baseline.compare(run(case("a", result(1.0), **peers)), path)
    assert (found.verdict, found.note) == ("not measured", note)


def test_another_machine_or_case_has_no_baseline(path):
    with pytest.raises(ValueError, match=r"no baseline for 'Q, avx2, 2 threads' \(there is: P, avx2, 2 thr"):
        baseline.compare(run(case("a", result(1.0)), processor="Q"), path)
    with pytest.raises(ValueError, match="no baseline for b; --rebase"):
        baseline.compare(run(case("b", result(1.0))), path)
    with pytest.raises(ValueError, match="there is: none"):
        baseline.compare(run(case("a", result(1.0))), path.with_name("nothing.json"))


def test_suspects_are_measured_again_and_longer(path):
    asked = []

    def measure(cases, factor):
        asked.append(([c.label() for c in cases], factor))
        return run(case("a", result(1.0), eager_cl=result(times.pop(0))))

    class Named:
        def label(self):
            return "a"

    times = [2.0, 3.0]
    (found,) = baseline.check([Named()], measure, path)
    assert asked == [(["a"], 1.0), (["a"], 4.0)]
    assert found.verdict == "same"
    times = [2.0, 2.0]
    (found,) = baseline.check([Named()], measure, path)
    assert found.verdict == "regressed"
    times = [3.0]
    (found,) = baseline.check([Named()], measure, path)
    assert found.verdict == "same"


def test_rebasing_keeps_what_was_not_measured(path):
    label = CASES[0].label()
    baseline.rebase(run(case(label, result(1.0), eager_cl=result(2.0))), path)
    baseline.rebase(run(case("b", result(1.0), eager_cl=result(2.0)), processor="Q"), path)
    baseline.rebase(run(case("c", result(1.0), eager_cl=result(4.0))), path)
    machines = json.loads(path.read_text())["machines"]
    assert list(machines["P, avx2, 2 threads"]) == [label, "c"]  # "a" is no case any more
    assert list(machines["Q, avx2, 2 threads"]) == ["b"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_wrong_result_is_no_baseline(path):
    before = path.read_text()
    with pytest.raises(ValueError, match="ours is wrong in a"):
        baseline.rebase(run(case("a", result(1.0, parity=False), eager_cl=result(3.0))), path)
    assert path.read_text() == before


def test_the_committed_baseline_names_cases_and_peers_that_exist():
    labels = {case.label() for case in CASES}
    machines = json.loads(baseline.BASELINE.read_text())["machines"]
    assert machines
    for cases in machines.values():
        assert set(cases) <= labels
        for ratios in cases.values():
            assert set(ratios) <= set(baseline.PEERS)


def test_the_command_fails_where_a_ratio_regressed(monkeypatch, path, capsys):
    eager = 3.0
    monkeypatch.setattr(baseline, "BASELINE", path)
    monkeypatch.setattr(baseline.compare, "__defaults__", (path,))
    monkeypatch.setattr(baseline.check, "__defaults__", (path,))
    monkeypatch.setattr(
        command, "measure_all", lambda args, cases: run(case("a", result(1.0), eager_cl=result(eager)))
    )
    assert command.main(["--check"]) == 0
    assert "1 ratios, 0 regressed" in capsys.readouterr().out
    eager = 1.5
    assert command.main(["--check"]) == 1
    assert "regressed: a against eager_cl: 3.00x, now 1.50x" in capsys.readouterr().out


def test_a_run_that_is_there_can_be_the_baseline(monkeypatch, path, capsys):
    label = CASES[0].label()
    source = path.with_name("run.json")
    source.write_text(
        run(case(label, result(1.0), eager_cl=result(2.0)), case("gone", result(1.0))).to_json()
    )
    monkeypatch.setattr(baseline, "BASELINE", path)
    monkeypatch.setattr(baseline.rebase, "__defaults__", (path,))
    assert command.main(["--rebase", str(source)]) == 0
    assert list(json.loads(path.read_text())["machines"]["P, avx2, 2 threads"]) == [label]


@pytest.mark.slow
def test_the_layers_run_under_pytest_benchmark():
    chosen = [
        "benchmarks/bench_ops.py",
        "-k",
        "1x1 and 56",
        "--benchmark-min-rounds=1",
        "--benchmark-max-time=0.01",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *chosen], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert "eager_cl" in done.stdout
