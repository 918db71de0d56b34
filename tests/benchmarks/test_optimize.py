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
    assert report.filled(optimize.DOCUMENT, "optimize-own").strip() == optimize.own_markdown(found).strip()
    assert [entry["name"] for entry in found["pairs"]] == list(optimize.pairs())
    measured = {entry["name"] for entry in found["rows"]}
    assert {f"{entry.package}/{entry.name}" for entry in public.PUBLIC} <= measured
    assert set(optimize.OWN) <= measured


def test_a_network_is_measured_beside_our_own():
    network = plain.frozen(plain.kaiming_(plain.SRVGG(num_feat=8, num_conv=1)))
    own = optimize.create("srvgg", num_feat=8, num_conv=1)
    own.load_state_dict(network.state_dict())
    pair = optimize.compared("small", network, plain.frozen(own), seconds=0.0)
    assert pair.shape == (1, 3, optimize.SIDE, optimize.SIDE)
    assert min(pair.optimised, pair.own) > 0
    assert pair.ratio == pair.own / pair.optimised


def test_the_pairs_have_the_same_weights():
    """That the results agree says so, for the smallest; the rest load one state dict."""
    network, own = optimize.pairs()["SPAN 48f x4"]()
    x = optimize._picture(network)[0][..., :16, :16]
    with optimize.torch.inference_mode():
        y, z = network(x), own(x)
    assert (y - z).abs().max() < 0.05 * y.std()


def test_a_network_is_measured():
    network = plain.frozen(plain.ESPCN(features=(8, 4)))
    row = optimize.measured("small", network, optimize._picture(network), seconds=0.0)
    assert row.shape == (1, 1, optimize.SIDE, optimize.SIDE)
    assert min(row.eager, row.eager_channels_last, row.ours, row.seconds) > 0
    assert row.captured == "whole" or row.note
