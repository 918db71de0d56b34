# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Cases construct, ours and plain agree, peers run, the runner interleaves."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import nn

import sr_kernels
from benchmarks.cases import CASES, select
from benchmarks.problems import ConvCase, NetworkCase
from sr_kernels.bench import machine, peers, plain
from sr_kernels.bench.contender import Call, Contender
from sr_kernels.bench.problem import Problem
from sr_kernels.bench.results import OURS
from sr_kernels.bench.runner import Settings, exact, gflop, interleave, measure

BRIEF = Settings(seconds=0.0, fewest=2, most=2, sample=0.0)
SMALL = ConvCase("small", 8, 9, ci=5, co=12, activation="prelu", pixel_shuffle=2, base_mode="nearest")


def small(case):
    """The case on a small picture; of networks whose blocks are many, a few."""
    changes = {"checked": case.checked and (12, 20), "fewest": None, "without": ()}
    if getattr(case, "architecture", None) in ("edsr", "rrdbnet"):
        changes["sizes"] = (("num_block", 2),)
    return dataclasses.replace(case, height=16, width=24, **changes)


def test_names_are_unique_and_groups_known():
    labels = [case.label() for case in CASES]
    assert len(set(labels)) == len(labels)
    assert {case.group for case in CASES} == {"layer", "memory", "network", "avx2"}


def test_cases_are_selected_by_name_and_group():
    assert [case.group for case in select(["network"])] == ["network"] * len(select(["network"]))
    assert len(select(["transposed", "DENSE block"])) == 3
    assert select() == list(CASES)
    with pytest.raises(ValueError, match="'nonsense'"):
        select(["transposed", "nonsense"])


def test_targets_name_contenders():
    known = {c.name for c in peers.CONTENDERS} - {OURS}
    targets = [target for case in CASES for target in case.targets]
    assert targets
    assert all(set(target.against) <= known and target.floor >= 1.0 for target in targets)
    assert all(target.aim is None or target.aim > target.floor for target in targets)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label())
def test_every_case_runs_and_agrees(case):
    found = measure(small(case), peers.contenders(["eager", "eager_cl"]), BRIEF)
    assert list(found.results) == [OURS, "eager", "eager_cl"]
    assert all(r.parity for r in found.results.values()), found
    assert all(r.timing is not None and r.timing.rounds == 2 for r in found.results.values())
    assert found.kernels
    assert (found.gflop > 0) == (case.group != "memory")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label())
def test_every_case_can_run_natively(case):
    if reasons := sr_kernels.available_backends()["cpu"]:
        pytest.skip(f"no native kernels here: {'; '.join(reasons)}")
    with torch.no_grad(), sr_kernels.record_kernels() as kernels:
        peers.ours(small(case).build(), "cpu")()
    assert kernels
    assert all(name.startswith("cpu/") for name in kernels)


def test_a_case_is_the_same_every_time():
    first, second = SMALL.build(), SMALL.build()
    assert all(torch.equal(a, b) for a, b in zip(first.inputs, second.inputs, strict=True))
    state = second.plain.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.plain.state_dict().items())


def test_a_wrong_result_of_ours_is_noticed():
    class Wrong(ConvCase):
        def build(self) -> Problem:
            problem = super().build()
            right = problem.ours
            problem.ours = lambda *inputs: right(*inputs) * (1 + 1e-5)
            return problem

    found = measure(Wrong("wrong", 8, 8), peers.contenders(["eager"]), BRIEF)
    assert not found.results[OURS].parity
    assert found.results["eager"].parity
    assert found.ratio("eager") is None


def test_a_result_of_another_shape_is_an_error():
    class Wrong(ConvCase):
        def build(self) -> Problem:
            problem = super().build()
            right = problem.ours
            problem.ours = lambda *inputs: right(*inputs)[:, :1]
            return problem

    with pytest.raises(ValueError, match="the exact one"):
        measure(Wrong("wrong", 8, 8), peers.contenders(["eager"]), BRIEF)


def test_a_failing_peer_is_noted():
    def build(problem: Problem) -> Call:
        raise RuntimeError("no such runtime")

    contenders = [*peers.contenders(["eager"]), Contender("broken", "broken", build)]
    absent = Contender("absent", "absent", build, lambda: "not installed")
    found = measure(SMALL, [*contenders, absent], BRIEF)
    assert found.results["broken"].note == "RuntimeError: no such runtime"
    assert found.results["absent"].note == "not installed"
    assert found.results["broken"].timing is None
    assert found.ratio("eager") is not None


def test_unknown_peers_are_named():
    with pytest.raises(ValueError, match="nobody"):
        peers.contenders(["eager", "nobody"])


@pytest.mark.slow
def test_the_compiled_peer_is_compiled_and_frozen(monkeypatch):
    """Inductor ran, without a graph break, with constants in place of the weights."""
    from torch._inductor import freezing

    frozen = []
    freeze = freezing.freeze
    monkeypatch.setattr(freezing, "freeze", lambda *args: (frozen.append(1), freeze(*args))[1])
    if note := next(c for c in peers.CONTENDERS if c.name == "compiled").missing():
        pytest.skip(note)
    with torch.no_grad(), torch._inductor.utils.fresh_cache():
        problem = SMALL.build()
        y = peers.compiled(problem)()
        assert frozen
        assert torch.allclose(y, problem.plain(*problem.inputs), atol=1e-5)


