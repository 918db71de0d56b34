# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Optimised modules in standard operators, and as ONNX files."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from sr_kernels import create, optimize
from sr_kernels.optimizer import export
from tests.models import plain
from tests.optimizer.networks import Body, assert_ours, assert_result, assert_same, net, picture

with_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxscript") is None,
    reason="the packages onnx and onnxscript are not installed",
)
with_runtime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="the package onnxruntime is not installed"
)


class Opaque(nn.Module):
    """Parts with a graph, in a module that torch.export follows and torch.fx does not."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Body(), Body()

    def forward(self, x):
        return self.b(self.a(x)) if isinstance(x, torch.Tensor) and x.dim() == 4 else x


class Normed(nn.Module):
    """With the weight norm of old, whose hook leaves a computed tensor, of which torch makes no deep copy."""

    def __init__(self):
        super().__init__()
        self.first = nn.utils.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


def own():
    torch.manual_seed(0)
    return create("srvgg", scale=2, num_feat=8, num_conv=1).eval()


MODELS = {
    "batch norm": net,
    "parts": lambda: Opaque().eval(),
    "shuffle and base": lambda: plain.build("srvgg x2"),
    "transposed": lambda: plain.build("fsrcnn x2 small"),
    "of the library": own,
}


@pytest.mark.parametrize("name", MODELS)
def test_programs_have_pytorchs_operators_alone(name):
    model = MODELS[name]()
    fast = optimize(model)
    channels = next(model.parameters()).shape[1] if name != "parts" else 3
    x = picture(2, channels, 10, 12)
    any_size = torch.export.Dim.DYNAMIC
    program = export.plain_program(fast, (x,), ({0: any_size, 2: any_size, 3: any_size},))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("conv" in name for name in names)
    assert not {name for name in names if not name.startswith(("aten.", "<built-in", "sym_size"))}
    assert_same(program.module(), model, x)
    assert_same(program.module(), model, picture(3, channels, 7, 16))
    assert_same(fast, model, x)
    assert_ours(fast, x)


def test_programs_hold_the_weights_of_their_time():
    model = net()
    fast = optimize(model)
    program = export.plain_program(fast, (picture(),))
    before = program.module()(picture())
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert torch.equal(program.module()(picture()), before)


def doubled(fast):
    fast.second.register_forward_hook(lambda m, args, y: y * 2)


def other_slope(fast):
    fast.act.negative_slope = 0.9


@pytest.mark.parametrize("change", [doubled, other_slope])
def test_what_was_changed_since_is_exported_as_it_runs(change):
    fast = optimize(net())
    before = export.plain_program(fast, (picture(),)).module()(picture())
    change(fast)
    with pytest.warns(RuntimeWarning, match="since it was optimised"):
        after = export.plain_program(fast, (picture(),)).module()(picture())
    model = net()
    change(model)
    assert not torch.allclose(before, model(picture()))
    assert_result(after, model, picture())


def test_weight_norm_of_old_is_exported():
    model = Normed().eval()
    fast = optimize(model)
    model.first(picture())  # and with it the tensor, which belongs to a graph of gradients
    fast.first(picture())
    program = export.plain_program(fast, (picture(),))
    with torch.no_grad():
        model.first(picture())
    assert_same(program.module(), model, picture())


@with_onnx
@with_runtime
@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODELS, "weight norm"])
def test_onnx_files(name, tmp_path):
    import onnx

    fast = optimize(Normed().eval() if name == "weight norm" else MODELS[name]())
    told = export.write_onnx(fast, tmp_path / "network.onnx")
    assert told.startswith("checked with ONNX Runtime at 1x")
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
    graph = onnx.load(tmp_path / "network.onnx").graph
    assert {node.domain for node in graph.node} == {""}
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert [entry.name for entry in (*graph.input, *graph.output)] == [export.INPUT, export.OUTPUT]
    batch, _, height, width = graph.input[0].type.tensor_type.shape.dim
    assert all(dim.dim_param for dim in (batch, height, width))


@with_onnx
@with_runtime
def test_a_wrong_file_is_not_left_behind(tmp_path, monkeypatch):
    target = tmp_path / "network.onnx"
    target.write_bytes(b"as before")
    run = export._Runtime.forward
    monkeypatch.setattr(export._Runtime, "forward", lambda self, *args: run(self, *args) * 1.001)
    with pytest.raises(RuntimeError, match=r"ONNX Runtime makes of the exported network is wrong: largest"):
        export.write_onnx(optimize(net()), target)
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
    assert target.read_bytes() == b"as before"


@with_onnx
def test_without_onnx_runtime_it_is_said(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "onnxruntime" else find(name, *a)
    )
    assert "not checked" in export.write_onnx(optimize(Body().eval()), tmp_path / "network.onnx")


@with_onnx
def test_what_cannot_be_exported_is_told(tmp_path):
    class Deciding(Body):
        def forward(self, x):
            return super().forward(x) if x.mean() > 0 else x

    with pytest.raises(ValueError, match="OptimizedDeciding cannot be exported: "):
        export.write_onnx(optimize(Deciding().eval()), tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("absent", ["onnx", "onnxscript"])
def test_missing_packages_are_named(tmp_path, monkeypatch, absent):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == absent else find(name, *a)
    )
    with pytest.raises(RuntimeError, match=f"pip install .*{absent}"):
        export.write_onnx(optimize(net()), tmp_path / "network.onnx")
