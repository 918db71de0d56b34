# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What is proved before a kernel is used, and what becomes of one that fails."""

from __future__ import annotations

import pytest
import torch

from sr_kernels.backends.base import ActivationArgs, DenseBlockArgs
from sr_kernels.backends.triton import backend, configs, moves, plan, selfcheck

pytestmark = pytest.mark.usefixtures("interpreted", "poisoned")
CPU = torch.device("cpu")


def by_kind(function):
    found = list(selfcheck.kinds())
    ids = [f"{kind}-{dtype}" for kind, dtype in found]
    return pytest.mark.parametrize(("kind", "dtype"), found, ids=ids)(function)


@by_kind
def test_passes_and_fails(kind, dtype, monkeypatch):
    assert selfcheck.check(CPU, kind, dtype) == ""

    if kind in configs.LOADS:
        launch = plan.ConvPlan.launch

        def wrong(self, a, x, y, x2=None):
            launch(self, a, x, y, x2)
            y[0, -1, -1, -1] += 1

        monkeypatch.setattr(plan.ConvPlan, "launch", wrong)
    else:
        name = {"shuffles": "shuffle", "sum": "add", "pictures": "to_float", "backward": None}[kind]
        if name:
            right = getattr(moves, name)
            monkeypatch.setattr(moves, name, lambda *args: right(*args) + 1)
        else:
            right = moves.activation_backward
            monkeypatch.setattr(moves, "activation_backward", lambda a: (*right(a)[:2], right(a)[1]))
    assert selfcheck.check(CPU, kind, dtype) != ""


@pytest.fixture
def asked(monkeypatch):
    """A device that is none, on which every kind is refused; what was asked for."""
    found = []

    def reasons(device, kind, dtype):
        found.append((kind, dtype))
        return ["unproved"]

    monkeypatch.setattr(selfcheck, "reasons", reasons)
    return found


def test_every_op_asks(asked):
    made = backend.TritonBackend()
    x = torch.zeros(1, 4, 6, 6).half()
    picture = torch.zeros(6, 6, 3, dtype=torch.uint8)
    calls = {
        "pixel_shuffle": ((x, 2), ("shuffles", torch.float32)),
        "pixel_unshuffle": ((x, 2), ("shuffles", torch.float32)),
        "residual_add": ((x, [(x, 1.0)], 1.0), ("sum", torch.float16)),
        "image_to_float": ((picture,), ("pictures", torch.float32)),
        "float_to_image": ((x.float(), torch.uint8), ("pictures", torch.float32)),
        "activation_backward": (
            ActivationArgs(x, x, "relu", 0.0, None, from_output=True),
            ("backward", torch.float16),
        ),
    }
    for op, (args, expected) in calls.items():
        assert made.reasons(op, args) == ["unproved"], op
        assert asked.pop() == expected


@pytest.mark.parametrize(
    ("ci", "growth", "expected"),
    [
        (16, 16, {"boxes"}),
        (16, 12, {"boxes", "pointers"}),
        (12, 4, {"boxes", "pointers"}),
        (4, 32, {"window", "pointers"}),
    ],
)
@pytest.mark.parametrize("boxes", [True, False])
def test_a_dense_block_asks_for_all_that_its_layers_run(ci, growth, expected, boxes, asked, monkeypatch):
    monkeypatch.setattr(plan, "has_boxes", lambda index: boxes)
    widths = (growth, growth, ci)
    weights = [torch.zeros(co, ci + i * growth, 3, 3).half() for i, co in enumerate(widths)]
    args = DenseBlockArgs(torch.zeros(1, ci, 5, 5).half(), weights, [None] * 3)
    backend._dense_block_reasons(args)
    kinds = {kind for kind, _ in asked}
    ran = set()
    run = plan.ConvPlan.run

    def note(self, a, y, x2=None):
        ran.add(self.load)
        run(self, a, y, x2)

    monkeypatch.setattr(plan.ConvPlan, "run", note)
    backend._DenseBlock(args)(args)
    assert ran <= kinds
    if not boxes:
        assert "boxes" not in kinds


@pytest.fixture
def device(monkeypatch, tmp_path):
    """A device on which nothing has been proved, its folder empty."""
    monkeypatch.setenv("SR_KERNELS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(selfcheck, "INTERPRETED", False)
    monkeypatch.setattr(selfcheck, "_results", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return torch.device("cuda", 0)


def answers(device, monkeypatch, *outcomes):
    """What `reasons` says when the check comes to these outcomes, one after the other, and how many ran."""
    left = list(outcomes)

    def check(*args):
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(selfcheck, "check", check)
    found = [selfcheck.reasons(device, "sum", torch.float16) for _ in range(3)]
    return found, len(outcomes) - len(left)


def test_a_pass_is_kept(device, monkeypatch):
    assert answers(device, monkeypatch, "", "wrong") == ([[], [], []], 1)
    monkeypatch.setattr(selfcheck, "_results", {})
    assert answers(device, monkeypatch, "wrong") == ([[], [], []], 0)


def test_a_failure_is_kept_for_the_process(device, monkeypatch):
    with pytest.warns(RuntimeWarning, match="other kernels run instead"):
        found, count = answers(device, monkeypatch, "wrong", "")
    assert count == 1
    assert all("wrong" in reasons[0] for reasons in found)
    monkeypatch.setattr(selfcheck, "_results", {})
    assert answers(device, monkeypatch, "") == ([[], [], []], 1)


def test_what_passes_by_itself_is_asked_again(device, monkeypatch, tmp_path):
    """No memory, and a graph that is being captured, say nothing about a kernel."""
    found, count = answers(device, monkeypatch, torch.cuda.OutOfMemoryError("full"), "")
    assert "full" in found[0][0]
    assert (found[1:], count) == ([[], []], 2)

    monkeypatch.setattr(selfcheck, "_results", {})
    monkeypatch.setenv("SR_KERNELS_CACHE_DIR", str(tmp_path / "other"))
    capturing = iter([True, False, False])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: next(capturing))
    found, count = answers(device, monkeypatch, "")
    assert "captured" in found[0][0]
    assert (found[1:], count) == ([[], []], 1)
