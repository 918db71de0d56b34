# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Who runs: the order, explicit choices, and what is said when something is missing."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
import warnings

import pytest
import torch

from sr_kernels import ops, reference
from sr_kernels.backends import (
    Backend,
    BackendError,
    available_backends,
    record_kernels,
    registry,
    use_backend,
)
from sr_kernels.backends.base import dense_strides, memory_format_of, with_format

X, W = torch.randn(1, 4, 6, 5), torch.randn(8, 4, 3, 3)


@pytest.fixture
def fresh(monkeypatch):
    """The registry's memory emptied for one test."""
    for name in ("_backends", "_unavailable", "_candidates", "_prepared", "_TARGETS", "_ORDER"):
        kept = getattr(registry, name)
        monkeypatch.setattr(registry, name, dict(kept) if name.isupper() else {})
    monkeypatch.setattr(registry, "_warned", False)


class Picky(Backend):
    """Takes convolutions of one channel."""

    name = "picky"

    def reasons(self, op, args):
        return [] if op == "conv2d" and args.input.shape[1] == 1 else ["it likes one channel only"]

    def conv2d(self, args):
        registry.record("picky/conv2d")
        return reference.conv2d(args.input, args.weight)


def ran(*arguments, **named):
    with record_kernels() as names:
        ops.conv2d(*arguments, **named)
    return names


def test_order_holds_the_gpu_backends():
    assert registry.order("cpu") == ("cpu", "torch")
    assert registry.order("cuda") == ("cuda", "triton", "torch")
    assert registry.order("xpu") == ("torch",)
    backends = available_backends()
    assert backends["torch"] == []
    sees_gpu = torch.cuda.is_available()
    assert sees_gpu or any("not in this build" in r or "no NVIDIA GPU" in r for r in backends["cuda"])
    assert "triton" in backends


def test_first_without_reasons_runs(fresh):
    registry.register(Picky(), devices=("cpu",))
    assert registry.order("cpu")[0] == "picky"
    one = torch.randn(1, 1, 5, 5), torch.randn(2, 1, 3, 3)
    assert ran(*one) == ["picky/conv2d"]
    assert ran(X, W)[0] != "picky/conv2d"
    with pytest.raises(BackendError, match="picky.*one channel only"):
        ops.conv2d(X, W, backend="picky")
    with pytest.raises(BackendError, match="one channel only"):
        ops.pixel_shuffle(X, 2, backend="picky")


class Slow(Picky):
    """Able, and slower than PyTorch's own."""

    def reasons(self, op, args):
        return []

    def slower(self, op, args):
        return ["it takes its time"]


def test_a_slower_backend_runs_only_when_asked_for(fresh):
    registry.register(Slow(), ["cpu"])
    with use_backend("auto"):
        assert not any(name.startswith("picky/") for name in ran(X, W))
    assert ran(X, W, backend="picky") == ["picky/conv2d"]


def test_large_depthwise_kernels_are_left_to_pytorch():
    pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")
    for size, name in ((3, "cpu/depthwise"), (5, "torch/conv2d")):
        weight = torch.randn(4, 1, size, size)
        with use_backend("auto"):
            assert ran(X, weight, groups=4)[0].startswith(name)
        assert ran(X, weight, groups=4, backend="cpu")[0].startswith("cpu/depthwise")


def test_all_reasons_are_given_where_none_can(fresh, monkeypatch):
    registry.register(Picky())
    monkeypatch.setitem(registry._ORDER, "cpu", ("picky",))
    with pytest.raises(
        BackendError, match="no backend can run this on cpu.*picky: it likes one channel only"
    ):
        ops.conv2d(X, W)


