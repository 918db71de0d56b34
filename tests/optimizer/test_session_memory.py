# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Where values lie (concatenations, sums in place, arenas, chains), with the bits of the ops one by one."""

from __future__ import annotations

import pytest
import torch

import sr_kernels
from sr_kernels import ops
from tests.optimizer import graphs
from tests.optimizer.graphs import CL, Builder, check, picture, ran

pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def copies(session, module, *inputs):
    return ran(session, module, *inputs).count("cpu/copy")


# Concatenations.


def test_concatenated_results_need_no_copy():
    b = Builder()
    x = b.conv(b.input(3), 16)
    y = b.conv(b.cat(x, b.conv(x, 9), b.conv(x, 5, 1)), 7)
    session = check(b, y, picture(1, 3, 12, 13))
    assert copies(session, b.module, picture(1, 3, 12, 13)) == 0


def test_growing_concatenations_share_one_buffer():
    b = Builder()
    x = b.conv(b.input(3), 16)
    features = [x]
    for _ in range(4):
        joined = b.cat(*features) if len(features) > 1 else x
        features.append(b.conv(joined, 8, activation="relu"))
    session = check(b, b.conv(b.cat(*features), 16), picture(1, 3, 32, 33))
    assert copies(session, b.module, picture(1, 3, 32, 33)) == 0
    assert session.arena_bytes == 4 * 32 * 33 * (16 + 4 * 8)


def test_nested_concatenations():
    b = Builder()
    x = b.conv(b.input(3), 16)
    inner = b.cat(x, b.conv(x, 8))
    outer = b.cat(b.conv(inner, 4), inner, b.conv(inner, 4))
    session = check(b, b.conv(outer, 5), picture(1, 3, 8, 9))
    assert copies(session, b.module, picture(1, 3, 8, 9)) == 0


@pytest.mark.parametrize("size", [6, 90])
def test_a_part_that_lives_longer(size):
    """It is copied where the wide buffer is large."""
    b = Builder()
    x = b.conv(b.input(3), 16)
    h = b.conv(b.cat(x, b.conv(x, 32)), 16)
    h = b.conv(h, 16)
    session = check(b, b.conv(b.cat(x, h), 4, residual=b.conv(x, 4)), picture(1, 3, size, size))
    assert copies(session, b.module, picture(1, 3, size, size)) == 1


def test_cats_of_every_sort():
    b = Builder()
    x, other = b.input(3), b.input(4)
    h = b.conv(x, 8)
    twice = b.cat(h, h)
    swapped = b.cat(b.conv(twice, 8), h)
    given = b.cat(other, h, x)
    constant = b.cat(h, b.parameter(1, 5, 9, 10, buffer=True))
    single = b.cat(h)
    plain = b.cat(x, other)  # neither made nor read natively but in the output
    rows = b.call(torch.cat, [h, h], 2, channels=8)
    last = b.call(torch.cat, [h, x], dim=-3, channels=11)
    joined = b.cat(
        b.conv(swapped, 4), b.conv(given, 4), b.conv(constant, 4), b.conv(single, 4), b.conv(last, 4)
    )
    y = {"joined": joined, "plain": plain, "rows": b.conv(rows, 4), "again": (joined, h)}
    check(b, y, picture(1, 3, 9, 10), picture(1, 4, 9, 10, layout=torch.contiguous_format))


def test_concatenations_as_output_and_for_python():
    b = Builder()
    x = b.conv(b.input(3), 16)
    wide = b.cat(x, b.conv(x, 8))
    wider = b.cat(wide, b.conv(wide, 8))
    seen = b.call(torch.tanh, wide, channels=24)
    check(b, (wider, x, b.conv(seen, 5), wide), picture(2, 3, 8, 9))


@pytest.mark.parametrize("outer", [False, True])
def test_dense_blocks(outer):
    b = Builder()
    x = h = b.conv(b.input(3), 16)
    for _ in range(3):
        start = h
        h = b.dense_block(h, (8, 8))
        h = b.dense_block(h, (8, 8), scale=0.04, input_scale=0.2, residual=[(start, 1.0)] if outer else None)
    shape = 1, 3, 90, 90
    session = check(b, b.conv(h, 16, residual=x), picture(*shape))
    # A block's input that is needed after it is copied, any other is made in the block's wide buffer.
    assert copies(session, b.module, picture(*shape)) == (3 if outer else 1)


