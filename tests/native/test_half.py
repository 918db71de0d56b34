# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""bfloat16 and float16 tensors by every kernel of every instruction set: float32 arithmetic, one rounding."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F

from sr_kernels import models, ops, reference
from sr_kernels.backends import kept, record_kernels, use_backend
from sr_kernels.backends.base import ConvArgs
from sr_kernels.config import set_precision
from tests import samples
from tests.closeness import assert_as_close

cpu = pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")

from tests.native.test_kernels import (  # noqa: E402
    assert_pooled,
    draws_for,
    eager,
    every_isa,
    every_kernel,
    layer,
    run,
    winograd_kernels,
)

# Those too that multiply bfloat16 values where the others widen them.
every_set = pytest.mark.parametrize("isa", [isa.name for isa in cpu.ISAS])
DTYPES = (torch.bfloat16, torch.float16)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def convert(args, dtype):
    return replace(args, **samples.convert({f.name: getattr(args, f.name) for f in fields(args)}, dtype))


def nan_filled(args):
    y = torch.full(args.output_shape(), math.nan, dtype=args.input.dtype)
    return y.contiguous(memory_format=torch.channels_last)


def outcome(monkeypatch, isa, kernel, args):
    """(ours, eager in the same dtype, float64)"""
    dtype = args.input.dtype
    y = run(monkeypatch, isa, kernel, args, nan_filled(args))
    return y, eager(args, dtype), eager(args, torch.float64)


@every_dtype
@every_kernel
def test_against_float64(monkeypatch, isa, kernel, dtype):
    """Within twice eager's error, Winograd kernels too: the one rounding at the end outweighs theirs."""
    outcomes = []
    for height, width in ((5, None), (1, 1), (3, kernel.pixels + 1), (4, kernel.pixels - 1), (9, 61)):
        args = convert(layer(isa, kernel, height, width), dtype)
        with set_precision("highest"):
            outcomes.append(outcome(monkeypatch, isa, kernel, args))
    with set_precision("highest"):
        assert_pooled(outcomes)


