# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Every model against its plain counterpart: same state dict, same picture, and really fused."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import sr_kernels
from sr_kernels import models
from tests.closeness import assert_as_close, assert_as_close_together
from tests.models import plain

CASES = list(plain.SMALL)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def pair(case):
    """The plain network, and ours with the same state dict loaded by plain load_state_dict."""
    reference = plain.build(case)
    name, sizes = plain.SMALL[case]
    model = models.create(name, **sizes)
    model.load_state_dict(reference.state_dict())
    return model, reference


def picture(model, n, h, w, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, model.in_channels, h, w, generator=generator)


@pytest.mark.parametrize("case", CASES)
def test_state_dicts_are_the_canonical_ones(case):
    model, reference = pair(case)
    ours, theirs = model.state_dict(), reference.state_dict()
    assert list(ours) == list(theirs)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    reference.load_state_dict(ours)  # and back


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("size", [(1, 17, 13), (2, 8, 12), (1, 5, 31)])
@pytest.mark.parametrize("case", CASES)
def test_same_picture(case, size, layout):
    model, reference = pair(case)
    x = picture(model, *size).contiguous(memory_format=FORMATS[layout])
    before = x.clone()
    with torch.no_grad(), sr_kernels.set_precision("highest"):
        y = model(x)
        eager = reference(x)
        exact = copy.deepcopy(reference).double()(x.double())
    assert torch.equal(x, before)
    assert y.is_contiguous(memory_format=FORMATS[layout])
    if model.in_channels == model.out_channels:
        # what the network itself adds must not drown in the enlarged input
        enlarged = F.interpolate(x.double(), scale_factor=model.scale, mode="nearest")
        assert (exact - enlarged).std() > 0.05 * enlarged.std()
    assert_as_close(y, eager, exact)


@pytest.mark.parametrize("case", ["srvgg x4", "edsr x3", "rrdbnet x2", "fsrcnn x2 small", "espcn x3"])
def test_float64_agrees_to_rounding(case):
    """Pictures and gradients, where rounding hides nothing."""
    model, reference = pair(case)
    results = []
    for network in (model.double(), reference.double()):
        x = picture(model, 2, 9, 11).double().requires_grad_()
        y = network(x)
        y.square().mean().backward()
        results.append([y.detach(), x.grad, *(p.grad for p in network.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 9)])
def test_unshuffle_heads_take_pictures_too_small_to_reflect(size):
    model, _ = pair("rrdbnet x1")
    assert model(picture(model, 1, *size)).shape == (1, 3, *size)


OPS = {
    "srvgg x4": ["conv2d"] * 5,
    "espcn x3": ["conv2d_chain"],
    "fsrcnn x2 small": ["conv2d_chain"],
    "edsr x4": ["conv2d"] * (1 + 2 * 2 + 1 + 2 + 1),
    "rrdbnet x2": ["pixel_unshuffle", "conv2d", *["dense_block"] * 3, *["conv2d"] * 5],
}


@pytest.mark.parametrize("case", OPS)
def test_one_op_for_each_layer(case, monkeypatch):
    """Activations, additions, shuffles and enlargements ride in the convolutions' ops."""
    from sr_kernels import ops

    called = []
    for name in ops.__all__:
        run = getattr(ops, name)
        monkeypatch.setattr(
            ops, name, lambda *a, _name=name, _run=run, **k: (called.append(_name), _run(*a, **k))[1]
        )
    model, _ = pair(case)
    model(picture(model, 1, 96, 90))
    assert called == OPS[case]


@pytest.mark.parametrize("case", ["srvgg x2", "edsr x2", "rrdbnet x2", "espcn x2 colour", "fsrcnn x3"])
def test_gradients_are_the_plain_networks(case):
    model, reference = pair(case)
    exact = copy.deepcopy(reference).double()
    x = picture(model, 2, 6, 7)
    gradients = []
    with sr_kernels.set_precision("highest"):
        for network, input in ((model, x), (reference, x), (exact, x.double())):
            input = input.clone().requires_grad_()
            network.train()(input).square().mean().backward()
            gradients.append([input.grad, *(p.grad for p in network.parameters())])
    assert_as_close_together(*gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["srvgg x2", "edsr x2", "rrdbnet x2"])
def test_half_precision(case, dtype):
    model, reference = pair(case)
    x = picture(model, 1, 9, 8).to(dtype)
    model, reference = model.to(dtype), reference.to(dtype)
    with torch.no_grad(), sr_kernels.set_precision("highest"):
        y, eager = model(x), reference(x)
        exact = copy.deepcopy(reference).double()(x.double())
    assert y.dtype == dtype
    assert_as_close(y, eager, exact)


@pytest.mark.parametrize("case", CASES)
def test_native_kernels_run_every_op(case):
    if reasons := sr_kernels.available_backends()["cpu"]:
        pytest.skip(f"no native kernels here: {'; '.join(reasons)}")
    model, _ = pair(case)
    with torch.no_grad(), sr_kernels.use_backend("cpu"), sr_kernels.record_kernels() as kernels:
        model(picture(model, 1, 8, 8))
    assert kernels
    assert all(name.startswith("cpu/") for name in kernels)
