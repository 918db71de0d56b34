# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""When the self-check of the CUDA kernels runs, and which of its answers last."""

import pytest
import torch

from sr_kernels.backends import cuda_check, cuda_plan, selfcheck
from sr_kernels.cli import doctor
from tests.native.cuda.test_emulated import CPU


@pytest.fixture
def unchecked(hopper, monkeypatch):
    """Nothing is known of any device, in this process and on disk; a check passes at once."""
    monkeypatch.setattr(cuda_check, "_results", {})
    monkeypatch.setattr(selfcheck, "remembered", lambda key: False)
    monkeypatch.setattr(selfcheck, "remember", lambda key: None)
    monkeypatch.setattr(cuda_check, "check_kernel", lambda device, name: "")
    monkeypatch.setattr(cuda_check, "check_memory_ops", lambda device: "")
    return monkeypatch


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
