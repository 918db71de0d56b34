# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""How kernels run: again, on streams, in graphs, in threads, on a second device, beyond 2^31 elements."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from sr_kernels import ops, reference
from sr_kernels.backends import BackendError, record_kernels
from tests import samples
from tests.closeness import assert_as_close
from tests.gpu import cases
from tests.gpu.support import (
    assert_ran,
    assert_same,
    captured,
    compare,
    free_bytes,
    on,
    other_device,
    place,
    side_stream,
    synchronize,
)

HALF = torch.float16
LAYER = cases.LAYERS[1]  # 64 -> 64, PReLU
DENSE = samples.Dense(shape=(1, 64, 37, 53), growth=(32, 32, 32, 32), layout="channels_last")


def calls(backend, device):
    """name -> (a call of one tensor, that tensor), one for each kind of kernel; weights are new."""
    found = {}
    for sample in (LAYER, *cases.LAYERS[9:13]):  # heads, tails, shuffles
        a = place(sample.arguments(HALF), device)
        x = a.pop("input")
        found[sample.name] = (lambda x, a=a: ops.conv2d(x, **a, backend=backend)), x
    a = place(DENSE.arguments(HALF), device)
    x = a.pop("input")
    found["dense_block"] = (lambda x, a=a: ops.dense_block(x, **a, backend=backend)), x
    found["pixel_shuffle"] = (lambda x: ops.pixel_shuffle(x, 2, backend=backend)), x
    found["pixel_unshuffle"] = (lambda x: ops.pixel_unshuffle(x[:, :, :36, :52], 2, backend=backend)), x
    found["residual_add"] = (lambda x: ops.residual_add(x, [(x, 0.5)], scale=0.2, backend=backend)), x
    return found


def expected(call, x, backend):
    """call(x), which the backend ran."""
    with record_kernels() as names:
        y = call(x)
    assert_ran(names, backend)
    return y


def test_repeats_are_bitwise_equal(backend, device):
    for name, (call, x) in calls(backend, device).items():
        y = expected(call, x, backend)
        for _ in range(5):
            assert_same(call(x), y, name)


@pytest.mark.parametrize("offset", [1, 2, 4, 8])
@pytest.mark.usefixtures("poisoned")
def test_inputs_anywhere_in_memory(offset, backend, device):
    """A channel slice of a wide buffer that itself lies off every alignment. Another way of reading it may
    add in another order; the values around it, NaN, must not be seen."""
    a = place(LAYER.arguments(HALF), device)
    x = a["input"]
    n, c, h, w = x.shape
    memory = torch.empty(offset + n * h * w * (c + 8), dtype=HALF, device=device)
    wide = memory[offset:].view(n, h, w, c + 8).permute(0, 3, 1, 2)
    moved = wide[:, offset : offset + c].copy_(x)
    with record_kernels() as names:
        y = ops.conv2d(**{**a, "input": moved}, backend=backend)
        z = ops.residual_add(moved, moved, backend=backend)
    assert_ran(names, backend)
    eager, exact = (
        reference.conv2d(**samples.plain(LAYER, samples.convert(a, dtype))) for dtype in (HALF, torch.float64)
    )
    assert_as_close(y, eager, exact)
    assert_same(z, ops.residual_add(x, x, backend=backend), "residual_add")


def test_the_current_stream_is_used(backend, device):
    """The input is written by the same stream, long after the call has returned."""
    for name, (call, x) in calls(backend, device).items():
        y = expected(call, x, backend)
        late = torch.full_like(x, float("nan"))
        synchronize(device)
        with side_stream(device, busy=30_000_000):
            late.copy_(x)
            found = call(late)
        synchronize(device)
        assert_same(found, y, name)


def test_packed_weights_are_ready_for_every_stream(backend, device):
    """The first call with new weights comes from a busy stream, the next from another one at once."""
    first = calls(backend, device)
    for (call, x), (again, same) in zip(first.values(), calls(backend, device).values(), strict=True):
        y = expected(call, x, backend)
        synchronize(device)
        with side_stream(device, busy=30_000_000):
            early = again(same)
        late = again(same)
        synchronize(device)
        assert_same(early, y, "on the busy stream")
        assert_same(late, y, "on the other stream")


def test_graphs(backend, device):
    """A captured call computes anew at each replay, from what its input then holds."""
    for name, (call, x) in calls(backend, device).items():
        input = x.clone()
        replay, y = captured(device, lambda call=call, input=input: call(input))
        for scale in (1.0, -0.5, 2.0):
            input.copy_(x * scale)
            replay()
            synchronize(device)
            assert_same(y, call(x * scale), name)


def test_eight_threads(backend, device):
    found = list(calls(backend, device).values())
    serial = [expected(call, x, backend) for call, x in found]
    synchronize(device)

    def work(i):
        call, x = found[i % len(found)]
        results = [call(x) for _ in range(20)]
        synchronize(device)
        return all(torch.equal(y, serial[i % len(found)]) for y in results)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(4 * len(found))))


def test_a_second_device(backend, device):
    other = other_device(device)
    for name, (call, x) in calls(backend, device).items():
        y = expected(call, x, backend).cpu()
        call, x = calls(backend, other)[name]
        assert_same(call(x).cpu(), y, name)  # current device is the first
        with on(other):
            assert_same(call(x).cpu(), y, name)


