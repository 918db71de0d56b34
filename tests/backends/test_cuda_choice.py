# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Measured facts decide the automatic choice alone, and only where the faster backend can run the call."""

import pytest
import torch

from sr_kernels.backends import cuda_choice, registry
from sr_kernels.backends.base import Backend, BackendError, ConvArgs


class Fake(Backend):
    def __init__(self, name, widest):
        self.name, self.widest = name, widest

    def unavailable(self):
        return []

    def reasons(self, op, args):
        return ["too wide"] if args.weight.shape[0] > self.widest else []

    def slower(self, op, args):
        return cuda_choice.slower(self.name, op, args)


@pytest.fixture
def two(monkeypatch):
    """ "first" before "second" on the CPU; the second, up to 64 outputs, is faster up to 8 inputs."""
    for name in ("_TARGETS", "_backends", "_unavailable", "_ORDER", "_candidates", "_prepared"):
        monkeypatch.setattr(registry, name, {})
    monkeypatch.setattr(registry, "_ORDER", {"here": ("first", "second")})
    registry.register(Fake("first", 1000))
    registry.register(Fake("second", 64))
    fact = cuda_choice.Fact(
        "first", "second", ("conv2d",), lambda a: a.weight.shape[1] <= 8, "2 us where it takes 3 us"
    )
    monkeypatch.setattr(cuda_choice, "FACTS", (fact,))


def layer(ci, co):
    return ConvArgs(torch.zeros(1, ci, 4, 4), torch.zeros(co, ci, 3, 3), padding=(1, 1, 1, 1))


@pytest.mark.usefixtures("two")
def test_facts_decide_where_they_hold():
    def chosen(ci, co, requested=""):
        return registry.select("conv2d", "here", layer(ci, co), requested).name

    assert chosen(8, 16) == "second"
    assert chosen(9, 16) == "first"
    assert chosen(8, 65) == "first"  # the second refuses it
    assert chosen(8, 16, "first") == "first"
    with pytest.raises(BackendError, match="too wide"):
        chosen(8, 65, "second")


@pytest.mark.usefixtures("two")
def test_the_reason_has_the_figures():
    reasons = cuda_choice.slower("first", "conv2d", layer(8, 8))
    assert reasons == ["second takes less time: 2 us where it takes 3 us"]
    assert cuda_choice.slower("second", "conv2d", layer(8, 8)) == []
    assert cuda_choice.slower("first", "residual_add", (torch.zeros(1), ())) == []


def test_facts_name_backends_of_the_gpu():
    for fact in cuda_choice.FACTS:
        assert {fact.slower, fact.faster} <= set(registry.order("cuda"))
        assert fact.figures
