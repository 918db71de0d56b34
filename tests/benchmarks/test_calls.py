# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of calls: its document says what its results hold, and a small network is measured."""

from __future__ import annotations

import json

import pytest

from benchmarks import calls, optimize, report
from sr_kernels.bench import plain

pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")


def test_the_document_has_the_committed_results():
    found = json.loads(calls.RESULTS.read_text())
    assert report.filled(optimize.DOCUMENT, "calls").strip() == calls.markdown(found).strip()
    assert [row["name"] for row in found["networks"]] == list(calls._NETWORKS)


def test_a_network_is_measured():
    module = plain.frozen(plain.kaiming_(plain.SRVGG(num_feat=8, num_conv=1)))
    found = calls.network("small", module, rounds=1)
    assert found["name"] == "small"
    assert min(found[key] for key in ("without", "with", "step", "eager")) > 0
    assert not any(p.requires_grad for p in module.parameters())


def test_layers_are_measured(monkeypatch):
    monkeypatch.setattr(calls, "_LAYERS", (2, 12))
    monkeypatch.setattr("sr_kernels.optimizer.proof.timing.kept", lambda model, regions, *_: regions)
    assert set(calls.layers(rounds=1)) == {"ours", "eager"}
