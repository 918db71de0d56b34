# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks.roofline: what layers have to do, the bounds, and a tiny run."""

from __future__ import annotations

import json

import pytest
import torch

import sr_kernels
from benchmarks import roofline
from benchmarks.problems import NetworkCase
from benchmarks.roofline import Bandwidth, Layer, Peak, Roofline
from sr_kernels.backends.base import ConvArgs

native = pytest.mark.skipif(
    bool(sr_kernels.available_backends()["cpu"]), reason="the native kernels are not in use here"
)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def synthetic() -> Roofline:
    layers = [
        Layer("net", "3x3 64->64", "cpu/winograd/x", 2, 10.0, 4.0, 1.0, 28.0),
        Layer("net", "1x1 8->8", "cpu/direct/x", 1, 1.0, 0.01, 0.01, 20.0),
    ]
    peaks = [Peak("x", 1, 150.0), Peak("x", 2, 300.0)]
    bandwidths = [Bandwidth(1, 12.0, 10.0, 15.0), Bandwidth(2, 25.0, 20.0, 30.0)]
    return Roofline(
        {"processor": "P", "extension": "x", "load": "0.10"}, {"threads": 2}, peaks, bandwidths, layers
    )


def conv(co: int, ci: int, size: int, height: int = 8, width: int = 8, **others) -> ConvArgs:
    weight = torch.zeros(co, ci, size, size)
    others.setdefault("padding", (size // 2,) * 4)
    return ConvArgs(torch.zeros(1, ci, height, width), weight, **others)


def test_shares_of_the_two_bounds():
    wide, thin = (synthetic().shares(layer) for layer in synthetic().layers)
    assert (wide.gflops, wide.of_peak, wide.of_peak_multiplied) == pytest.approx((400.0, 4 / 3, 1 / 3))
    assert wide.of_bandwidth == pytest.approx(28 * 2**20 / 30e9 / 0.01)
    assert (wide.bound, thin.bound) == ("arithmetic", "memory")


@pytest.mark.parametrize(
    ("args", "kernel", "factor"),
    [
        (conv(16, 16, 3), "cpu/direct_1x24/x", 1.0),
        (conv(16, 16, 3), "cpu/winograd4_1x14/x", 1 / 4),
        (conv(16, 16, 3, 6, 8), "cpu/winograd4_1x14/x", 1 / 3),  # tiles of 8x8 for 6x8 results
        (conv(16, 16, 3), "cpu/winograd2_1x14/x", 4 / 9),
        (conv(16, 16, 3, upsample=2), "cpu/direct_1x24/x", 4 / 9),
        (conv(16, 16, 3, upsample=3), "cpu/direct_1x24/x", (5 / 9) ** 2),
        (conv(16, 16, 1, upsample=2), "cpu/direct_1x24/x", 1.0),
    ],
)
def test_the_multiplications_that_are_left(args, kernel, factor):
    assert roofline.multiplied(args, kernel) == pytest.approx(factor * roofline.gflop(args))


def test_operations_and_bytes_of_a_layer():
    args = conv(16, 8, 3, 10, 12, bias=torch.zeros(16), residuals=[(torch.zeros(1, 16, 10, 12), 1.0)])
    assert roofline.gflop(args) == pytest.approx(2e-9 * 10 * 12 * 16 * 8 * 9)
    floats = 8 * 120 + 16 * 8 * 9 + 16 + 16 * 120 + 16 * 120
    assert roofline.mib([args], torch.zeros(1, 16, 10, 12)) == pytest.approx(4 * floats / 2**20)
    assert roofline.describe(args) == "3x3 8->16 + 1, 10x12"


def test_the_best_of_many_samples():
    work = iter([1.0] * 1000)
    assert roofline.best(lambda: next(work), 0.0) > 0.0
    assert next(work) == 1.0


def test_json_holds_everything(tmp_path):
    path = tmp_path / "roofline.json"
    path.write_text(synthetic().to_json())
    assert Roofline.read(path) == synthetic()
    assert json.loads(path.read_text())["layers"][0]["bound"] == "arithmetic"
    path.write_text('{"schema": 0}')
    with pytest.raises(ValueError, match="measure again"):
        Roofline.read(path)


def test_the_table_has_a_row_for_each_layer():
    text = roofline.markdown(synthetic())
    assert "x 150 (1), x 300 (2)" in text
    assert (
        "| net | 2 x 3x3 64->64 | cpu/winograd/x | 10.00 | 400 | 133% | 33% | 28.0 | 10% | arithmetic |"
        in text
    )


@native
def test_the_layers_of_a_network():
    torch.set_num_threads(1)
    case = NetworkCase("tiny", 16, 16, sizes=(("num_feat", 16), ("num_conv", 2)))
    found = roofline.layers(case, 0.0)
    assert sum(layer.count for layer in found) == 4
    assert [layer.count for layer in found] == [1, 2, 1]
    assert all(layer.ms > 0 and layer.kernel.startswith("cpu/") for layer in found)
    expected = 2e-9 * 256 * 9 * (3 * 16 + 2 * 16 * 16 + 16 * 48)
    assert sum(layer.count * layer.gflop for layer in found) == pytest.approx(expected)


@native
def test_a_chain_is_one_layer():
    from sr_kernels.backends import cpu, cpu_chain

    first = conv(8, 3, 3)
    x = first.input = first.input.contiguous(memory_format=torch.channels_last)
    between = torch.empty(1, 8, 8, 8).contiguous(memory_format=torch.channels_last)
    second = ConvArgs(between, torch.zeros(4, 8, 1, 1))
    y = torch.empty(1, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    with roofline.recorded() as found:
        cpu._chain_into([first, second], y, cpu_chain.strips([first, second], 1))
    ((name, kernel, _, gflop, done, mib),) = found
    assert name == "2 layers as one, 3x3 3->8, 8x8 to 1x1 8->4, 8x8"
    assert kernel.startswith("cpu/chain/")
    assert [gflop, done] == pytest.approx([2e-9 * 64 * (8 * 27 + 32)] * 2)
    assert mib == pytest.approx(4 * (x.numel() + 8 * 27 + 32 + y.numel()) / 2**20)


@native
def test_a_tiny_run(monkeypatch, tmp_path, capsys):
    case = NetworkCase("tiny", 16, 16, sizes=(("num_feat", 16), ("num_conv", 1)))
    monkeypatch.setattr(roofline, "_BUFFER", 1 << 20)
    monkeypatch.setattr(roofline.measure, "__defaults__", ((case,),))
    target = tmp_path / "results" / "roofline.json"
    assert roofline.main(["--threads", "1", "--seconds", "0", "--json", str(target)]) == 0
    found = Roofline.read(target)
    assert found.peak > 0
    assert found.copy > 0
    assert {p.threads for p in found.peaks} == {1}
    assert capsys.readouterr().out.splitlines()[-1] == str(target)


def test_without_native_kernels_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(roofline.machine, "extension", lambda: "none: not built")
    assert roofline.main(["--json", str(tmp_path / "a.json")]) == 2
    assert "not built" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
