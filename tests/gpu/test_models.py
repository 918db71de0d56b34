# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Models on the device against their plain networks, with the same weights."""

from __future__ import annotations

import copy

import pytest
import torch

from sr_kernels import models
from sr_kernels.backends import record_kernels, use_backend
from tests.closeness import assert_as_close
from tests.gpu.support import assert_ran
from tests.models import plain

# name -> the architecture, its usual widths, few of its blocks
USUAL = {
    "srvgg x4": ("srvgg", {"scale": 4, "num_conv": 2}),
    "edsr x4": ("edsr", {"scale": 4, "num_block": 1}),
    "rrdbnet x4": ("rrdbnet", {"scale": 4, "num_block": 1}),
    "rrdbnet x2": ("rrdbnet", {"scale": 2, "num_block": 1}),
    "espcn x3": ("espcn", {"scale": 3, "channels": 3}),
    "fsrcnn x4": ("fsrcnn", {"scale": 4}),
}


def pair(entry, dtype, device):
    """Ours and the plain network on the device."""
    name, sizes = entry
    reference = plain.kaiming_(plain.NETWORKS[name](**sizes)).eval()
    model = models.create(name, **sizes)
    model.load_state_dict(reference.state_dict())
    if hasattr(reference, "mean"):
        reference.mean = reference.mean.to(device)
    return model.to(device, dtype).eval(), reference.to(device, dtype)


def check(entry, dtype, device, backend):
    model, reference = pair(entry, dtype, device)
    x = torch.rand(1, model.in_channels, 34, 46, generator=torch.Generator().manual_seed(0))
    x = x.to(device, dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), use_backend(backend), record_kernels() as names:
        y = model(x)
    with torch.no_grad(), use_backend("torch"):
        eager, exact = reference(x), copy.deepcopy(reference).double()(x.double())
        assert_as_close(model(x), eager, exact, "on PyTorch's backend")
    assert_as_close(y, eager, exact)
    return names


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("case", plain.SMALL)
def test_whatever_runs(case, dtype, device):
    assert check(plain.SMALL[case], dtype, device, "auto")


@pytest.mark.parametrize("case", USUAL)
def test_usual_widths_run_on_our_kernels_alone(case, backend, device):
    assert_ran(check(USUAL[case], torch.float16, device, backend), backend)


@pytest.mark.parametrize("case", ["srvgg x4", "rrdbnet x4"])
def test_ours_run_by_themselves(case, backend, device):
    """By the automatic choice; a layer for which PyTorch's kernel is faster may be left to it."""
    names = check(USUAL[case], torch.float16, device, "auto")
    assert any(not name.startswith("torch/") for name in names), names
