# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Kernels of bfloat16 products (AVX512-BF16, AMX) by name: bfloat16 tensors, float32 ones under "medium"."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sr_kernels import models, ops, reference
from sr_kernels.backends import record_kernels, use_backend
from sr_kernels.backends.base import ConvArgs
from sr_kernels.config import set_precision
from tests import samples

cpu = pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")

from tests.native.test_half import check_guards, check_slices, convert, nan_filled, outcome  # noqa: E402
from tests.native.test_kernels import assert_pooled, eager, layer, run  # noqa: E402

KERNELS = [(i.name, k) for i in cpu.ISAS for k in i.kernels if k.kind == "bf16" and k.unit == i.name]
if not KERNELS:
    pytest.skip("this CPU has neither AVX512-BF16 nor AMX", allow_module_level=True)
every_kernel = pytest.mark.parametrize(
    ("isa", "kernel"), KERNELS, ids=[f"{isa}-{kernel.name}" for isa, kernel in KERNELS]
)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
UNITS = sorted({kernel.unit for _, kernel in KERNELS})
every_unit = pytest.mark.parametrize("unit", UNITS)


def representable(args):
    """args with float32 values that bfloat16 holds, in input and weights: no product is rounded."""
    return replace(
        args,
        input=args.input.bfloat16().float(),
        weight=args.weight.bfloat16().float(),
    )


