# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Every kernel of every instruction set of this machine, by name: results, bounds, what must not matter."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch

from sr_kernels import ops, reference
from sr_kernels.backends import record_kernels
from sr_kernels.backends.base import ConvArgs
from sr_kernels.config import set_precision
from tests import samples
from tests.closeness import assert_as_close

cpu = pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")

# Sets that add kernels of bfloat16 products to those of another have theirs tested in test_bf16.py.
SETS = [isa for isa in cpu.ISAS if isa.unit == isa.name]
KERNELS = [(isa.name, kernel) for isa in SETS for kernel in isa.kernels]
NAMES = [f"{isa}-{kernel.name}" for isa, kernel in KERNELS]
every_kernel = pytest.mark.parametrize(("isa", "kernel"), KERNELS, ids=NAMES)
every_precision = pytest.mark.parametrize("precision", ["highest", "high"])


def some_kernels(wanted):
    """every_kernel, of those for which wanted(kernel) holds."""
    chosen = [(pair, name) for pair, name in zip(KERNELS, NAMES, strict=True) if wanted(pair[1])]
    return pytest.mark.parametrize(
        ("isa", "kernel"), [pair for pair, _ in chosen], ids=[name for _, name in chosen]
    )


winograd_kernels = some_kernels(lambda kernel: kernel.kind == "winograd")
other_kernels = some_kernels(lambda kernel: kernel.kind != "winograd")
every_isa = pytest.mark.parametrize("isa", [isa.name for isa in SETS])