@every_dtype
@every_kernel
def test_the_whole_epilogue(monkeypatch, isa, kernel, dtype):
    """Two residuals in packed order and not, a base of each kind, shuffled and plain stores."""
    shuffles = (1,) if kernel.kind in ("depthwise", "thin") else (1, 2)
    for shuffle in shuffles:
        for mode in ("none", "nearest", "bilinear"):
            args = layer(isa, kernel, height=9, width=14, extra=4)
            args = replace(args, scale=0.5, pixel_shuffle=shuffle, activation_after_add=shuffle == 2)
            n, co, h, w = args.output_shape()
            full = (n, args.weight.shape[0], h // shuffle, w // shuffle)
            args.residuals = [(torch.randn(full), 0.5), (torch.randn(full), -1.5)]
            args.base_mode = mode
            args.base = torch.randn(n, co, h, w) if mode == "none" else torch.randn(n, co, 9, 14)
            outcomes = [outcome(monkeypatch, isa, kernel, convert(args, dtype))]
            assert_pooled(outcomes)


@every_dtype
@winograd_kernels
def test_depths_of_more_than_one_pass(monkeypatch, isa, kernel, dtype):
    for ci in (12, 65, 130):
        args = layer(isa, kernel, height=9, width=14)
        x, weight = torch.randn(2, ci, 9, 14), torch.randn(args.weight.shape[0], ci, 3, 3) / (9 * ci) ** 0.5
        args = convert(
            replace(args, input=x.contiguous(memory_format=torch.channels_last), weight=weight), dtype
        )
        assert_pooled([outcome(monkeypatch, isa, kernel, args)])


@every_dtype
@every_kernel
def test_only_its_slice_is_read_and_written(monkeypatch, isa, kernel, dtype):
    check_slices(monkeypatch, isa, kernel, dtype)


def check_slices(monkeypatch, isa, kernel, dtype):
    """Input and output are channels of wider tensors, NaN and a mark in the others."""
    args = convert(layer(isa, kernel), dtype)
    n, ci, h, w = args.input.shape
    wide = torch.full((n, ci + 5, h, w), math.nan, dtype=dtype).contiguous(memory_format=torch.channels_last)
    wide[:, 2 : 2 + ci] = args.input
    co = args.weight.shape[0]
    out = torch.full((n, co + 7, h, w), 123.0, dtype=dtype).contiguous(memory_format=torch.channels_last)
    y = run(monkeypatch, isa, kernel, replace(args, input=wide[:, 2 : 2 + ci]), out[:, 3 : 3 + co])
    assert torch.equal(y, run(monkeypatch, isa, kernel, args, nan_filled(args)))
    assert (out[:, :3] == 123.0).all()
    assert (out[:, 3 + co :] == 123.0).all()


@every_dtype
@every_kernel
def test_guard_bytes_around_the_output(monkeypatch, isa, kernel, dtype):
    check_guards(monkeypatch, isa, kernel, dtype)


def check_guards(monkeypatch, isa, kernel, dtype):
    """All of the output is written, and nothing beside it."""
    args = convert(layer(isa, kernel, extra=3), dtype)
    n, co, h, w = args.output_shape()
    memory = torch.full((n * co * h * w + 128,), 123.0, dtype=dtype)
    y = memory[63:-65].view(n, h, w, co).permute(0, 3, 1, 2).fill_(math.nan)
    run(monkeypatch, isa, kernel, args, y)
    assert (memory[:63] == 123.0).all()
    assert (memory[-65:] == 123.0).all()
    assert not y.isnan().any()


@every_set
@every_dtype
@pytest.mark.parametrize("sample", samples.CONVS, ids=lambda s: s.name)
def test_samples(isa, sample, dtype):
    backend = cpu.CpuBackend()
    outcomes = []
    args = ConvArgs(**samples.plain(sample, sample.arguments(dtype)))
    if args.input.numel() == 0 or backend.reasons("conv2d", args):
        return
    for draw in range(draws_for(args.output_shape())):
        args = ConvArgs(**samples.plain(sample, sample.arguments(dtype, draw)))
        with cpu.limit_isa(isa):
            y = backend.conv2d(args)
        outcomes.append((y, eager(args, dtype), eager(args, torch.float64)))
    with set_precision("highest"):
        assert_pooled(outcomes)


@every_set
@every_dtype
@pytest.mark.parametrize("sample", samples.DENSE, ids=lambda s: s.name)
def test_dense_blocks(isa, sample, dtype):
    arguments = sample.arguments(dtype)
    if len(arguments["residual"] or ()) > 1 or arguments["input"].numel() == 0:
        return
    with cpu.limit_isa(isa), record_kernels() as names:
        y = ops.dense_block(**arguments, backend="cpu")
    found = next(i for i in cpu.ISAS if i.name == isa)
    assert {name.split("/")[-1] for name in names} <= {found.unit, found.bf16}
    plain = {**arguments, "residuals": arguments["residual"] or ()}
    del plain["residual"]
    exact = reference.dense_block(**samples.convert(plain, torch.float64))
    assert_as_close(y, reference.dense_block(**plain), exact)


@every_isa
@every_dtype
def test_every_value_survives(isa, dtype):
    """All 2^16 of them, denormals, infinities and NaNs too, through a layer and through an addition."""
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    x = bits.view(dtype).view(1, 1, 256, 256)
    with cpu.limit_isa(isa):
        y = cpu.CpuBackend().conv2d(ConvArgs(x, torch.ones(1, 1, 1, 1, dtype=dtype)))
        z = ops.residual_add(x, [(torch.zeros_like(x), 1.0)], scale=0.5, backend="cpu")
    assert torch.equal(y.isnan(), x.isnan())
    assert torch.equal(y[~x.isnan()], x[~x.isnan()])
    assert torch.equal(z.isnan(), x.isnan())
    assert torch.equal(z[~x.isnan()], (x[~x.isnan()].float() * 0.5).to(dtype))


@every_isa
@every_dtype
def test_rounding_is_to_nearest_even(isa, dtype):
    """Ties, what lies just beside them, what overflows and what has no leading one, as PyTorch rounds."""
    normal = torch.Generator().manual_seed(0)
    spread = torch.logspace(-41, 38, 400).repeat_interleave(50)
    first = (spread * torch.randn(spread.shape, generator=normal)).to(dtype)
    first[:7] = torch.tensor([65504.0, -65504.0, 3.38e38, -3.38e38, 2**-14, 2**-15, 0.0]).to(dtype)
    below = torch.finfo(dtype).eps * torch.tensor([0.25, 0.5, 0.75, 1.0, 0.501, 0.499])
    second = (first.float().nan_to_num(0, 0, 0)[:, None] * below).to(dtype)
    first = first[:, None].expand_as(second).contiguous()
    exact = first.float() + second.float()
    with cpu.limit_isa(isa):
        y = ops.residual_add(first[None, None], [(second[None, None], 1.0)], scale=1.0, backend="cpu")[0, 0]
    assert torch.equal(y[~y.isnan()], exact.to(dtype)[~exact.isnan()])


@every_dtype
def test_special_values(dtype):
    x = torch.randn(1, 16, 9, 9).to(dtype).contiguous(memory_format=torch.channels_last)
    x[0, 0, 1, 1], x[0, 1, 4, 4], x[0, 2, 7, 7] = math.nan, math.inf, -math.inf
    x[0, 3, 7, 1] = torch.finfo(dtype).smallest_normal / 8
    weight = torch.randn(8, 16, 1, 1).to(dtype)
    for activation in ("none", "relu", "sigmoid", "tanh"):
        y = ops.conv2d(x, weight, activation=activation, backend="cpu")
        expected = reference.activate(F.conv2d(x.double(), weight.double()), activation)
        for mask in (torch.isnan, torch.isposinf, torch.isneginf):
            assert torch.equal(mask(y), mask(expected))


def test_float16_overflows_to_infinity():
    x = torch.full((1, 64, 5, 5), 60000.0, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(20, 64, 3, 3, dtype=torch.float16)
    weight[0, 0, 1, 1], weight[1, 0, 1, 1], weight[2, 0, 1, 1] = 1.0, 1.1, -1.1
    y = ops.conv2d(x, weight, padding=1, backend="cpu")
    assert (y[:, 1] == math.inf).all()
    assert (y[:, 2] == -math.inf).all()
    torch.testing.assert_close(y[:, 0], x[:, 0])


@every_dtype
@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("sample", samples.PICTURES, ids=lambda s: s.name)
def test_residual_add(sample, terms, dtype):
    x, *others = sample.terms(1 + terms, dtype)
    if x.numel() == 0:
        return
    pairs = [(r, 0.3 - i) for i, r in enumerate(others)]
    with record_kernels() as names:
        y = ops.residual_add(x, pairs, scale=-0.7, backend="cpu")
    assert [name.split("/")[1] for name in names] == ["residual_add"]
    exact = reference.residual_add(x.double(), samples.convert(pairs, torch.float64), scale=-0.7)
    assert_as_close(y, reference.residual_add(x, pairs, scale=-0.7), exact)


@every_dtype
@pytest.mark.parametrize("name", models.list_models())
def test_models_run_natively_from_end_to_end(name, dtype):
    torch.manual_seed(0)
    model = models.create(name, **({"num_block": 1} if name == "rrdbnet" else {}))
    x = torch.rand(1, model.in_channels, 12, 14).to(dtype).clone(memory_format=torch.channels_last)
    with torch.no_grad():
        exact = model.double()(x.double())
        with use_backend("cpu"), record_kernels() as names:
            y = model.to(dtype)(x)
    assert names
    assert all(kernel.startswith("cpu/") for kernel in names), names
    assert y.dtype == dtype
    error, size = (t.double().square().mean().sqrt() for t in (y - exact, exact))
    assert error < 10 * torch.finfo(dtype).eps * size


@every_dtype
def test_autocast_runs_natively_and_packs_weights_once(dtype):
    model = models.create("srvgg", scale=2)
    x = torch.rand(1, 3, 8, 12).clone(memory_format=torch.channels_last)
    with torch.no_grad(), use_backend("cpu"), torch.autocast("cpu", dtype):
        first = model(x)
        count = len(kept._cache)
        with record_kernels() as names:
            assert torch.equal(first, model(x))
    assert all(name.startswith("cpu/") for name in names)
    assert len(kept._cache) == count > 0


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="this CPU has no AVX512-BF16")
def test_plain_bfloat16_layers_are_left_to_avx512_bf16():
    """Where ours multiply float32 values: see test_bf16.py for the others."""
    backend = cpu.CpuBackend()
    x = torch.rand(1, 64, 16, 16, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)

    def slower(co, size, **changes):
        weight = torch.rand(co, 64, size, size, dtype=x.dtype)
        with cpu.limit_isa("avx512"):
            return bool(backend.slower("conv2d", ConvArgs(x, weight, padding=(size // 2,) * 4, **changes)))

    assert slower(64, 1)
    assert slower(64, 5)
    assert not slower(64, 3)
    assert not slower(3, 3)
    assert not slower(64, 5, pixel_shuffle=2)
    with set_precision("highest"):
        assert slower(64, 3)