def test_a_wrong_frozen_result_is_not_timed(monkeypatch):
    """A peer's fault is not our victory: what is right is timed, and the note says so."""
    asked = []

    def inductor(module, inputs, freezing):
        asked.append(freezing)
        y = module(*inputs)
        return module, y * (1.01 if freezing and wrong else 1.0)

    monkeypatch.setattr(peers, "_inductor", inductor)
    with torch.no_grad():
        wrong = True
        call = peers.compiled(SMALL.build())
        assert asked == [True, False]
        assert "not frozen" in call.note
        wrong = False
        assert peers.compiled(SMALL.build()).note == ""
        assert asked == [True, False, True]


def test_rounds_take_turns():
    """Every callable once to plan with, then once a round, the first one rotating."""
    ticks = itertools.count()
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    timings = interleave(calls, Settings(0.0, fewest=3, most=9, sample=1.0), lambda: float(next(ticks)))
    assert order == list("abc") + list("abc") + list("bca") + list("cab")
    assert all(t.median == 1000.0 and t.rounds == 3 and t.calls == 1 for t in timings.values())


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 3), (0.2, 5), (9.0, 7)])
def test_time_decides_the_number_of_rounds(seconds, rounds):
    now = 0.0

    def work() -> None:
        nonlocal now
        now += 0.01

    settings = Settings(seconds, fewest=3, most=7, sample=0.04)
    timing = interleave({"a": work}, settings, lambda: now)["a"]
    assert (timing.rounds, timing.calls) == (rounds, 4)
    assert timing.median == pytest.approx(10.0)


def test_what_takes_long_is_not_called_to_plan_with():
    calls = []
    known = {"slow": 3.0, "fast": 1e-9}
    callables = {name: (lambda name=name: calls.append(name)) for name in known}
    interleave(callables, Settings(0.0, fewest=2, most=2, sample=0.0), known=known)
    assert calls.count("slow") == 2
    assert calls.count("fast") > 2


def test_contenders_can_be_left_out_of_a_case():
    case = dataclasses.replace(SMALL, without=("eager",))
    found = measure(case, peers.contenders(["eager", "eager_cl"]), BRIEF)
    assert list(found.results) == [OURS, "eager_cl"]


def test_operations_are_counted():
    assert gflop(ConvCase("c", 8, 8, ci=3, co=5).build()) == pytest.approx(2 * 8 * 8 * 5 * 3 * 9 / 1e9)


def test_the_exact_result_is_of_float64():
    problem = SMALL.build()
    truth = exact(problem)
    assert truth.dtype == torch.float64
    assert next(problem.plain.parameters()).dtype == torch.float32
    assert 0 < (problem.plain(*problem.inputs) - truth).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("srvgg", {"num_feat": 6, "num_conv": 1}),
        ("srvgg", {"num_feat": 6, "num_conv": 1, "activation": "leaky_relu", "scale": 2}),
        ("srvgg", {"num_feat": 6, "num_conv": 1, "activation": "relu", "channels": 1}),
        ("espcn", {"features": (6, 4), "scale": 2}),
        ("fsrcnn", {"d": 6, "s": 4, "m": 2, "scale": 2}),
        ("edsr", {"num_feat": 6, "num_block": 2}),
        ("edsr", {"num_feat": 6, "num_block": 2, "scale": 3, "res_scale": 0.1, "image_range": 1.0}),
        ("rrdbnet", {"num_feat": 6, "num_block": 1, "num_grow_ch": 4}),
        ("rrdbnet", {"num_feat": 6, "num_block": 1, "num_grow_ch": 4, "scale": 2}),
    ],
)
def test_plain_networks_are_those_of_the_models(name, sizes):
    model = sr_kernels.create(name, **sizes)
    plain.kaiming_(model)
    network = plain.of(model)
    assert not any(type(part).__module__.startswith("sr_kernels.nn") for part in network.modules())
    x = torch.rand(1, model.in_channels, 12, 8)
    with torch.no_grad():
        ours, theirs = model(x), network(x)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_a_foreign_model_has_no_plain_form():
    with pytest.raises(TypeError, match="Linear"):
        plain.of(nn.Linear(1, 1))


def test_embedded_weights_are_copied():
    problem = NetworkCase("n", 8, 8, scale=2, embedded=True).build()
    assert isinstance(problem.plain, plain.SRVGG)
    model = sr_kernels.models.embedded(2).state_dict()
    assert all(torch.equal(tensor, model[name]) for name, tensor in problem.plain.state_dict().items())


def test_kaiming_weights_show_every_layer():
    layer = nn.Conv2d(64, 64, 3)
    plain.kaiming_(layer)
    assert layer.weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.05)


def test_the_machine_is_described():
    found = machine.environment()
    assert {"processor", "features", "cores", "memory", "kernel", "libc", "governor", "load"} <= set(found)
    assert {"python", "torch", "sr_kernels", "extension", "onnxruntime", "openvino", "ncnn"} <= set(found)
    assert all(isinstance(value, str) and value for value in found.values())
