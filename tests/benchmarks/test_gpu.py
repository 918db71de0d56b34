# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of GPUs, tried on the CPU: every case, its work, the file, the tables, the plots."""

from __future__ import annotations

import contextlib
import inspect
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import plots, report
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import cases, contenders, measure
from benchmarks.gpu import report as gpu_report
from benchmarks.gpu.device import Cuda, Dry, open_device, slug
from benchmarks.gpu.work import Ceilings, Step, Work, ceilings, work
from benchmarks.problems import ConvCase
from sr_kernels.bench.contender import Call, Contender
from sr_kernels.bench.results import OURS, CaseResult, Error, Result, Timing
from sr_kernels.bench.runner import Settings

HALF = torch.float16
BRIEF = Settings(seconds=0.0, fewest=2, most=2, sample=0.0)
LAYER = ConvCase("3x3 8->12 relu", 6, 10, ci=8, co=12, activation="relu")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_names_are_unique_and_networks_come_in_two_sizes():
    labels = [case.label() for case in cases.CASES]
    assert len(set(labels)) == len(labels)
    sizes = {(case.height, case.width) for case in cases.CASES if case.whole}
    assert sizes == {cases.SIZE, cases.SMALL}
    assert {case.group for case in cases.CASES} <= set(gpu_report.GROUPS)


def test_cases_are_selected():
    assert [case.name for case in cases.select(["dense"])] == ["dense block 64/32"]
    assert cases.select() == list(cases.CASES)
    with pytest.raises(ValueError, match="'nonsense'"):
        cases.select(["nonsense"])


@pytest.mark.parametrize(
    "case", [case for case in cases.CASES if case.height != cases.SMALL[0]], ids=lambda case: case.name
)
def test_every_case_has_parity_in_half_precision(case):
    """Also of the replayed calls; networks are timed twice."""
    device = Dry()
    everybody = contenders.contenders(device, contenders.EAGER, [])
    found, done = measure.measure(cases.shrunk(case), everybody, device, BRIEF, HALF)
    assert [result.group for result in found] == [case.group, "called"][: 1 + case.whole]
    for result in found:
        assert all(r.parity and r.timing and not r.note for r in result.results.values()), result
        assert result.results[OURS].kernels
    assert done.gigabytes > 0
    assert (sum(step.gflop for step in done.steps) > 0) == (case.group != "memory")


def test_work_counts_operations_and_bytes():
    problem = cases.build(LAYER, "cpu", HALF)
    found = work(problem, problem.plain(*problem.inputs))
    parameters = 8 * 12 * 9 + 12
    moved = 2 * (60 * (8 + 12) + parameters)
    (step,) = found.steps
    assert (step.count, step.gflop) == (1, pytest.approx(2e-9 * 60 * 8 * 12 * 9))
    assert step.gigabytes == pytest.approx(moved / 1e9)


def test_an_enlarged_input_counts_as_it_is_read():
    case = ConvCase("up", 6, 10, ci=8, co=12, upsample=2)
    problem = cases.build(case, "cpu", HALF)
    (step,) = work(problem, problem.plain(*problem.inputs)).steps
    assert step.gflop == pytest.approx(2e-9 * 4 * 60 * 8 * 12 * 4)  # 2x2 taps a phase, not 3x3
    assert step.gigabytes == pytest.approx(2e-9 * (60 * 8 + 240 * 12 + 8 * 12 * 9 + 12))


def test_a_dense_block_counts_its_convolutions():
    problem = cases.build(cases.shrunk(cases.select(["dense"])[0]), "cpu", HALF)
    steps = work(problem, problem.plain(*problem.inputs)).steps
    pixels = 16 * 24
    assert sorted(step.gflop for step in steps) == pytest.approx(
        sorted(
            2e-9 * pixels * 9 * ci * co for ci, co in ((64, 32), (96, 32), (128, 32), (160, 32), (192, 64))
        )
    )


def test_the_floor_is_the_larger_bound_of_each_step():
    found = Work((Step(2, 100.0, 0.001), Step(1, 0.0, 4.0)))
    assert found.floor(Ceilings(copy=4000.0, matmul=500.0)) == pytest.approx(2 * 0.2 + 1.0)
    assert found.gigabytes == pytest.approx(4.002)


def test_ceilings_are_positive():
    found = ceilings(Dry(), torch.float32)
    assert found.copy > 0
    assert found.matmul > 0


def test_inputs_rotate_and_pass_the_cache():
    problem = cases.build(LAYER, "cpu", HALF)
    assert contenders.sets(problem, cache=0) == 1
    assert contenders.sets(problem, cache=6 * 10 * 8) == 2
    assert contenders.sets(problem, cache=1 << 30) == 8
    seen = []
    call = contenders.rotating(
        problem, 6 * 10 * 8, lambda x: seen.append(x.data_ptr()) or x, contenders.contiguous
    )
    for _ in range(4):
        call()
    assert seen[0] == seen[2] != seen[1] == seen[3]


