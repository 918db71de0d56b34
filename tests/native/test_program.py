# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Native programs: steps in their order, operands by slot, the same kernels as one call each."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from sr_kernels import ops
from sr_kernels.backends.base import ConvArgs
from tests.samples import LAYOUTS, arrange

cpu = pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")

from sr_kernels import _C  # noqa: E402
from sr_kernels.backends.cpu_program import NONE, Program, Settings, Table  # noqa: E402

CL = torch.channels_last
ISA = cpu.current_isa()


def nan(*shape, dtype=torch.float32):
    return torch.full(shape, float("nan"), dtype=dtype).contiguous(memory_format=CL)


def layer(channels=8, **changes):
    x = torch.randn(1, 5, 9, 11).contiguous(memory_format=CL)
    args = ConvArgs(x, torch.randn(channels, 5, 3, 3), torch.randn(channels), padding=(1, 1, 1, 1))
    return replace(args, **changes)


def operand(slot, x):
    return slot, (x.storage_offset() * x.dtype.itemsize)


def test_convolutions_read_what_those_before_wrote():
    a = layer()
    middle, y = nan(1, 8, 9, 11), nan(1, 4, 9, 11)
    b = ConvArgs(
        middle, torch.randn(4, 8, 1, 1), residuals=[(torch.randn(1, 4, 9, 11).to(memory_format=CL), 0.5)]
    )
    program, table = Program(), Table(ISA)
    for args, result, slots in ((a, middle, (1, 2)), (b, y, (2, 3))):
        plan = cpu.make_plan(args, result)
        table.conv2d(plan)
        extra = (0, b.residuals[0][0].data_ptr()) if args is b else NONE
        operands = [(slots[0], 0), (slots[1], 0), extra, NONE, NONE]
        program.conv2d(table.entries[-1], operands, plan.packed(args.weight, args.bias, None))
    assert len(program.names) == len(program._native) == len(table.native) == 2
    assert program.names == [cpu.make_plan(a, middle).name, cpu.make_plan(b, y).name]
    program.run(table, [0, a.input.data_ptr(), middle.data_ptr(), y.data_ptr()], 2)
    expected = ops.conv2d(a.input, a.weight, a.bias, padding=1, backend="cpu")
    assert torch.equal(middle, expected)
    assert torch.equal(y, ops.conv2d(expected, b.weight, residual=list(b.residuals), backend="cpu"))


@pytest.mark.parametrize("upsample", [1, 2, 3])
def test_slices_at_offsets(upsample):
    """Inputs and results among other channels, of which none is touched."""
    wide = torch.randn(2, 32, 9, 11).contiguous(memory_format=CL)
    settings = Settings(
        (2, 16, 9, 11), torch.float32, (16, 16, 3, 3), padding=(1,) * 4, upsample=upsample, activation="relu"
    )
    from sr_kernels.backends.cpu_program import Layers

    weight, bias = torch.randn(16, 16, 3, 3), torch.randn(16)
    found = Layers("high", "auto").find(settings)
    n, c, h, w = found.output_shape
    into = nan(n, c + 7, h, w)
    x, y = wide[:, 3:19], into[:, 4 : 4 + c]
    plan = found.plan(x.stride(), y.stride())
    program, table = Program(), Table(ISA)
    table.conv2d(plan)
    operands = [operand(1, x), operand(2, y), NONE, NONE, NONE]
    program.conv2d(table.entries[0], operands, found.packed(plan, weight, bias, None))
    program.run(table, [0, wide.data_ptr(), into.data_ptr()], 1)
    expected = ops.conv2d(x, weight, bias, padding=1, upsample=upsample, activation="relu", backend="cpu")
    assert torch.equal(y, expected)
    assert into[:, :4].isnan().all()
    assert into[:, 4 + c :].isnan().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(2, 5, 9, 11), (1, 1, 1, 1), (2, 17, 3, 37), (1, 64, 70, 67), (0, 3, 4, 5)]
)
def test_copies(dtype, layout, shape):
    x = arrange((torch.rand(shape) * 200).to(dtype), layout)
    n, c, h, w = shape
    results = [
        torch.zeros(n, c + 3, h, w, dtype=dtype).contiguous(memory_format=CL)[:, 1 : c + 1],
        torch.zeros(shape, dtype=dtype),
    ]
    for y in results:
        program, table = Program(), Table(ISA)
        table.copy(shape, x.stride(), y.stride(), dtype.itemsize)
        program.step(table.entries[0], [(1, 0), operand(2, y)])
        whole = torch.empty(0, dtype=dtype).set_(y.untyped_storage())
        program.run(table, [0, x.data_ptr(), whole.data_ptr()], 2)
        assert torch.equal(x, y)
        assert whole.double().sum() == x.double().sum()  # nothing beside y
    assert program.names == ["cpu/copy"]


