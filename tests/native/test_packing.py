# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Packed weights are made once, and anew as soon as the tensor changes."""

from __future__ import annotations

import dataclasses
import gc

import pytest
import torch
import torch.nn.functional as F

from sr_kernels import ops
from sr_kernels.backends import kept

cpu = pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")
cpu_pack = cpu.cpu_pack


@pytest.fixture
def packs(monkeypatch):
    """How often weights were packed."""
    count = []
    pack = cpu_pack._pack
    monkeypatch.setattr(cpu_pack, "_pack", lambda *a: count.append(1) or pack(*a))
    return count


def layer(x, weight, bias=None):
    return ops.conv2d(x, weight, bias, padding=1, backend="cpu")


@pytest.mark.parametrize("isa", cpu.ISAS, ids=lambda isa: isa.name)
def test_winograd_weights_are_exact_to_one_rounding(isa):
    """Of any strides; outputs beyond the last are zero, also in memory that has held another weight."""
    g = torch.tensor(cpu_pack.FILTER_TRANSFORM, dtype=torch.float64)
    plain = torch.randn(37, 75, 3, 3)
    for kernel in (k for k in isa.kernels if k.kind == "winograd"):
        for w in (plain, plain.transpose(0, 1), plain.contiguous(memory_format=torch.channels_last)):
            co, ci = w.shape[:2]
            padded = co + -co % kernel.channels
            # for each 64 inputs [block][point][input][channel]
            parts = cpu_pack._pack(w, kernel, 1).split(64 * 36 * padded)
            packed = torch.cat(
                [
                    part.view(-1, 36, part.numel() // 36 // padded, kernel.channels).permute(0, 3, 2, 1)
                    for part in parts
                ],
                2,
            ).flatten(0, 1)
            assert packed.shape[1] == ci
            exact = (g @ w.double() @ g.T).flatten(2)
            error = (packed[:co].double() - exact).abs()
            assert (error <= 2.0**-24 * 1.001 * exact.abs() + 1e-12).all()
            assert not packed[co:].any()


def test_memory_of_packed_weights_is_lent_to_one_at_a_time():
    first, second = cpu_pack._memory(99), cpu_pack._memory(99)
    address = first.data_ptr()
    assert second.data_ptr() != address
    del first
    third = cpu_pack._memory(99)
    assert third.data_ptr() == address
    assert cpu_pack._memory(99).data_ptr() not in (address, second.data_ptr())


def test_packed_once(packs):
    x, weight = torch.randn(1, 5, 6, 7), torch.randn(9, 5, 3, 3)
    for _ in range(3):
        layer(x, weight)
    assert len(packs) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.mul_(2),
        lambda w: setattr(w, "data", torch.randn_like(w)),
        lambda w: w[0].fill_(3.0),
        lambda w: setattr(w, "data", w.data.transpose(2, 3)),
    ],
    ids=["in place", "other storage", "through a view", "other strides"],
)
def test_a_changed_weight_is_packed_again(packs, change):
    x, weight, bias = torch.randn(1, 5, 6, 7), torch.randn(9, 5, 3, 3), torch.randn(9)
    layer(x, weight, bias)
    with torch.no_grad():
        change(weight)
        bias.add_(1)
    y = layer(x, weight, bias)
    assert len(packs) == 2
    assert torch.equal(y, layer(x, weight.clone(), bias.clone()))


def test_a_weight_that_changes_at_every_step_is_kept_from_its_second_use_on(packs):
    x, weight = torch.randn(1, 16, 8, 8), torch.randn(16, 16, 3, 3)
    layer(x, weight)
    for step in range(1, 4):
        weight.mul_(0.5)
        y = layer(x, weight)
        assert len(packs) == 1 + step
        slots = [key for (owner, key) in kept._cache if owner == id(weight)]
        assert all(kept._cache[id(weight), key].value is kept._USED_ONCE for key in slots)
    for _ in range(3):
        assert torch.equal(layer(x, weight), y)
    assert len(packs) == 5


def test_a_reused_address_is_no_proof():
    """.half().float() frees the weights' memory and may be given it again, with the version unchanged."""
    x = torch.randn(1, 16, 6, 7)
    for _ in range(20):
        conv = torch.nn.Conv2d(16, 16, 3, padding=1)
        with torch.no_grad():
            layer(x, conv.weight, conv.bias)
            conv.weight.add_(torch.randn_like(conv.weight) * 1e-4)
            layer(x, conv.weight, conv.bias)
            conv.half().float()
            y = layer(x, conv.weight, conv.bias)
            again = layer(x, conv.weight.clone(), conv.bias.clone())
        assert torch.equal(y, again)


def test_another_tensor_with_the_same_id(packs, monkeypatch):
    x, weight = torch.randn(1, 5, 6, 7), torch.randn(9, 5, 3, 3)
    layer(x, weight)
    other = torch.randn(9, 5, 3, 3)
    for (_, key), entry in list(kept._cache.items()):
        if entry.reference() is weight:  # as if weight had died and other had been given its id
            stamp = (other.data_ptr(), other._version, *entry.stamp[2:])
            kept._cache[(id(other), key)] = dataclasses.replace(entry, stamp=stamp)
    assert torch.equal(layer(x, other), layer(x, other.clone()))


def test_one_weight_under_two_shuffles():
    x, weight, bias = torch.randn(1, 5, 6, 7), torch.randn(16, 5, 3, 3), torch.randn(16)
    for factor in (1, 2, 4, 2, 1):
        y = ops.conv2d(x, weight, bias, padding=1, pixel_shuffle=factor, backend="cpu")
        plain = layer(x, weight.clone(), bias.clone())
        assert torch.equal(y, F.pixel_shuffle(plain, factor))


def test_an_optimiser_step_is_noticed():
    weight = torch.nn.Parameter(torch.randn(9, 5, 3, 3))
    x = torch.randn(1, 5, 6, 7)
    optimiser = torch.optim.Adam([weight], lr=0.1)
    for _ in range(3):
        y = layer(x, weight)
        assert torch.equal(y, layer(x, weight.detach().clone()))
        optimiser.zero_grad()
        y.sum().backward()
        optimiser.step()


def test_inference_tensors_are_not_kept(packs):
    with torch.inference_mode():
        x, weight = torch.randn(1, 5, 6, 7), torch.randn(9, 5, 3, 3)
        first = layer(x, weight)
        weight.mul_(2)  # an inference tensor counts no versions
        assert torch.equal(layer(x, weight), 2 * first)


def test_the_cache_forgets_dead_tensors():
    x = torch.randn(1, 5, 6, 7)
    gc.collect()
    before = len(kept._cache)
    for _ in range(5):
        layer(x, torch.randn(9, 5, 3, 3), torch.randn(9))
    gc.collect()
    assert len(kept._cache) == before
