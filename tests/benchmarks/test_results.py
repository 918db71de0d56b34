# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Statistics, the parity gate, ratios, and the JSON document."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import pytest
from rich.console import Console

from benchmarks import report
from sr_kernels.bench import tables
from sr_kernels.bench.problem import Target
from sr_kernels.bench.results import CaseResult, Error, Result, Run, Timing, has_parity

TARGETS = (Target(1.5, ("eager", "eager_cl")),)
FINE, BAD = Error(1e-6, 1e-7), Error(1.0, 1.0)


def result(
    median: float, error: Error = FINE, *, spread: float = 0.1, parity: bool = True, precision: str = "fp32"
) -> Result:
    timing = Timing(median, median - spread, median + spread, 5, 3)
    return Result(timing, error, parity, 0.5, 0.25, precision=precision)


def case(**results: Result) -> CaseResult:
    results["ours"] = dataclasses.replace(results["ours"], kernels=("cpu/a", "cpu/a", "cpu/b"))
    return CaseResult("conv 8x8", "layer", 2.0, FINE, results, TARGETS)


def run(*cases: CaseResult) -> Run:
    environment = {"processor": "P", "extension": "avx2", "torch": "2.0"}
    return Run(environment, {"threads": 2, "pages_kept": True}, list(cases))


def test_median_and_quartiles():
    timing = Timing.of([0.005, 0.001, 0.003, 0.002, 0.004], calls=7)
    assert (timing.q1, timing.median, timing.q3) == pytest.approx((2.0, 3.0, 4.0))
    assert (timing.rounds, timing.calls) == (5, 7)


def test_one_sample_is_its_own_quartiles():
    timing = Timing.of([0.002], calls=1)
    assert timing.q1 == timing.median == timing.q3 == pytest.approx(2.0)


def test_no_samples_have_no_median():
    with pytest.raises(ValueError, match="no samples"):
        Timing.of([], calls=1)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (Error(4e-6, 4e-7), True),
        (Error(5e-6, 1e-7), False),  # too large once
        (Error(1e-6, 5.5e-7), False),  # too large throughout
        (Error(math.nan, math.nan), False),
        (Error(math.inf, math.inf), False),
    ],
)
def test_parity_is_four_times_the_error_of_eager(error: Error, passes: bool):
    assert has_parity(error, Error(1e-6, 1e-7), peak=1.0, factor=4.0) is passes


def test_parity_with_an_exact_eager_allows_one_rounding():
    exact = Error(0.0, 0.0)
    assert has_parity(Error(8 * 2.0**-24, 2.0**-25), exact, peak=8.0, factor=4.0)
    assert not has_parity(Error(17 * 2.0**-24, 2.0**-25), exact, peak=8.0, factor=4.0)


def test_the_ratio_is_how_many_times_as_fast_ours_is():
    assert case(ours=result(2.0), eager=result(5.0)).ratio("eager") == pytest.approx(2.5)


@pytest.mark.parametrize("wrong", ["ours", "eager"])
def test_a_wrong_result_has_a_time_but_no_ratio(wrong: str):
    results = {"ours": result(2.0), "eager": result(5.0)}
    results[wrong] = result(results[wrong].timing.median, BAD, parity=False)
    found = case(**results)
    assert found.time(wrong) is not None
    assert found.ratio("eager") is None
    assert found.fastest(["eager"]) is None
    assert "x)" not in tables.against(found, "eager")
    document = json.loads(run(found).to_json())
    assert document["cases"][0]["ratios"] == {"eager": None}
    shown = report.markdown(run(found))
    assert "WRONG" in shown
    assert "2.5" not in shown
    assert "slower" not in "".join(tables.slower(run(found))).replace("no case is slower", "")


def test_the_fastest_peer_decides():
    found = case(ours=result(2.0), eager=result(5.0), eager_cl=result(3.0))
    assert found.fastest(["eager", "eager_cl"]) == ("eager_cl", 1.5)


def test_a_target_is_met_missed_or_open():
    met = case(ours=result(2.0), eager=result(5.0), eager_cl=result(3.0))
    missed = case(ours=result(2.0), eager=result(5.0), eager_cl=result(2.9))
    unknown = case(ours=result(2.0))
    words = [line.split(":")[0] for line in tables.targets(run(met, missed, unknown))]
    assert words == ["target met", "target MISSED", "target open"]


@pytest.mark.parametrize(
    ("milliseconds", "word"), [(9.0, "met, aim met"), (6.0, "met, aim missed"), (3.0, "MISSED")]
)
def test_an_aim_lies_above_the_floor(milliseconds: float, word: str):
    targets = (Target(1.5, ("a",), 3.0),)
    found = dataclasses.replace(case(ours=result(3.0), a=result(milliseconds)), targets=targets)
    (line,) = tables.targets(run(found))
    assert line.startswith(f"target {word}:")
    assert "at least 1.5x asked, 3.0x aimed at" in line