def test_a_dense_block_of_an_input():
    b = Builder()
    for layout in (CL, torch.contiguous_format):
        b = Builder()
        x = picture(1, 16, 9, 10, layout=layout)
        session = b.session(b.dense_block(b.input(16), (8, 8)), x)
        assert torch.equal(session.run(b.module, [x]), b.plain(x))


# Memory.


def test_sums_in_place():
    """x + conv(conv(x)) again and again takes two buffers: the sum lies where x did."""
    b = Builder()
    h = b.conv(b.input(3), 16)
    for _ in range(6):
        h = b.conv(b.conv(h, 16, activation="relu"), 16, residual=[(h, 1.0)], scale=0.1)
    session = check(b, b.conv(h, 3), picture(2, 3, 33, 21))
    assert session.arena_bytes <= 2 * 2 * 16 * 33 * 21 * 4 + 64


def test_sums_of_terms_in_place():
    b = Builder()
    h = b.conv(b.input(3), 16)
    for _ in range(3):
        h = b.call(ops.residual_add, b.conv(h, 16), [(h, 0.5)], scale=2.0, channels=16)
        h = b.call(ops.residual_add, h, h, channels=16)
    session = check(b, b.conv(h, 3), picture(1, 3, 32, 20))
    assert session.arena_bytes == 2 * 16 * 32 * 20 * 4


def test_inputs_are_not_written_over():
    """A layer's own input as residual, and as base."""
    b = Builder()
    h = b.conv(b.input(3), 16)
    for kwargs in ({"residual": h}, {"base": h}):
        h = b.conv(h, 16, **kwargs)
        h = b.conv(h, 16, residual=[(h, 0.5), (b.conv(h, 16), 2.0)])
    check(b, b.conv(h, 3), picture(1, 3, 32, 20))


@every_dtype
def test_sums_in_place_by_every_kind_of_kernel(dtype):
    b = Builder(dtype, "cpu")
    h = b.conv(b.input(24), 24)
    for kwargs in ({}, {"kernel": 1}, {"groups": 24}, {"kernel": 5}, {"activation": "relu"}):
        h = b.conv(b.conv(h, 24), 24, residual=[(h, 0.5)], activation_after_add=True, **kwargs)
    small = b.conv(h, 3)
    small = b.conv(h, 3, residual=[(small, 2.0)])
    big = b.conv(h, 5, upsample=3)
    big = b.conv(h, 5, upsample=3, residual=[(big, 2.0)])
    check(b, (small, b.conv(big, 4)), picture(1, 24, 37, 29, dtype=dtype))


def test_memory_is_used_again_and_given_back():
    b = Builder()
    h = b.input(3)
    for _ in range(8):
        h = b.conv(h, 16)
    x = picture(1, 3, 30, 30)
    session = check(b, h, x)
    assert session.arena_bytes == 2 * 16 * 30 * 30 * 4
    sr_kernels.empty_cache()
    assert graphs.arena.kept_bytes() == 0
    session.run(b.module, [x])
    assert graphs.arena.kept_bytes() == session.arena_bytes
    del session
    assert graphs.arena.kept_bytes() == 0


def test_too_large_arenas_are_not_kept(monkeypatch):
    b = Builder()
    x = picture(1, 3, 30, 30)
    session = b.session(b.conv(b.conv(b.input(3), 16), 3), x)
    sr_kernels.empty_cache()
    monkeypatch.setattr(graphs.arena, "KEPT_BYTES", session.arena_bytes - 1)
    session.run(b.module, [x])
    assert graphs.arena.kept_bytes() == 0
    others = []
    for _ in range(3):
        b = Builder()
        others.append((b, b.session(b.conv(b.conv(b.input(3), 16), 3), x)))
    monkeypatch.setattr(graphs.arena, "KEPT_BYTES", 2 * session.arena_bytes)
    for other, one in others:
        one.run(other.module, [x])
    assert graphs.arena.kept_bytes() == 2 * session.arena_bytes
    sr_kernels.empty_cache()


def test_memory_of_a_u_net():
    """What passes by the deeper levels lies in a buffer of its own until it is concatenated."""
    b = Builder()
    x = b.input(3)
    h, passed = b.conv(x, 16), []
    for _ in range(4):
        passed.append(h)
        h = b.conv(b.conv(h, 2 * b.channels[h], stride=2), 2 * b.channels[h])
    for skip in reversed(passed):
        h = b.conv(h, b.channels[skip], upsample=2)
        h = b.conv(b.cat(h, skip), b.channels[skip])
    given = picture(1, 3, 96, 96)
    session = check(b, b.conv(h, 3), given)
    assert session.arena_bytes <= 3.5 * (4 * 96 * 96 * 16)  # 3.875 with nothing copied
    assert 0 < copies(session, b.module, given) < 4