def test_changed_weights_are_noticed(backend, device):
    a = place(LAYER.arguments(HALF), device)
    before = ops.conv2d(**a, backend=backend)
    a["weight"].mul_(-1)
    a["prelu_weight"].add_(0.5)
    after = ops.conv2d(**a, backend=backend)
    assert bool((before != after).any()), "the old weights are still used"
    again = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in a.items()}
    assert_same(after, ops.conv2d(**again, backend=backend))


@pytest.mark.parametrize("op", ["residual_add", "conv2d"])
def test_more_than_two_to_the_31_elements(op, backend, device):
    """Right, or refused, at both ends of such a tensor."""
    side = 16400 if device == "cuda" else 64
    channels, ends = 8, (slice(0, 40), slice(-40, None))
    if free_bytes(device) < (needed := 4 * 2 * channels * side * side):
        pytest.skip(f"{needed / 2**30:.0f} GiB of free memory are needed")
    x = torch.empty(1, side, side, channels, dtype=HALF, device=device).normal_().permute(0, 3, 1, 2)
    assert device != "cuda" or x.numel() > 2**31
    weight = torch.randn(channels, channels, 3, 3, dtype=HALF, device=device) / 8
    try:
        if op == "residual_add":
            y = ops.residual_add(x, x, scale=0.5, backend=backend)
        else:
            y = ops.conv2d(x, weight, padding=1, activation="relu", backend=backend)
    except BackendError as error:
        pytest.skip(f"{backend} {cases.REFUSES}more than 2^31 elements: {error}".partition(". Ask for")[0])
    for rows in ends:
        for columns in ends:
            part = x[:, :, rows, columns]
            if op == "residual_add":
                assert_as_close(y[:, :, rows, columns], *both(lambda t: t * 0.5 + t, part))
            else:
                # without the sides that are edges of the part alone
                keep = [slice(0, -1) if s.start == 0 else slice(1, None) for s in (rows, columns)]
                mine = y[:, :, rows, columns][:, :, keep[0], keep[1]]
                plain = both(
                    lambda t, keep=keep: reference.conv2d(
                        t, weight.to(t.dtype), padding=(1, 1, 1, 1), activation="relu"
                    )[:, :, keep[0], keep[1]],
                    part,
                )
                assert_as_close(mine, *plain)


def both(function, x):
    """function in x's dtype and in float64."""
    return function(x), function(x.double())


@pytest.mark.parametrize("offsets", [(0, 3), (3, 0)], ids=str)
@pytest.mark.parametrize("channels", [16, 3])
def test_one_signature_at_two_addresses(offsets, channels, backend, device):
    """What was prepared for an input that begins on 16 bytes gets one that does not, and the other way."""
    shape, count = (1, 9, 7, 16), 16 * 9 * 7
    storage = torch.randn(count + 8, device=device).to(HALF)
    weight = torch.randn(channels, 16, 3, 3, device=device).to(HALF)
    for offset in offsets:
        x = storage[offset : offset + count].view(shape).permute(0, 3, 1, 2)
        with record_kernels() as names:
            y = ops.conv2d(x, weight, padding=1, backend=backend)
        assert_ran(names, backend)
        assert_as_close(y, *both(lambda t: F.conv2d(t, weight.to(t.dtype), padding=1), x))


@pytest.mark.parametrize(("ci", "co", "stride"), [(64, 64, 1), (64, 64, 2), (3, 64, 1), (64, 3, 1)], ids=str)
def test_special_values(ci, co, stride, backend, device):
    """NaN and infinities come out where eager's do, or, where eager errs, where they are in float64."""
    if device == "cpu":
        pytest.skip("Winograd's transforms spread an infinity over a tile")
    x, weight = torch.randn(1, ci, 9, 9, device=device).to(HALF), torch.randn(co, ci, 3, 3, device=device)
    x[0, 0, 1, 1], x[0, 1, 4, 4], x[0, 2, 7, 7] = torch.nan, torch.inf, -torch.inf
    weight = weight.to(HALF)
    with record_kernels() as names:
        y = ops.conv2d(x, weight, stride=stride, padding=1, activation="relu", backend=backend)
    assert_ran(names, backend)
    eager, exact = both(lambda t: F.conv2d(t, weight.to(t.dtype), stride=stride, padding=1).relu(), x)
    for mask in (torch.isnan, torch.isposinf, torch.isneginf):
        assert bool(((mask(y) == mask(eager)) | (mask(y) == mask(exact))).all()), mask


def test_a_smaller_picture_after_a_larger_one(backend, device):
    """Nothing of the larger one is left over: plans and scratch are of the shape at hand."""
    for height, width in ((64, 90), (7, 11), (40, 3)):
        sample = samples.Conv(shape=(1, 64, height, width), channels=64, layout="channels_last")
        compare(
            backend,
            sample,
            HALF,
            device,
            lambda a: ops.conv2d(**a, backend=backend),
            lambda a, sample=sample: reference.conv2d(**samples.plain(sample, a)),
        )
