# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The self-check of the CUDA kernels: what it covers, when it runs, which of its answers last."""

import pytest
import torch

from sr_kernels.backends import cuda_check, cuda_plan, params, selfcheck
from sr_kernels.cli import doctor
from sr_kernels.reference import ACTIVATIONS
from tests.native.cuda import emulated
from tests.native.cuda.test_emulated import CPU

CURVES = set(ACTIVATIONS) - {"none"}


@pytest.fixture
def unchecked(hopper, monkeypatch):
    """Nothing is known of any device, in this process and on disk; a check passes at once."""
    monkeypatch.setattr(cuda_check, "_results", {})
    monkeypatch.setattr(selfcheck, "remembered", lambda key: False)
    monkeypatch.setattr(selfcheck, "remember", lambda key: None)
    monkeypatch.setattr(cuda_check, "check_kernel", lambda device, name: "")
    monkeypatch.setattr(cuda_check, "check_memory_ops", lambda device: "")
    return monkeypatch


@pytest.fixture
def plans(monkeypatch):
    """The plans of a check, in order."""
    made = []

    class Plan(cuda_plan.ConvPlan):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(cuda_plan, "ConvPlan", Plan)
    return made


@pytest.mark.slow
def test_every_kernel_that_is_compiled_passes_its_check(hopper, extension, plans, monkeypatch):
    extension.take_launched()
    for kernel in cuda_plan.kernels():
        with monkeypatch.context() as patched:
            if not kernel.special:
                patched.setattr(cuda_check, "_SIZE", (5, 7))  # one tile: they take seconds each here
            assert cuda_check.check_kernel(CPU, kernel.name) == "", kernel.name
        layers = cuda_check.layers_of(kernel, CPU)
        assert [plan.name for plan in plans] == [f"cuda/{kernel.name}"] * 2 * len(layers)
        enlarged = [layer.upsample == 2 for layer in layers]
        assert any(enlarged)
        # by one convolution and a shuffle where a special kernel takes that, else phase by phase
        assert [plan.enlarges for plan in plans] == 2 * [kernel.special and upsample for upsample in enlarged]
        plans.clear()
    assert cuda_check.check_memory_ops(CPU) == ""
    compiled, launched = emulated.kernels_in(extension), set(extension.take_launched())
    assert launched <= compiled.keys()
    assert {name for at, name in compiled.items() if at not in launched} == set()


def test_every_epilogue_is_checked(hopper):
    """Of each kernel that has code of its own for it."""
    for kernel in cuda_plan.kernels():
        layers = cuda_check.layers_of(kernel, CPU)
        curves, bases = {layer.activation for layer in layers}, {layer.base for layer in layers}
        if kernel.full and not kernel.special:
            assert curves >= {"gelu", "tanh", "silu", "sigmoid"}
            assert bases == {"", "same", "nearest", "bilinear"}
        elif kernel.capability and not kernel.staged:
            assert curves >= CURVES - {"leaky_relu"}  # code of PReLU's
            assert bases == {"", "same", "nearest", "bilinear"}
        elif kernel.staged:
            assert curves >= {"prelu", "relu", "silu"}
        # what the second of two inputs is read by, in dense blocks
        if kernel.name in ("conv2d_sm90/staged_wide", "conv2d_sm90/stacked_wide"):
            assert any(layer.second for layer in layers)


def test_a_wrong_curve_and_a_wrong_packing_are_found(hopper, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setitem(params._ACTIVATION, "tanh", ACTIVATIONS.index("gelu"))
        assert "tanh" in cuda_check.check_kernel(CPU, "conv2d_sm90/stacked")
    with monkeypatch.context() as patched:
        enlarging = cuda_plan.enlarging
        patched.setattr(cuda_plan, "enlarging", lambda w: enlarging(w.mT))
        assert "upsample=2" in cuda_check.check_kernel(CPU, "conv2d_sm90/staged")
    with monkeypatch.context() as patched:
        run = cuda_plan.ConvPlan.run
        patched.setattr(cuda_plan.ConvPlan, "run", lambda self, a, y, _: run(self, a, y, a.input))
        assert "second=72" in cuda_check.check_kernel(CPU, "conv2d_sm90/staged_wide")


def test_a_pass_of_other_code_does_not_count(unchecked):
    asked = []
    unchecked.setattr(selfcheck, "remembered", lambda key: not asked.append(key))
    for source in ("one", "other"):
        unchecked.setattr(cuda_check, "_source", lambda source=source: source)
        cuda_check._results.clear()
        assert cuda_check.reasons(CPU) == []
    assert len(set(asked)) == 2


def test_a_lack_of_memory_is_no_verdict(unchecked, recwarn):
    def fail(device, name):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

    with unchecked.context() as patched:
        patched.setattr(cuda_check, "check_kernel", fail)
        for plain in (True, False, None):
            [reason] = cuda_check.reasons(CPU, plain)
            assert "no memory" in reason
    assert cuda_check.reasons(CPU, True) == []
    assert cuda_check.left_out(CPU) == []
    assert not recwarn


def test_nothing_is_checked_while_a_graph_is_captured(unchecked):
    """What an earlier process has found counts then too."""
    with unchecked.context() as patched:
        patched.setattr(cuda_check, "_obstacle", lambda device, index: ("a graph is captured", False))
        patched.setattr(cuda_check, "check_kernel", lambda device, name: pytest.fail("checked"))
        assert cuda_check.reasons(CPU, True) == ["a graph is captured"]
        assert cuda_check.left_out(CPU) == [*(k.name for k in cuda_plan.kernels()), cuda_check._MEMORY]
        patched.setattr(selfcheck, "remembered", lambda key: True)
        assert cuda_check.reasons(CPU, True) == []


def test_a_failure_lasts(unchecked):
    with unchecked.context() as patched:
        patched.setattr(cuda_check, "check_memory_ops", lambda device: "residual_add")
        with pytest.warns(RuntimeWarning, match="residual_add"):
            assert cuda_check.reasons(CPU) == ["residual_add"]
    assert cuda_check.reasons(CPU) == ["residual_add"]


def test_doctor_says_what_was_built_for_which_chips(hopper, extension, monkeypatch):
    monkeypatch.setattr(extension, "archs", "80 90a")
    lines = dict(doctor._cuda())
    assert lines["code for sm_80"].endswith("8.0 and later 8.x")
    assert lines["code for sm_90a"].endswith("capability 9.0")
    assert lines["PTX"].startswith("of sm_80")
    assert "conv2d_sm80/64" in lines["kernels"]
    assert "conv2d_sm90/staged" in lines["kernels for 9.0 alone"]


@pytest.mark.parametrize(
    ("archs", "able", "unable"),
    [
        ("80 86 89 90a 120", (80, 86, 87, 89, 90, 100, 120, 121), (75, 70)),
        ("90a", (90,), (80, 89, 100, 120)),
        ("86", (86, 89, 90, 120), (80, 75)),
        ("90a 120", (90, 120, 121), (80, 89, 100, 103)),
    ],
)
def test_a_gpu_without_code_is_known_by_its_capability(archs, able, unable):
    assert [cuda_check.without_code(archs, c) for c in able] == [""] * len(able)
    for capability in unable:
        assert archs in cuda_check.without_code(archs, capability)