def broken(name, run):
    return Contender(name, name, lambda problem: Call(lambda: run(problem)))


def test_wrong_and_failing_contenders_are_noted_and_get_no_ratio():
    def fails(problem):
        raise RuntimeError("no such kernel")

    device = Dry()
    everybody = [
        *contenders.contenders(device, ["eager"], []),
        broken("cuda", lambda problem: problem.plain(*problem.inputs) + 0.1),
        broken("triton", fails),
    ]
    (found,), done = measure.measure(LAYER, everybody, device, BRIEF, HALF)
    assert found.results[OURS].parity
    assert not found.results["cuda"].parity
    assert found.results["triton"].note == "RuntimeError: no such kernel"
    run = gpu_run()
    run.put([found], done)
    assert gpu_report.wrong(run) == [f"{found.name}: cuda"]
    assert "WRONG" in gpu_report.text(run)
    assert any("no such kernel" in line for line in gpu_report.notes(run))


def test_a_graph_that_computes_something_else_is_wrong():
    class Stale(Dry):
        def capture(self, call, calls):
            return call, call() * 0.5

    device = Stale()
    (found,), _ = measure.measure(LAYER, contenders.contenders(device, ["eager"], []), device, BRIEF, HALF)
    assert not found.results[OURS].parity
    assert "replayed" in found.results[OURS].note
    assert found.ratio("eager") is None


def test_what_cannot_be_captured_is_timed_as_it_is_called():
    class Unable(Dry):
        def capture(self, call, calls):
            raise RuntimeError("capturing is not allowed here")

    device = Unable()
    (found,), _ = measure.measure(LAYER, contenders.contenders(device, [], []), device, BRIEF, HALF)
    assert found.results[OURS].timing
    assert found.results[OURS].note.startswith("not captured: RuntimeError")


class Lost(Dry):
    def synchronize(self):
        raise RuntimeError("an illegal memory access was encountered")


def test_a_lost_device_ends_the_case():
    device = Lost()
    with pytest.raises(RuntimeError, match="illegal"):
        measure.measure(LAYER, contenders.contenders(device, [], []), device, BRIEF, HALF)


class FakeCuda:
    """What Cuda calls of torch.cuda, as the real functions take it; the work is done by the CPU."""

    class Event:
        def __init__(self, enable_timing=False):
            assert enable_timing

        def record(self):
            self.at = time.perf_counter()

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return 1e3 * (end.at - self.at)

    class Stream:
        def wait_stream(self, other):
            assert isinstance(other, FakeCuda.Stream)

    class CUDAGraph:
        def replay(self):
            self.replayed = True

    def __init__(self):
        self.real = {name: getattr(torch.cuda, name) for name in ("graph", "stream")}

    def graph(self, *args, **kwargs):
        inspect.signature(self.real["graph"].__init__).bind(None, *args, **kwargs)
        return contextlib.nullcontext()

    def stream(self, stream):
        assert isinstance(stream, FakeCuda.Stream)
        return contextlib.nullcontext()

    def patch(self, monkeypatch):
        for name in ("Event", "Stream", "CUDAGraph", "graph", "stream"):
            assert hasattr(torch.cuda, name)
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        properties = SimpleNamespace(
            name="NVIDIA H100 80GB HBM3", major=9, minor=0, multi_processor_count=132, total_memory=80 << 30
        )
        answers = {
            "current_stream": FakeCuda.Stream(),
            "get_device_properties": properties,
            "current_device": 0,
            "graph_pool_handle": (0, 1),
            "synchronize": None,
            "empty_cache": None,
            "is_available": True,
        }
        for name, answer in answers.items():
            assert hasattr(torch.cuda, name)
            monkeypatch.setattr(torch.cuda, name, lambda *args, answer=answer: answer)
        for part, name in ((torch.backends.cudnn, "benchmark"), (torch.backends.cudnn, "allow_tf32")):
            monkeypatch.setattr(part, name, getattr(part, name))
        monkeypatch.setattr(Cuda, "type", "cpu")


def test_what_only_cuda_has_is_called_as_it_wants(monkeypatch):
    FakeCuda().patch(monkeypatch)
    device = open_device("cuda")
    assert isinstance(device, Cuda)
    assert device.environment()["gpu"] == "NVIDIA H100 80GB HBM3"
    everybody = contenders.contenders(device, contenders.EAGER, [])
    (found,), _ = measure.measure(LAYER, everybody, device, BRIEF, HALF)
    device.release()
    assert all(r.parity and r.timing and not r.note for r in found.results.values()), found


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match="nobody"):
        contenders.contenders(Dry(), ["nobody"], [])


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla T4", "t4"),
        ("none, a dry run on the CPU", "dry"),
    ],
)
def test_chips_have_short_names(name, short):
    assert slug(name) == short