@pytest.mark.parametrize("inverse", [False, True])
def test_shuffles(inverse):
    x = torch.randn(2, 12, 6, 8).contiguous(memory_format=CL)
    expected = (ops.pixel_unshuffle if inverse else ops.pixel_shuffle)(x, 2)
    y = nan(*expected.shape)
    program, table = Program(), Table(ISA)
    coarse, fine = ((y, 2), (x, 1)) if inverse else ((x, 1), (y, 2))
    table.shuffle(fine[0].shape, coarse[0].stride(), fine[0].stride(), 2, 4, inverse)
    program.step(table.entries[0], [(slot, 0) for _, slot in (coarse, fine)])
    program.run(table, [0, x.data_ptr(), y.data_ptr()], 2)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("count", [1, 2])
def test_sums(dtype, count):
    terms = [torch.randn(2, 5, 7, 9).to(dtype) for _ in range(1 + count)]
    y = torch.full_like(terms[0], float("nan"))
    program, table = Program(), Table(ISA)
    numbers = [0.5, -1.5, 2.0][: 1 + count]
    table.add(y.numel(), dtype, numbers)
    first, *others = ((0, t.data_ptr()) for t in terms)
    program.step(table.entries[0], [first, (1, 0), *others])
    program.run(table, [0, y.data_ptr()], 2)
    pairs = list(zip(terms[1:], numbers[1:], strict=True))
    assert torch.equal(y, ops.residual_add(terms[0], pairs, scale=0.5, backend="cpu"))


def test_one_program_for_several_sizes():
    """Tables of other shapes and strides, with the same entries in the same order."""
    program, weights = Program(), (torch.randn(8, 5, 3, 3), torch.randn(8))
    for shape in ((1, 5, 9, 11), (2, 5, 4, 3), (1, 5, 30, 70)):
        x = torch.randn(shape).contiguous(memory_format=CL)
        n, _, h, w = shape
        middle, y = nan(n, 8, h, w), torch.full((n, 8, h, w), float("nan"))
        plan = cpu.make_plan(ConvArgs(x, *weights, padding=(1, 1, 1, 1)), middle)
        table = Table(ISA)
        table.conv2d(plan)
        table.copy((n, 8, h, w), middle.stride(), y.stride(), 4)
        if not program.names:
            packed = plan.packed(*weights, None)
            program.conv2d(table.entries[0], [(1, 0), (2, 0), NONE, NONE, NONE], packed)
            program.step(table.entries[1], [(2, 0), (3, 0)])
            entries = list(table.entries)
        assert table.entries == entries
        program.run(table, [0, x.data_ptr(), middle.data_ptr(), y.data_ptr()], 2)
        assert torch.equal(y, ops.conv2d(x, *weights, padding=1, backend="cpu"))


def test_threads_share_a_program():
    a = layer(channels=24)
    plan = cpu.make_plan(a, nan(1, 24, 9, 11))
    program, table = Program(), Table(ISA)
    table.conv2d(plan)
    operands = [(1, 0), (2, 0), NONE, NONE, NONE]
    program.conv2d(table.entries[0], operands, plan.packed(a.weight, a.bias, None))
    inputs = [torch.randn(1, 5, 9, 11).contiguous(memory_format=CL) for _ in range(8)]
    expected = [ops.conv2d(x, a.weight, a.bias, padding=1, backend="cpu") for x in inputs]
    failed = []

    def work(i):
        for _ in range(50):
            y = nan(1, 24, 9, 11)
            program.run(table, [0, inputs[i].data_ptr(), y.data_ptr()], 2)
            if not torch.equal(y, expected[i]):
                failed.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_what_is_refused():
    program, table = _C.Program(), _C.Table(ISA.index)
    params = cpu.make_plan(layer(), nan(1, 8, 9, 11)).steps[0]
    with pytest.raises(IndexError, match="slot -1"):
        program.step(0, [(-1, 0)] * 8)
    with pytest.raises(IndexError, match="no instruction set"):
        _C.Table(99)
    with pytest.raises(IndexError, match="a chain has"):
        program.chain(0, [])
    with pytest.raises(IndexError, match="a chain has"):
        table.strips(0, 1, 1)
    wrong = cpu.make_plan(layer(), nan(1, 8, 9, 11)).steps[0]
    wrong.kernel = 999
    with pytest.raises(IndexError, match="no kernel 999"):
        table.conv2d(wrong)
    assert len(program) == len(table) == 0
    program.step(1, [(1, 0), (3, 0), *[NONE] * 6])
    with pytest.raises(IndexError, match="4 slots"):
        program.run(table, [0, 0, 0], 1)
    with pytest.raises(IndexError, match="address 0"):
        program.run(table, [1, 0, 0, 0], 1)
    table.strips(1, 1, 1)
    with pytest.raises(IndexError):  # one entry, and the second is asked for
        program.run(table, [0, 0, 0, 0], 1)
    table.strips(1, 1, 1)
    with pytest.raises(RuntimeError, match="variant"):  # no step of that sort
        program.run(table, [0, 0, 0, 0], 1)
    chain = _C.Program()
    chain.chain(0, [(1, [NONE] * 8)])
    with pytest.raises(RuntimeError, match="variant"):
        chain.run(table, [0], 1)
    table.conv2d(params)
    step = _C.Program()
    step.chain(2, [(2, [NONE] * 8)])
    with pytest.raises(RuntimeError, match="variant"):
        step.run(table, [0], 1)