def test_the_precisions_are_compared_apart():
    found = case(ours=result(2.0), eager=result(5.0), half=result(1.0, precision="bf16"))
    assert (found.of("fp32"), found.of("bf16")) == (["eager"], ["half"])
    assert found.fastest(found.of("fp32")) == ("eager", 2.5)
    assert found.fastest(found.of("bf16")) == ("half", 0.5)
    assert tables.slower(run(found)) == ["no case is slower than any peer"]
    entry = json.loads(run(found).to_json())["cases"][0]
    assert (entry["fastest_fp32"], entry["fastest_bf16"]) == (["eager", 2.5], ["half", 0.5])


def test_tables_for_the_terminal():
    slow = dataclasses.replace(result(3.0), peak_mib=41.0)
    found = run(dataclasses.replace(case(ours=result(2.0), eager=slow), group="network"))
    to = Console(width=180, record=True, file=io.StringIO())
    tables.show(found, to)
    to.print(tables.contenders(found.cases[0]))
    printed = to.export_text()
    assert printed.count("milliseconds, medians") == 1
    assert "0.5 + 0.2; 41" in printed  # seconds to build, of the first call; MiB
    assert "1.50x as fast" in printed


def test_slower_cases_are_listed_and_noise_is_named():
    clear = case(ours=result(5.0), eager=result(4.0))
    noisy = case(ours=result(5.0, spread=2.0), eager=result(4.9))
    lines = tables.slower(run(clear, noisy))
    assert len(lines) == 2
    assert "overlap" not in lines[0]
    assert "overlap" in lines[1]
    assert "2 cpu/a, cpu/b" in lines[0]
    assert tables.slower(run(case(ours=result(1.0), eager=result(4.0)))) == [
        "no case is slower than any peer"
    ]


def test_a_missing_peer_is_noted_once():
    found = case(ours=result(1.0), compiled=Result(note="needs a compiler"))
    assert tables.against(found, "compiled") == "-"
    assert tables.notes(run(found, found)) == ["torch.compile, frozen: needs a compiler (conv 8x8, conv 8x8)"]


def test_json_holds_everything():
    before = run(case(ours=result(2.0), eager=result(5.0), compiled=Result(note="none")))
    assert Run.from_json(before.to_json()) == before


def test_json_schema():
    document = json.loads(run(case(ours=result(2.0), compiled=Result(note="none"))).to_json())
    assert set(document) == {"schema", "environment", "settings", "cases"}
    entry = document["cases"][0]
    assert set(entry) == {
        "name", "group", "gflop", "eager_error", "results", "targets", "bf16_error", "checked", "ratios",
        "fastest_fp32", "fastest_bf16",
    }  # fmt: skip
    assert set(entry["results"]["ours"]) == {
        "timing", "error", "parity", "build_seconds", "first_seconds", "note", "precision", "peak_mib",
        "kernels",
    }  # fmt: skip
    assert set(entry["results"]["ours"]["timing"]) == {"median", "q1", "q3", "rounds", "calls"}
    assert entry["results"]["compiled"]["timing"] is None


def test_another_schema_is_refused():
    with pytest.raises(ValueError, match="measure again"):
        Run.from_json('{"schema": 0}')


def test_blocks_are_filled_between_their_marks(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- bench:start -->\nold\n<!-- bench:end -->\nb\n")
    assert report.fill(path, "bench", "| x |\n| y |")
    assert path.read_text() == "a\n<!-- bench:start -->\n| x |\n| y |\n<!-- bench:end -->\nb\n"
    assert report.filled(path, "bench") == "| x |\n| y |"
    assert not report.fill(path, "bench", "| x |\n| y |")
    with pytest.raises(ValueError, match="quality:start"):
        report.fill(path, "quality", "")


def test_ours_under_medium_is_compared_with_bf16_peers_alone():
    medium = result(2.0, Error(1e-2, 1e-3), precision="medium")
    half = result(3.0, Error(2e-2, 2e-3), precision="bf16")
    found = case(ours=result(4.0), eager=result(8.0), ours_medium=medium, eager_bf16=half)
    found = dataclasses.replace(found, bf16_error=Error(2e-2, 2e-3))
    assert found.of("bf16") == ["eager_bf16"]
    assert found.fastest(found.of("bf16")) == ("eager_bf16", 0.75)
    (line,) = tables.mediums(run(found))
    assert "2.00 ms, 1.50x the fastest bf16 peer (eager bf16)" in line
    assert "RMS error 1.0e-03, eager bf16's 2.0e-03" in line
    assert tables.mediums(run(case(ours=result(4.0), eager=result(8.0)))) == []