def layer(isa, kernel, height=5, width=None, extra=1, **changes):
    """A layer for this kernel: one block of outputs and, where it has blocks, `extra` more channels."""
    lanes = next(i.lanes for i in cpu.ISAS if i.name == isa)
    width = 2 * kernel.pixels + 3 if width is None else width
    co = kernel.channels + (extra if kernel.kind != "thin" else 0)
    ci, groups = (co, co) if kernel.kind == "depthwise" else (lanes + 3, 1)
    if kernel.kind == "winograd":
        ci = max(ci, cpu._WINOGRAD_INPUTS + 3)
    normal = torch.Generator().manual_seed(kernel.index)
    x = torch.randn(1, ci, height, width, generator=normal)
    args = ConvArgs(
        x.contiguous(memory_format=torch.channels_last),
        torch.randn(co, ci // groups, 3, 3, generator=normal) / (9 * ci / groups) ** 0.5,
        torch.randn(co, generator=normal),
        padding=(1, 1, 1, 1),
        groups=groups,
        activation="prelu",
        prelu_weight=torch.rand(co, generator=normal),
    )
    return replace(args, **changes)


def eager(args, dtype=torch.float32):
    fields = {f: getattr(args, f) for f in args.__dataclass_fields__}
    return reference.conv2d(**samples.convert(fields, dtype))


def run(monkeypatch, isa, kernel, args, y=None):
    """The op by exactly this kernel, whatever the table would choose, into memory full of NaN."""
    if y is None:
        y = torch.full(args.output_shape(), float("nan")).contiguous(memory_format=torch.channels_last)
    with cpu.limit_isa(isa), record_kernels() as names, monkeypatch.context() as patch:
        patch.setattr(cpu.Isa, "kernel_for", lambda *_: kernel)
        cpu._conv_into(args, y)
    assert names == [f"cpu/{kernel.name}/{kernel.unit}"]
    return y


def assert_pooled(outcomes):
    """(ours, eager, exact) of several calls together: the errors of few elements are too few to compare."""
    assert_as_close(*(torch.cat([o.flatten() for o in part]) for part in zip(*outcomes, strict=True)))


@every_precision
@every_kernel
def test_against_float64(monkeypatch, isa, kernel, precision):
    pictures = [
        (5, None),
        (1, 1),
        (2, kernel.pixels),
        (3, kernel.pixels + 1),
        (4, kernel.pixels - 1),
        (9, 61),
    ]
    outcomes = []
    for height, width in pictures:
        args = layer(isa, kernel, height, width)
        with set_precision(precision):
            y = run(monkeypatch, isa, kernel, args)
        outcomes.append((y, eager(args), eager(args, torch.float64)))
    # No choice of kernel under "highest" takes Winograd's, see test_the_table_of_kernels.
    with set_precision("high" if kernel.kind == "winograd" else precision):
        assert_pooled(outcomes)


@winograd_kernels
@pytest.mark.parametrize(("ci", "blocks"), [(12, 1), (64, 2), (65, 3), (130, 9), (200, 1)])
def test_winograd_widths(monkeypatch, isa, kernel, ci, blocks):
    """Depths of less and more than one pass, more channel blocks than are kept at a time, a full epilogue."""
    co, pad = blocks * kernel.channels + 4, (2, 0, 1, 3)
    wide = layer(isa, kernel, height=9, width=14, padding=pad)
    outcomes = []
    for shuffle, residuals in ((1, 2), (2, 1)):
        x = torch.randn(2, ci, 9, 14).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(co, ci, 3, 3) / (9 * ci) ** 0.5
        args = replace(wide, input=x, weight=weight, bias=torch.randn(co), prelu_weight=torch.rand(co))
        args = replace(args, scale=0.5, pixel_shuffle=shuffle, activation_after_add=shuffle == 2)
        ho, wo = args.conv_size()
        args.residuals = [(torch.randn(2, co, ho, wo), 0.5 - i) for i in range(residuals)]
        if shuffle == 2:
            args.base, args.base_mode = torch.randn(2, co // 4, ho, wo), "nearest"
        y = run(monkeypatch, isa, kernel, args)
        outcomes.append((y, eager(args), eager(args, torch.float64)))
    assert_pooled(outcomes)


@winograd_kernels
def test_results_that_go_past_the_caches(monkeypatch, isa, kernel):
    args = layer(isa, kernel, height=7, width=9, extra=kernel.channels)
    kept = run(monkeypatch, isa, kernel, args)
    monkeypatch.setattr(cpu.cpu_plan, "_STREAM", 0)
    assert torch.equal(kept, run(monkeypatch, isa, kernel, args))


@every_precision
@every_isa
@pytest.mark.parametrize("data", ["normal", "positive"])
@pytest.mark.parametrize(
    ("ci", "co", "size"), [(64, 64, 3), (256, 33, 3), (512, 3, 3), (4096, 9, 1), (64, 17, 9)]
)
def test_long_sums(isa, precision, data, ci, co, size):
    """Where eager sums in blocks: the bound on the length of a chain, against its more exact layout."""
    draw = torch.randn if data == "normal" else torch.rand
    x, weight = draw(1, ci, 20, 21), draw(co, ci, size, size) / (ci * size * size) ** 0.5
    args = ConvArgs(x, weight, draw(co), padding=(size // 2,) * 4)
    with set_precision(precision), cpu.limit_isa(isa):
        assert_as_close(cpu.CpuBackend().conv2d(args), eager(args), eager(args, torch.float64))


@every_isa
def test_a_bilinear_base_is_the_same_in_a_cut_picture(isa):
    x, base = torch.randn(1, 5, 300, 7), torch.randn(1, 3, 300, 7)
    weight = torch.randn(27, 5, 1, 1)
    backend = cpu.CpuBackend()

    def run_from(row):
        args = ConvArgs(x[:, :, row:], weight, pixel_shuffle=3, base=base[:, :, row:], base_mode="bilinear")
        with cpu.limit_isa(isa):
            return backend.conv2d(args)

    whole, part = run_from(0), run_from(200)
    assert torch.equal(part[:, :, 3:], whole[:, :, 603:])


@pytest.mark.parametrize("dilation", [2**30, 2**40])
def test_a_window_beyond_all_pictures_is_refused(dilation):
    args = ConvArgs(torch.randn(1, 3, 8, 8), torch.randn(5, 3, 5, 5), dilation=(dilation, dilation))
    args.padding = (2 * dilation,) * 4
    assert any("exceeds" in reason for reason in cpu.CpuBackend().reasons("conv2d", args))


@other_kernels
@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_windows(monkeypatch, isa, kernel, size):
    args = layer(isa, kernel, height=11, width=65, extra=3)
    weight = torch.randn(*args.weight.shape[:2], size, size) / (args.weight.shape[1] * size * size) ** 0.5
    outcomes = []
    for stride, dilation in ((1, 1), (2, 1), (1, 2), (2, 3)):
        reach = dilation * (size - 1)
        each = replace(
            args,
            weight=weight,
            stride=(stride, stride),
            dilation=(dilation, dilation),
            padding=(reach // 2, reach - reach // 2, reach, 0),
        )
        outcomes.append((run(monkeypatch, isa, kernel, each), eager(each), eager(each, torch.float64)))
    assert_pooled(outcomes)


@every_kernel
def test_only_its_slice_is_written(monkeypatch, isa, kernel):
    """Input and output are channels of wider buffers: neighbours are neither read nor written."""
    args = layer(isa, kernel)
    n, ci, h, w = args.input.shape
    wide = torch.full((n, ci + 5, h, w), float("nan")).contiguous(memory_format=torch.channels_last)
    wide[:, 2 : 2 + ci] = args.input
    co = args.weight.shape[0]
    out = torch.full((n, co + 7, h, w), 12345.0).contiguous(memory_format=torch.channels_last)
    sliced = replace(args, input=wide[:, 2 : 2 + ci])
    y = run(monkeypatch, isa, kernel, sliced, out[:, 3 : 3 + co])
    assert torch.equal(y, run(monkeypatch, isa, kernel, args))
    assert (out[:, :3] == 12345.0).all()
    assert (out[:, 3 + co :] == 12345.0).all()


@every_kernel
def test_guard_bytes_around_the_output(monkeypatch, isa, kernel):
    args = layer(isa, kernel, extra=3)
    n, co, h, w = args.output_shape()
    memory = torch.full((n * co * h * w + 128,), 12345.0)
    y = memory[64:-64].view(n, h, w, co).permute(0, 3, 1, 2)
    run(monkeypatch, isa, kernel, args, y)
    assert (memory[:64] == 12345.0).all()
    assert (memory[-64:] == 12345.0).all()
    assert not y.isnan().any()


@other_kernels
def test_a_cut_picture_gives_the_same_bits(monkeypatch, isa, kernel):
    """An output pixel is the same wherever its tile begins."""
    args = layer(isa, kernel, height=12, width=3 * kernel.pixels + 5)
    whole = run(monkeypatch, isa, kernel, args)
    for left, top in ((1, 0), (5, 3), (kernel.pixels, 4)):
        part = run(monkeypatch, isa, kernel, replace(args, input=args.input[:, :, top:, left:]))
        assert torch.equal(part[:, :, 1:, 1:], whole[:, :, top + 1 :, left + 1 :])


@winograd_kernels
def test_a_cut_picture_gives_the_same_bits_on_the_grid_of_tiles(monkeypatch, isa, kernel):
    """A Winograd tile's rounding depends on all its inputs: a cut changes it up to the next tile."""
    args = layer(isa, kernel, height=16, width=29)
    whole = run(monkeypatch, isa, kernel, args)
    for left, top in ((4, 0), (8, 4)):
        part = run(monkeypatch, isa, kernel, replace(args, input=args.input[:, :, top:, left:]))
        assert torch.equal(part[:, :, 4:, 4:], whole[:, :, top + 4 :, left + 4 :])


@every_kernel
def test_every_number_of_threads_gives_the_same_bits(monkeypatch, isa, kernel):
    args = layer(isa, kernel, height=12, width=3 * kernel.pixels + 5)
    whole = run(monkeypatch, isa, kernel, args)
    assert torch.equal(whole, run(monkeypatch, isa, kernel, args))
    monkeypatch.setattr(cpu.cpu_plan, "_SERIAL_FLOPS", 0)
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            assert torch.equal(whole, run(monkeypatch, isa, kernel, args))
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("channels", "side", "kind"), [(64, 6, "direct"), (64, 7, "winograd"), (32, 6, "winograd")]
)
def test_few_pixels_of_many_channels(channels, side, kind):
    x = torch.randn(1, channels, side, side).contiguous(memory_format=torch.channels_last)
    with record_kernels() as names:
        ops.conv2d(x, torch.randn(channels, channels, 3, 3), padding=1)
    assert names[0].startswith(f"cpu/{kind}")


@winograd_kernels
def test_tiles_that_do_not_exist_take_no_time(monkeypatch, isa, kernel):
    """A product takes several tiles; what lies in the place of missing ones is not to be multiplied where it
    is denormal, which takes a hundred times as long."""
    normal = layer(isa, kernel, height=4, width=4)
    tiny = replace(normal, input=torch.full((1, normal.input.shape[1], 60, 60), 1e-41))

    def seconds(args):
        found = []
        y = torch.empty(args.output_shape()).contiguous(memory_format=torch.channels_last)
        with cpu.limit_isa(isa), monkeypatch.context() as patch:
            patch.setattr(cpu.Isa, "kernel_for", lambda *_: kernel)
            plan = cpu.make_plan(args, y)
            steps, addresses, _alive = plan.bind(args, y)
            for _ in range(20):
                start = time.perf_counter()
                cpu._C.conv2d_steps(kernel.isa, steps, addresses, 1)
                found.append(time.perf_counter() - start)
        return min(found)

    whole = replace(normal, input=torch.randn(1, normal.input.shape[1], 60, 60))
    seconds(whole)
    before = seconds(normal)
    seconds(tiny)
    assert seconds(normal) < 2 * before


def test_more_threads_than_there_are_shares_of_the_work(monkeypatch):
    isa, kernel = next((isa, kernel) for isa, kernel in KERNELS if kernel.kind == "direct")
    args = layer(isa, kernel, height=260, width=3)
    monkeypatch.setattr(cpu.cpu_plan, "_SERIAL_FLOPS", 0)
    before = torch.get_num_threads()
    outcomes = []
    for threads in (1, 100):
        torch.set_num_threads(threads)
        try:
            outcomes.append(run(monkeypatch, isa, kernel, args))
        finally:
            torch.set_num_threads(before)
    assert torch.equal(*outcomes)


@every_kernel
def test_inputs_at_any_address(monkeypatch, isa, kernel):
    args = layer(isa, kernel)
    expected = run(monkeypatch, isa, kernel, args)
    n, c, h, w = args.input.shape
    for offset in range(1, 16):
        memory = torch.empty(args.input.numel() + offset)
        x = memory[offset:].view(n, h, w, c).permute(0, 3, 1, 2).copy_(args.input)
        assert torch.equal(expected, run(monkeypatch, isa, kernel, replace(args, input=x)))


@every_isa
def test_the_table_of_kernels(isa):
    """Which kernel a layer gets, under each precision."""
    plain = {"height": 8, "width": 8}
    direct, thin, depthwise, winograd = (
        next(k for i, k in KERNELS if i == isa and k.kind == kind)
        for kind in ("direct", "thin", "depthwise", "winograd")
    )
    few = torch.randn(8, cpu._WINOGRAD_INPUTS - 1, 3, 3)
    cases = [
        (layer(isa, winograd, **plain), "winograd"),
        (layer(isa, winograd, **plain, stride=(2, 2)), "direct"),
        (layer(isa, winograd, **plain, dilation=(2, 2), padding=(2,) * 4), "direct"),
        (layer(isa, winograd, height=1, width=9), "direct"),  # three rows of each tile would be wasted
        (
            replace(layer(isa, winograd, **plain), input=torch.randn(1, few.shape[1], 8, 8), weight=few),
            "direct",
        ),
        (layer(isa, direct, **plain, weight=torch.randn(8, 32, 5, 5)), "direct"),
        (layer(isa, depthwise, **plain), "depthwise"),
        (layer(isa, thin, **plain), "thin"),
    ]
    for args, expected in cases:
        args = replace(args, bias=None, activation="none", prelu_weight=None)
        if args.weight.shape[1] != args.input.shape[1] and args.groups == 1:
            args.input = torch.randn(1, args.weight.shape[1], 8, 8)
        for precision, kind in (("high", expected), ("highest", expected.replace("winograd", "direct"))):
            y = torch.empty(args.output_shape()).contiguous(memory_format=torch.channels_last)
            with cpu.limit_isa(isa), record_kernels() as names, set_precision(precision):
                cpu._conv_into(args, y)
            [kernel] = [k for i, k in KERNELS if names == [f"cpu/{k.name}/{i}"]]
            assert kernel.kind == kind


@every_precision
@every_isa
@pytest.mark.parametrize("sample", samples.CONVS, ids=lambda s: s.name)
def test_samples(isa, sample, precision):
    args = ConvArgs(**samples.plain(sample, sample.arguments()))
    if args.input.numel() == 0:
        return
    backend = cpu.CpuBackend()
    grouped = args.groups > 1 and not args.groups == args.weight.shape[0] == args.input.shape[1]
    refused = grouped or (args.upsample > 1 and max(args.stride) > 1)
    assert bool(backend.reasons("conv2d", args)) == refused
    if refused:
        return
    outcomes = []
    for draw in range(draws_for(args.output_shape())):
        args = ConvArgs(**samples.plain(sample, sample.arguments(draw=draw)))
        with set_precision(precision), cpu.limit_isa(isa), record_kernels() as names:
            y = backend.conv2d(args)
        assert [name.split("/")[0::2] for name in names] == [["cpu", isa]]
        outcomes.append((y, eager(args), eager(args, torch.float64)))
    with set_precision(precision):
        assert_pooled(outcomes)


def draws_for(shape):
    return min(8, math.ceil(2000 / math.prod(shape)))


@every_isa
@pytest.mark.parametrize("sample", samples.DENSE, ids=lambda s: s.name)
def test_dense_blocks(isa, sample):
    from sr_kernels import ops

    arguments = sample.arguments()
    if len(arguments["residual"] or ()) > 1 or arguments["input"].numel() == 0:
        return
    with cpu.limit_isa(isa), record_kernels() as names:
        y = ops.dense_block(**arguments, backend="cpu")
    assert len(names) == len(arguments["weights"])
    assert all(name.startswith("cpu/") and name.endswith(isa) for name in names)
    plain = {**arguments, "residuals": arguments["residual"] or ()}
    del plain["residual"]
    exact = reference.dense_block(**samples.convert(plain, torch.float64))
    assert_as_close(y, reference.dense_block(**plain), exact)


@every_isa
def test_activations_over_their_whole_range(isa):
    """Each vectorised activation through a 1x1 identity layer, from denormals to overflow."""
    spread = torch.cat([torch.logspace(-40, 38, 4001), torch.linspace(0, 100, 4001)])
    x = torch.cat([spread, -spread, torch.zeros(1), -torch.zeros(1)]).view(1, 1, 1, -1)
    backend = cpu.CpuBackend()
    for activation in reference.ACTIVATIONS:
        args = ConvArgs(x, torch.ones(1, 1, 1, 1), activation=activation, negative_slope=0.2)
        if activation == "prelu":
            args.prelu_weight = torch.full((1,), 0.3)
        with cpu.limit_isa(isa):
            y = backend.conv2d(args)
        exact = eager(args, torch.float64)
        finite = exact.abs() < torch.finfo(torch.float32).max
        # Four units in the last place of the result; a sigmoid too small to be normal may be zero, times x.
        tiny = torch.finfo(torch.float32).tiny
        room = 4 * torch.finfo(torch.float32).eps * exact.abs() + tiny * x.double().abs().clamp(1, 200)
        if activation == "gelu":  # as eager's own: the tail is 0.5*x*(1 + erf), which cancels
            room = room + 4 * torch.finfo(torch.float32).eps * x.double().abs().clamp(max=6)
        assert ((y.double() - exact).abs() <= room)[finite].all(), activation


@every_isa
def test_more_than_two_to_the_31_elements_are_addressed(isa):
    """A picture whose rows lie gigabytes apart, by strides alone."""
    rows = torch.randn(1, 16, 3, 8)
    stride = 2**30
    memory = torch.empty(2 * stride + 8 * 16)  # never touched but for three rows: the system maps it lazily
    x = memory.as_strided((1, 16, 3, 8), (3 * stride, 1, stride, 16)).copy_(rows)
    args = ConvArgs(x, torch.randn(5, 16, 3, 3) / 12, padding=(1, 1, 1, 1))
    near = replace(args, input=rows.contiguous(memory_format=torch.channels_last))
    backend = cpu.CpuBackend()
    with cpu.limit_isa(isa):
        assert torch.equal(backend.conv2d(args), backend.conv2d(near))


@every_isa
def test_the_probe_counts_what_it_does(isa):
    found = next(i for i in cpu.ISAS if i.name == isa)
    one = cpu._C.probe(found.index, 1, 1)
    assert one > 0
    assert one % (2 * found.lanes) == 0
    assert cpu._C.probe(found.index, 5, 2) == 5 * one
    assert cpu._C.probe(found.index, 0, 1) == 0