def gpu_run():
    """A made-up run of two layers and a network."""
    error = Error(1e-3, 1e-4)
    times = {OURS: 0.1, "cuda": 0.1, "eager_cl": 0.2, "compiled": 0.15}
    run = measure.GpuRun(
        {"gpu": "NVIDIA H100 80GB HBM3", "torch": "2.11", "triton": "3.6"},
        {"dtype": "float16"},
        Ceilings(3000.0, 700.0),
        notes=["backend cuda is absent: not in this build"],
    )
    for name, group in (("a", "layer"), ("b", "memory"), ("n", "network"), ("n as called", "called")):
        results = {peer: Result(Timing(t, t, t, 5, 8), error, True) for peer, t in times.items()}
        results["eager"] = Result(Timing(9.0, 9.0, 9.0, 5, 8), error, False)
        run.put([CaseResult(name, group, 35.0, error, results)], Work((Step(1, 35.0, 0.03),)))
    return run


def test_a_run_survives_its_file(tmp_path):
    path = tmp_path / "gpu-h100.json"
    path.write_text(gpu_run().to_json())
    assert measure.GpuRun.read(path) == gpu_run()


def test_a_case_measured_again_takes_its_own_place():
    run = gpu_run()
    again = replace(run.cases[1], gflop=1.0)
    run.put([again], Work((Step(1, 1.0, 1.0),)))
    assert [case.name for case in run.cases] == ["a", "b", "n", "n as called"]
    assert run.cases[1].gflop == 1.0
    assert run.work["b"].gigabytes == 1.0


def test_rows_show_what_ours_reaches():
    run = gpu_run()
    cells = gpu_report.row(run, run.cases[0], ["ours", "eager", "compiled"])
    # 35 GFLOP and 30 MB in 100 us; the floor is 35 / 700 ms = 50 us
    assert cells == ["a", "100", "9000 WRONG", "150", "350", "300", "50%", "1.50x compile", "1e-04 / 1e-04"]


def test_tables_name_what_is_absent(tmp_path):
    path = tmp_path / "gpu-h100.json"
    path.write_text(gpu_run().to_json())
    text = gpu_report.markdown([path])
    for part in (
        "## NVIDIA H100",
        "backend cuda is absent",
        "img/gpu-h100-floor.svg",
        "| a | 100 |",
        "WRONG: a",
    ):
        assert part in text
    assert gpu_report.markdown([]) == gpu_report.NOT_YET


def test_plots_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra 'bench', is not installed")
    path = tmp_path / "gpu-h100.json"
    path.write_text(gpu_run().to_json())
    written = gpu_report.write_plots(path, tmp_path / "img")
    assert [p.name for p in written] == [
        f"gpu-h100-{kind}.{end}" for kind in ("floor", "ratios") for end in ("svg", "png")
    ]
    assert plots.carried(written[0]) == plots.digest(path)
    words = re.findall(r"<text[^>]*>([^<]*)</text>", written[2].read_text())
    assert "1.50" in words
    assert "0.01" not in words  # eager is wrong


def test_the_page_shows_the_results_that_are_there():
    found = gpu_report.files()
    assert report.filled(gpu_report.PAGE, "gpu") == gpu_report.markdown(found)
    for path in found:
        for kind in ("floor", "ratios"):
            svg = plots.FOLDER / f"{path.stem}-{kind}.svg"
            assert plots.carried(svg) == plots.digest(path), f"{svg.name} is old"


def test_a_dry_run_prints_tables_and_writes_where_asked(tmp_path, capsys):
    arguments = ["--device", "cpu", "--cases", "32->32", "fsrcnn", "--peers", "eager", "--seconds", "0"]
    assert command.main([*arguments, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    run = measure.GpuRun.read(tmp_path / "gpu-dry.json")
    assert [case.group for case in run.cases] == ["layer", "network", "called", "network", "called"]
    assert "FSRCNN x4 16x24 as called" in printed.out
    assert printed.out.splitlines()[-1].startswith(str(tmp_path))
    assert command.main(["--show", str(tmp_path / "gpu-dry.json")]) == 0
    assert "Whole networks" in capsys.readouterr().out


def test_no_time_is_said(capsys):
    assert command.main(["--device", "cpu", "--minutes", "0", "--peers", "eager", "--cases", "32->32"]) == 0
    assert "no time left for 3x3 32->32 relu" in capsys.readouterr().out


def test_mistakes_are_named(capsys, monkeypatch):
    assert command.main(["--device", "cpu", "--cases", "nonsense"]) == 2
    assert command.main(["--device", "cpu", "--peers", "nobody"]) == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert command.main(["--list"]) == 0
    assert "dense block" in capsys.readouterr().out


def test_compile_comes_to_the_important_cases_first():
    ordered = sorted(cases.CASES, key=cases.compile_order)
    assert ordered[0].whole
    assert ordered[0].height == cases.SIZE[0]
    assert ordered[-1].name == "SRVGG 64f/32 x4"
    assert all(cases.compile_seconds(case) > 0 for case in ordered)