def test_explicit_choices_and_their_order(monkeypatch):
    assert ran(X, W, backend="torch") == ["torch/conv2d"]
    with use_backend("torch"):
        assert ran(X, W) == ["torch/conv2d"]
        with use_backend("cuda"):
            with pytest.raises(BackendError, match="cuda"):
                ops.conv2d(X, W)
            assert ran(X, W, backend="torch") == ["torch/conv2d"]
        assert ran(X, W) == ["torch/conv2d"]
    monkeypatch.setenv("SR_KERNELS_BACKEND", "triton")
    with pytest.raises(BackendError, match="triton"):
        ops.conv2d(X, W)
    with use_backend("auto"):
        ops.conv2d(X, W)
    monkeypatch.setenv("SR_KERNELS_BACKEND", "fastest")
    with pytest.raises(ValueError, match="SR_KERNELS_BACKEND='fastest'.*expected one of auto"):
        ops.conv2d(X, W)
    with pytest.raises(ValueError, match="'fastest'"), use_backend("fastest"):
        pass


def test_an_explicit_backend_of_another_device_raises(fresh):
    registry.register(Picky())
    one = torch.randn(1, 1, 5, 5), torch.randn(2, 1, 3, 3)
    with pytest.raises(BackendError, match="does not run tensors on cpu"):
        ops.conv2d(*one, backend="picky")


def test_a_choice_holds_in_its_own_thread_only():
    seen = []

    def work():
        seen.append(registry.chosen())

    with use_backend("torch"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert registry.chosen() == "torch"
    assert seen == ["auto"]


def test_missing_extension_is_said_once(fresh, monkeypatch):
    monkeypatch.setitem(registry._TARGETS, "cpu", "sr_kernels.backends.not_built:CpuBackend")
    with pytest.warns(RuntimeWarning, match=r"not_built.*C\+\+ compiler"):
        assert ran(X, W) == ["torch/conv2d"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ran(X, W) == ["torch/conv2d"]
    assert "not_built" in available_backends()["cpu"][0]
    with pytest.raises(BackendError, match="not_built"):
        ops.conv2d(X, W, backend="cpu")


def test_an_outdated_extension_is_absent(fresh, monkeypatch, tmp_path):
    (tmp_path / "outdated_cpu.py").write_text("import math\nmath.isas()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry._TARGETS, "cpu", "outdated_cpu:CpuBackend")
    with pytest.warns(RuntimeWarning, match=r"AttributeError.*isas.*rebuild the package"):
        assert ran(X, W) == ["torch/conv2d"]
    with pytest.raises(BackendError, match="rebuild the package"):
        ops.conv2d(X, W, backend="cpu")


def test_recorders_nest_and_end():
    with record_kernels() as outer:
        ran(X, W)
        with record_kernels() as inner:
            ops.conv2d(X, W)
        ops.conv2d(X, W)
    ops.conv2d(X, W)
    assert len(outer) == 3
    assert len(inner) == 1


def test_import_is_light():
    code = "import sys, sr_kernels; assert 'torch' not in sys.modules; print(sr_kernels.__version__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == importlib.import_module("sr_kernels._version").__version__


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.empty(2, 3, 4, 5), torch.contiguous_format),
        (torch.empty(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), torch.channels_last),
        (torch.empty(2, 1, 4, 5), torch.contiguous_format),
        (torch.empty_strided((2, 1, 4, 5), (20, 1, 5, 1)), torch.channels_last),
        (torch.empty(1, 7, 1, 1), torch.contiguous_format),
        (torch.empty_strided((1, 7, 1, 1), (7, 1, 7, 7)), torch.channels_last),
        (torch.empty(2, 4, 5, 9).permute(0, 3, 1, 2)[:, 2:5], torch.channels_last),
        (torch.empty(2, 3, 5, 4).transpose(2, 3), torch.contiguous_format),
        (torch.empty(1, 3, 4, 5).expand(2, 3, 4, 5), torch.contiguous_format),
    ],
)
def test_memory_format(x, expected):
    assert memory_format_of(x) == expected
    for wanted in (torch.contiguous_format, torch.channels_last):
        y = with_format(x, wanted)
        assert y.stride() == dense_strides(x.shape, wanted)
        assert memory_format_of(y) == wanted