def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def full_epilogue(kernel, ci, shuffle, residuals, size=3):
    """A batch of two with ragged channels, sides of four paddings, residuals and a base."""
    co = 2 * kernel.channels + 4
    args = ConvArgs(
        channels_last(2, ci, 9, 21),
        torch.randn(co, ci, size, size) / (size * size * ci) ** 0.5,
        torch.randn(co),
        padding=(2, 0, 1, 3),
        activation="prelu",
        prelu_weight=torch.rand(co),
        scale=0.5,
        activation_after_add=shuffle == 2,
        pixel_shuffle=shuffle,
    )
    ho, wo = args.conv_size()
    args.residuals = [(channels_last(2, co, ho, wo), 0.5 - i) for i in range(residuals)]
    if shuffle == 2:
        args.base, args.base_mode = channels_last(2, co // 4, ho, wo), "nearest"
    return args


@every_kernel
def test_bfloat16_tensors_against_float64(monkeypatch, isa, kernel):
    """Within twice eager's error: sums are rounded once, at the end."""
    pictures = (5, None), (1, 1), (2, kernel.pixels), (3, kernel.pixels + 1), (4, kernel.pixels - 1), (9, 131)
    outcomes = [
        outcome(monkeypatch, isa, kernel, convert(layer(isa, kernel, *picture), torch.bfloat16))
        for picture in pictures
    ]
    with set_precision("highest"):
        assert_pooled(outcomes)


@every_kernel
@pytest.mark.parametrize("ci", [16, 33, 64, 130])
def test_depths_and_full_epilogues(monkeypatch, isa, kernel, ci):
    for shuffle, residuals in ((1, 2), (2, 1)):
        args = full_epilogue(kernel, ci, shuffle, residuals)
        half = [outcome(monkeypatch, isa, kernel, convert(args, torch.bfloat16))]
        with set_precision("highest"):
            assert_pooled(half)
        # What is not rounded is summed as exactly as eager sums it.
        args = representable(args)
        assert_pooled([(run(monkeypatch, isa, kernel, args), eager(args), eager(args, torch.float64))])


@every_kernel
@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_windows(monkeypatch, isa, kernel, size):
    outcomes = []
    for stride, dilation in ((1, 1), (2, 1), (1, 2), (2, 2)):
        args = layer(isa, kernel, height=12, width=67, extra=3)
        shape = (*args.weight.shape[:2], size, size)
        reach = dilation * (size - 1)
        args = replace(
            args,
            weight=torch.randn(shape) / math.prod(shape[1:]) ** 0.5,
            stride=(stride, stride),
            dilation=(dilation, dilation),
            padding=(reach // 2, reach - reach // 2, reach, 0),
        )
        args = representable(args)
        outcomes.append((run(monkeypatch, isa, kernel, args), eager(args), eager(args, torch.float64)))
    assert_pooled(outcomes)


@every_kernel
def test_float32_tensors_are_rounded_once(monkeypatch, isa, kernel):
    """Not further off than eager's bfloat16, which rounds its result too; the same as rounded by hand."""
    args = layer(isa, kernel, height=9, width=131)
    y, exact = run(monkeypatch, isa, kernel, args), eager(args, torch.float64)
    theirs = eager(convert(args, torch.bfloat16), torch.bfloat16)
    for measure in (torch.max, lambda t: t.square().mean().sqrt()):
        assert measure((y - exact).abs()) <= 1.1 * measure((theirs.double() - exact).abs())
    assert (y - exact).abs().max() > 1e-4  # it did round
    assert torch.equal(y, run(monkeypatch, isa, kernel, representable(args)))


@every_dtype
@every_kernel
def test_only_its_slice_is_read_and_written(monkeypatch, isa, kernel, dtype):
    check_slices(monkeypatch, isa, kernel, dtype)


@every_dtype
@every_kernel
def test_guard_values_around_the_output(monkeypatch, isa, kernel, dtype):
    check_guards(monkeypatch, isa, kernel, dtype)


@every_dtype
@every_kernel
def test_cuts_threads_and_addresses_leave_the_bits(monkeypatch, isa, kernel, dtype):
    args = convert(layer(isa, kernel, height=40, width=150), dtype)
    whole = run(monkeypatch, isa, kernel, args, nan_filled(args))
    for left, top in ((1, 0), (5, 3), (kernel.pixels, 4)):
        part = replace(args, input=args.input[:, :, top:, left:])
        y = run(monkeypatch, isa, kernel, part, nan_filled(part))
        assert torch.equal(y[:, :, 1:, 1:], whole[:, :, top + 1 :, left + 1 :])
    monkeypatch.setattr(cpu.cpu_plan, "_SERIAL_FLOPS", 0)
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            assert torch.equal(whole, run(monkeypatch, isa, kernel, args, nan_filled(args)))
        finally:
            torch.set_num_threads(before)
    n, c, h, w = args.input.shape
    for offset in (1, 3, 8):
        memory = torch.empty(args.input.numel() + offset, dtype=dtype)
        x = memory[offset:].view(n, h, w, c).permute(0, 3, 1, 2).copy_(args.input)
        y = run(monkeypatch, isa, kernel, replace(args, input=x), nan_filled(args))
        assert torch.equal(whole, y)


@every_kernel
@pytest.mark.parametrize("shuffle", [1, 2])
def test_results_that_go_past_the_caches(monkeypatch, isa, kernel, shuffle):
    args = layer(isa, kernel, height=7, width=40, extra=64 - kernel.channels % 64, pixel_shuffle=shuffle)
    kept = run(monkeypatch, isa, kernel, args)
    monkeypatch.setattr(cpu.cpu_plan, "_STREAM", 0)
    assert torch.equal(kept, run(monkeypatch, isa, kernel, args))


@every_kernel
def test_special_values_stay_in_their_windows(monkeypatch, isa, kernel):
    for value in (math.nan, math.inf, -math.inf):
        args = layer(isa, kernel, height=9, width=40)
        args.input[0, 0, 4, 20] = value
        y, exact = run(monkeypatch, isa, kernel, args), eager(args, torch.float64)
        for mask in (torch.isnan, torch.isposinf, torch.isneginf):
            assert torch.equal(mask(y), mask(exact))


@every_unit
def test_what_they_are_chosen_for(monkeypatch, unit):
    """bfloat16 tensors at every precision, float32 ones under "medium"; vectors leave 3x3 to Winograd's."""
    isa = next(i for i in cpu.ISAS if i.name == unit)
    monkeypatch.setattr(isa, "fast_bf16", True)

    def kind(precision, dtype, ci=64, co=64, size=5, **changes):
        args = ConvArgs(
            channels_last(1, ci, 12, 20).to(dtype),
            torch.randn(co, ci, size, size).to(dtype),
            padding=(size // 2,) * 4,
            **changes,
        )
        with set_precision(precision), cpu.limit_isa(unit), record_kernels() as names:
            # PyTorch's own tiles are faster for a layer without anything around it.
            left = unit == "amx" and dtype == torch.bfloat16 and ci >= 16
            assert bool(cpu.CpuBackend().slower("conv2d", args)) == left
            cpu.CpuBackend().conv2d(args)
        [name] = names
        return "bf16" if name.split("/")[-1] == unit else name.split("/")[1].split("_")[0]

    for precision in ("highest", "high", "medium"):
        assert kind(precision, torch.bfloat16) == "bf16"
        assert kind(precision, torch.float16) == "direct"
        assert kind(precision, torch.float32) == ("bf16" if precision == "medium" else "direct")
    winograds = "bf16" if unit == "amx" else "winograd4"
    for dtype, precision in ((torch.bfloat16, "high"), (torch.float32, "medium")):
        assert kind(precision, dtype, size=3) == winograds
        assert kind(precision, dtype, size=1) == "bf16"
        assert kind(precision, dtype, size=3, stride=(2, 2)) == "bf16"
    assert kind("medium", torch.float32, ci=8) == "direct"
    shuffled = ConvArgs(torch.randn(1, 64, 8, 8).bfloat16(), torch.randn(8, 64, 3, 3).bfloat16())
    with cpu.limit_isa(unit):
        assert not cpu.CpuBackend().slower("conv2d", replace(shuffled, pixel_shuffle=2))
    assert kind("medium", torch.float32, co=3) == ("bf16" if unit == "amx" else "thin")
    monkeypatch.setattr(isa, "fast_bf16", False)
    assert kind("medium", torch.float32) == "direct"


@every_unit
@pytest.mark.parametrize("name", models.list_models())
def test_models_under_medium(monkeypatch, unit, name):
    """Whole networks, dense blocks and chains too: as exact as eager's bfloat16."""
    isa = next(i for i in cpu.ISAS if i.name == unit)
    monkeypatch.setattr(isa, "fast_bf16", True)
    torch.manual_seed(0)
    model = models.create(name, **({"num_block": 1} if name == "rrdbnet" else {}))
    x = torch.rand(1, model.in_channels, 12, 14).clone(memory_format=torch.channels_last)
    with torch.no_grad():
        with set_precision("medium"), cpu.limit_isa(unit), use_backend("cpu"), record_kernels() as names:
            y = model(x)
        with use_backend("torch"):
            theirs = model.bfloat16()(x.bfloat16()).double()
            exact = model.double()(x.double())
    assert all(kernel.startswith("cpu/") for kernel in names), names
    if unit == "amx":
        assert any(kernel.endswith("/amx") for kernel in names) or "cpu/chain/avx512" in names
    error, eagers = ((t - exact).square().mean().sqrt() for t in (y.double(), theirs))
    assert error <= 2 * eagers


@every_unit
@pytest.mark.parametrize("sample", samples.DENSE, ids=lambda s: s.name)
def test_dense_blocks_under_medium(monkeypatch, unit, sample):
    isa = next(i for i in cpu.ISAS if i.name == unit)
    monkeypatch.setattr(isa, "fast_bf16", True)
    arguments = sample.arguments()
    if len(arguments["residual"] or ()) > 1 or arguments["input"].numel() == 0:
        return
    with set_precision("medium"), cpu.limit_isa(unit):
        y = ops.dense_block(**arguments, backend="cpu")
    plain = {**arguments, "residuals": arguments["residual"] or ()}
    del plain["residual"]
    exact = reference.dense_block(**samples.convert(plain, torch.float64))
    theirs = reference.dense_block(**samples.convert(plain, torch.bfloat16))
    error, eagers = ((t.double() - exact).square().mean().sqrt() for t in (y, theirs))
    assert error <= 2 * eagers
