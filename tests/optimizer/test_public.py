# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Architectures that others have written, small: each is optimised with proof, whatever its forward does."""

from __future__ import annotations

import pytest
import torch

from benchmarks.public import PUBLIC, installed
from sr_kernels import optimize
from sr_kernels.optimizer.proof.parity import Reference
from sr_kernels.optimizer.samples import Sample

pytestmark = pytest.mark.skipif(not installed(), reason="the package spandrel is not installed")
# Those of which a kernel of the library must run: what has convolutions outside of attention.
FUSED = {
    "DRUNet", "DnCNN", "FBCNN", "Generator", "RCAN", "RRDBNet", "SPAN", "SRVGGNetCompact", "UpCunet2x",
    "UpCunet3x", "UpCunet4x",
}  # fmt: skip


@pytest.mark.parametrize("public", PUBLIC, ids=[public.name for public in PUBLIC])
def test_results_are_the_originals(public):
    model = public.build()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    fast = optimize(model, public.inputs())
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    other = Sample(public.inputs(public.side + public.step))
    parity = Reference(model, [other]).compare(fast)
    assert parity.holds, parity.text
    if public.name in FUSED:
        assert fast.report().regions
