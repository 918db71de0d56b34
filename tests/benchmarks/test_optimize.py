# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of optimize: its document says what its results hold, and one network is measured."""

from __future__ import annotations

import json

from benchmarks import optimize, public, report
from sr_kernels.bench import plain


def test_the_document_has_the_committed_results():
    found = json.loads(optimize.RESULTS.read_text())
    assert report.filled(optimize.DOCUMENT, "optimize").strip() == optimize.markdown(found).strip()
    assert report.filled(optimize.README, "optimize").strip() == optimize.brief(found).strip()
    measured = {entry["name"] for entry in found["rows"]}
    assert {f"{entry.package}/{entry.name}" for entry in public.PUBLIC} <= measured
    assert set(optimize.OWN) <= measured


def test_a_network_is_measured():
    network = plain.frozen(plain.ESPCN(features=(8, 4)))
    row = optimize.measured("small", network, optimize._picture(network), seconds=0.0)
    assert row.shape == (1, 1, optimize.SIDE, optimize.SIDE)
    assert min(row.eager, row.eager_channels_last, row.ours, row.seconds) > 0
    assert row.captured == "whole" or row.note
