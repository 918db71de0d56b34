# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The peers that are not eager PyTorch, and what a process of its own tells of a contender."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sr_kernels
from benchmarks.problems import ConvCase, NetworkCase
from sr_kernels.bench import alone, exchange, machine, ncnn_file, peers, plain, runtimes
from sr_kernels.bench.contender import Call, Contender
from sr_kernels.bench.model import ModelCase
from sr_kernels.bench.results import OURS
from sr_kernels.bench.runner import FACTOR, Judge, Settings, measure

BRIEF = Settings(seconds=0.0, fewest=2, most=2, sample=0.0)
SMALL = NetworkCase("small", 12, 20, scale=2, sizes=(("num_feat", 8), ("num_conv", 2)))
MODULES = {
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "openvino_bf16": ("openvino", "onnx", "onnxscript"),
    "ncnn": ("ncnn", "onnx", "onnxscript"),
    "ncnn_bf16": ("ncnn", "onnx", "onnxscript"),
}


def contender(name: str) -> Contender:
    return next(c for c in peers.CONTENDERS if c.name == name)


def need(*modules: str) -> None:
    """Skips where a module is not installed, but only if the peer that reads it says so."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    if absent:
        note = runtimes.missing(*modules)
        assert f"pip install {' '.join(absent)}" in note
        pytest.skip(note)


@pytest.mark.parametrize("name", MODULES)
def test_every_runtime_computes_the_network(name):
    need(*MODULES[name])
    if note := contender(name).missing():
        assert "bf16" in note
        pytest.skip(note)
    found = measure(SMALL, [*peers.contenders(["eager"]), contender(name)], BRIEF)
    result = found.results[name]
    assert result.parity, result
    assert result.timing is not None
    assert result.precision == ("bf16" if name.endswith("bf16") else "fp32")
    assert found.ratio(name) is not None
    assert (found.bf16_error is not None) == name.endswith("bf16")


@pytest.mark.parametrize("name", MODULES)
def test_what_is_absent_is_named_with_the_command(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    library = MODULES[name][0]
    assert re.search(rf"{library}.* not installed: pip install .*{library}", contender(name).missing())


def test_the_export_keeps_the_networks_own_nodes(tmp_path):
    need("onnx", "onnxscript")
    import onnx

    problem = SMALL.build()
    exchange.export(problem.plain, problem.inputs, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    nodes = Counter(node.op_type for node in graph.node)
    assert nodes == {"Conv": 4, "PRelu": 3, "DepthToSpace": 1, "Resize": 1, "Add": 1}
    assert [entry.name for entry in (*graph.input, *graph.output)] == [exchange.INPUT, exchange.OUTPUT]


def test_exported_files_go():
    need(*MODULES["ncnn"])
    problem = SMALL.build()
    paths = [exchange.ncnn_file(problem), exchange.onnx_file(problem)]
    assert exchange.ncnn_file(problem) == paths[0]
    exchange.discard(problem)
    assert not any(path.parent.exists() for path in paths)


NETWORKS = [
    ("srvgg", {"num_feat": 8, "num_conv": 1}),
    ("srvgg", {"num_feat": 8, "num_conv": 1, "activation": "leaky_relu", "scale": 2}),
    ("srvgg", {"num_feat": 8, "num_conv": 1, "activation": "relu", "channels": 1}),
    ("espcn", {"features": (8, 6), "channels": 3}),
    ("fsrcnn", {"d": 8, "s": 4, "m": 1, "scale": 4}),
    ("edsr", {"num_feat": 8, "num_block": 2, "scale": 3, "res_scale": 0.1}),
    ("edsr", {"num_feat": 8, "num_block": 1}),
    ("rrdbnet", {"num_feat": 8, "num_block": 1, "num_grow_ch": 4}),
    ("rrdbnet", {"num_feat": 8, "num_block": 1, "num_grow_ch": 4, "scale": 2}),
    ("rrdbnet", {"num_feat": 8, "num_block": 1, "num_grow_ch": 4, "scale": 1}),
]


# its mean is zero, which pnnx leaves out; its first layer works in place
GRAY = ("edsr", {"num_feat": 8, "num_block": 1, "channels": 1})


@pytest.mark.parametrize(("name", "sizes"), [*NETWORKS, GRAY])
def test_ncnn_computes_every_network(name, sizes):
    need(*MODULES["ncnn"])
    case = ModelCase("n", 12, 20, source=name, options=tuple((k, str(v)) for k, v in sizes.items()))
    found = measure(case, [*peers.contenders(["eager"]), contender("ncnn")], BRIEF)
    assert found.results["ncnn"].parity, found.results["ncnn"]


@pytest.mark.parametrize(("name", "sizes"), NETWORKS)
def test_ncnn_gets_the_layers_that_its_own_converter_writes(name, sizes, tmp_path):
    need(*MODULES["ncnn"])
    if importlib.util.find_spec("pnnx") is None:
        pytest.skip("pnnx is not installed: pip install pnnx")
    import pnnx

    model = sr_kernels.create(name, **sizes)
    x = torch.rand(1, model.in_channels, 12, 20)
    exchange.export(plain.of(model), [x], tmp_path / "model.onnx")
    shape = str(list(x.shape)).replace(" ", "")
    subprocess.run(
        [pnnx.EXEC_PATH, "model.onnx", f"inputshape={shape}", "fp16=0"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    theirs = layers(tmp_path / "model.ncnn.param")
    ours = layers(ncnn_file.write(tmp_path / "model.onnx", tmp_path))
    # one constant that is read twice, and its split, there; two constants here
    for kind in ("MemoryData", "Split"):
        ours, theirs = ([row for row in rows if row[0] != kind] for rows in (ours, theirs))
    assert sorted(ours, key=str) == sorted(theirs, key=str)


def layers(path: Path) -> list[tuple[str, dict[str, list[float]]]]:
    """(kind, parameters) of every layer of a .param file."""
    found = []
    for line in path.read_text().splitlines()[2:]:
        kind, _, *rest = line.split()
        parameters = dict(part.split("=") for part in rest if "=" in part)
        values = {int(key): [round(float(v), 6) for v in text.split(",")] for key, text in parameters.items()}
        found.append((kind, dict(sorted(values.items()))))
    return found


def test_an_operation_without_a_layer_is_named(tmp_path):
    need(*MODULES["ncnn"])
    exchange.export(torch.nn.Softmax(1), [torch.rand(1, 2, 4, 4)], tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="operation Softmax has no layer"):
        ncnn_file.write(tmp_path / "model.onnx", tmp_path)


def test_the_first_variant_with_parity_is_taken():
    def build(problem):
        for factor in (1.01, 1.0, 2.0):
            yield Call(lambda factor=factor: problem.plain(*problem.inputs) * factor, f"times {factor}")

    found = measure(SMALL, [*peers.contenders(["eager"]), Contender("variants", "v", build)], BRIEF)
    assert found.results["variants"].note == "times 1.0"
    wrong = Contender("wrong", "w", lambda problem: [Call(lambda: problem.plain(*problem.inputs) + 1.0)])
    found = measure(SMALL, [*peers.contenders(["eager"]), wrong], BRIEF)
    assert not found.results["wrong"].parity
    assert found.ratio("wrong") is None
    assert found.time("wrong") is not None


def test_bf16_is_held_to_the_error_of_eager_in_bf16():
    def off(by):
        return lambda problem: Call(
            lambda: (
                (y := peers.eager(problem)())
                + by * (y - problem.base(*problem.inputs)).square().mean().sqrt()
            )
        )

    with torch.no_grad():
        problem = SMALL.build()
        judge = Judge(SMALL, problem, bfloat16=True)
        allowed = judge.bfloat16.rms * FACTOR
        near, far = (Contender("p", "p", off(by * allowed), precision="bf16") for by in (0.9, 1.1))
        assert judge.parity(near, judge.error(near.build(problem)()))
        assert not judge.parity(far, judge.error(far.build(problem)()))
        single = replace(near, precision="fp32")
        assert not judge.parity(single, judge.error(near.build(problem)()))


def test_errors_are_in_units_of_what_the_network_adds():
    """Weights that add little to the base do not hide an error of what they add."""
    with torch.no_grad():
        problem = SMALL.build()
        for tensor in list(problem.plain.parameters())[-2:]:
            tensor.mul_(1e-3)
        judge = Judge(SMALL, problem, bfloat16=False)
        y = problem.plain(*problem.inputs)
        base = problem.base(*problem.inputs)
        assert judge.error(base + 0.99 * (y - base)).rms == pytest.approx(0.01, rel=0.01)


def test_where_float64_takes_too_long_eager_is_compared_with(monkeypatch):
    case = replace(SMALL, checked=(8, 8))
    found = measure(case, peers.contenders(["eager", "eager_cl"]), BRIEF)
    assert all(r.parity for r in found.results.values())
    assert found.results["eager"].error.largest == 0.0
    assert found.eager_error.largest > 0.0  # at the smaller size, against float64
    assert found.checked == (8, 8)


def test_memory_of_a_call():
    """The result of this layer alone has 64 MiB."""
    case = ConvCase("c", 512, 512, ci=4, co=64)
    task = alone.Task(case, "eager_cl", 0, 1, "auto", {})
    found = alone.run(task)
    assert 62 <= found.peak_mib <= 200
    assert len(found.kernels) == 1
    assert alone.run(replace(task, contender=OURS)).peak_mib >= 62


def test_a_process_that_fails_tells_why():
    task = alone.Task(ConvCase("c", 8, 8), "nobody", 0, 1, "auto", {})
    with pytest.raises(RuntimeError, match="nobody alone: ValueError: peer nobody is not known"):
        alone.run(task)


def test_onednn_names_of_the_last_call_are_read():
    line = "onednn_verbose,v1,primitive,exec,cpu,convolution,brgconv:avx512_core,forward_inference,src,,,1.2"
    other = "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src,,,0.1"
    printed = "\n".join([line, line, "the call:", other, line.replace("brgconv", "jit"), line, "{}"])
    assert alone.onednn_kernels(printed) == ("jit:avx512_core", "brgconv:avx512_core")


def test_memory_stands_beside_the_times():
    settings = replace(BRIEF, memory=True)
    found = measure(SMALL, peers.contenders(["eager"]), settings)
    assert all(r.peak_mib is not None and r.peak_mib > 0 for r in found.results.values()), found
    layer = measure(ConvCase("c", 8, 8), peers.contenders(["eager"]), settings)
    assert all(r.peak_mib is None for r in layer.results.values())


def test_a_limited_process_says_so(monkeypatch):
    assert contender("onnxruntime").missing() == runtimes.missing(*MODULES["onnxruntime"])
    for name, value in machine.limits("avx2").items():
        monkeypatch.setenv(name, value)
    assert machine.limited()
    for name in ("onnxruntime", "ncnn", "ncnn_bf16"):
        assert "no setting" in contender(name).missing()
    assert "AVX2" in contender("eager_bf16").missing()
    with pytest.raises(ValueError, match="'sse'"):
        machine.limits("sse")