# Chains.


def tail(b, h):
    """As RRDBNet's."""
    for _ in range(2):
        h = b.conv(h, 16, upsample=2, activation="leaky_relu", negative_slope=0.2)
    return b.conv(b.conv(h, 16, activation="leaky_relu"), 3)


@every_dtype
@pytest.mark.parametrize("shape", [(1, 16, 17, 23), (2, 16, 40, 9)], ids=str)
def test_large_layers_run_strip_by_strip(monkeypatch, dtype, shape):
    monkeypatch.setattr("sr_kernels.optimizer.plan.chains._LARGE", 1)
    b = Builder(dtype, "cpu")
    x = picture(*shape, dtype=dtype)
    h = b.conv(b.input(16), 16)
    session = check(b, tail(b, b.cat(h, b.conv(h, 16))), x)
    assert session.arena_bytes < x.numel() * 8 * dtype.itemsize
    assert sum("chain" in name for name in ran(session, b.module, x)) == 1


def test_thin_layers_run_one_by_one():
    b = Builder(backend="cpu")
    h = b.input(1)
    for _ in range(4):
        h = b.conv(h, 12, activation="prelu")
    x = picture(1, 1, 180, 320)
    session = check(b, b.conv(h, 16, pixel_shuffle=4), x)
    assert not any("chain" in name for name in ran(session, b.module, x))


@pytest.mark.parametrize("change", ["read twice", "given", "seen", "base"])
def test_what_others_read_is_in_no_chain(monkeypatch, change):
    monkeypatch.setattr("sr_kernels.optimizer.plan.chains._LARGE", 1)
    b = Builder()
    first = b.conv(b.input(16), 16)
    h = b.conv(first, 16, base=first if change == "base" else None)
    y = b.conv(h, 16, residual=h if change == "read twice" else None)
    output = (y, h) if change == "given" else (y, b.method("sum", h)) if change == "seen" else y
    session = check(b, output, picture(1, 16, 20, 30))
    assert not any("chain" in name for name in ran(session, b.module, picture(1, 16, 20, 30)))


def test_peak_memory_of_rrdbnet():
    """At 512x512 eager holds three results of 2048x2048 at a time, two of them to the end; the session the
    wide buffers of two dense blocks and what goes around them."""
    b = Builder()
    x = b.input(3)
    first = h = b.conv(x, 64)
    for _ in range(2):
        start = h
        for i in range(3):
            last = {"scale": 0.04, "input_scale": 0.2, "residual": [(start, 1.0)]} if i == 2 else {}
            h = b.dense_block(h, (32, 32, 32, 32), **last)
    h = b.conv(h, 64, residual=first)
    for _ in range(2):
        h = b.conv(h, 64, upsample=2, activation="leaky_relu")
    b.graph.output(b.conv(b.conv(h, 64, activation="leaky_relu"), 3))
    small = picture(1, 3, 8, 8)
    with torch.no_grad():
        _, values = graphs.interpreted(b.graph, b.module, [small])
    torch.utils.deterministic.fill_uninitialized_memory = False  # memory that is never touched is none

    def grown(value):
        n, c, height, width = value.shape
        return torch.empty(n, c, 64 * height, 64 * width, memory_format=CL)

    constants = [node for node in b.graph.nodes if node.op == "get_attr"]
    large = {node: value if node in constants else grown(value) for node, value in values.items()}
    session = graphs.session_of(b.graph, large, [large[x]])
    pixels = 4 * 512 * 512  # bytes of one channel
    result = 64 * 16 * pixels
    assert session.arena_bytes <= (2 * 192 + 3 * 64) * pixels
    assert session.arena_bytes <= 2.25 * result / 3


def test_collected_while_the_lock_is_held():
    """A pool's end may come in a thread that is at work on the free arenas."""
    b = Builder()
    x = picture(1, 3, 20, 20)
    pool = b.session(b.conv(b.conv(b.input(3), 16), 3), x).form.pool
    arena = pool.take(1000)
    pool.give(arena)
    del arena
    kept = graphs.arena.kept_bytes()
    with graphs.arena._lock:
        graphs.arena._drop(id(pool))
    pool.give(pool.take(10))
    assert graphs.arena.kept_bytes() < kept
