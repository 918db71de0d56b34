# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Sessions give the bits of the ops called one by one, whatever shares or follows whose memory."""

from __future__ import annotations

import copy
import operator
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels import ops, record_kernels
from sr_kernels.config import set_precision
from sr_kernels.optimizer.session import Session
from tests.closeness import assert_as_close
from tests.optimizer import graphs
from tests.optimizer.graphs import CL, Builder, assert_same, check, picture
from tests.samples import arrange

pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(autouse=True)
def _poisoned(poisoned):
    """NaN in every new tensor."""


def ran(session, module, *inputs):
    """The kernels of one call."""
    with record_kernels() as names:
        session.run(module, inputs)
    return names


@every_dtype
@pytest.mark.parametrize(
    ("backend", "shape"),
    [
        *((None, shape) for shape in ((1, 5, 9, 11), (2, 16, 13, 17), (1, 64, 20, 31))),
        *(("cpu", shape) for shape in ((2, 16, 13, 17), (1, 33, 1, 1), (1, 5, 1, 13))),
    ],
    ids=str,
)
def test_layers_in_a_row(dtype, backend, shape):
    b = Builder(dtype, backend)
    x = b.input(shape[1])
    h = b.conv(x, 24, activation="relu")
    h = b.conv(h, 17, 1, activation="prelu")
    h = b.conv(h, 17, groups=17)
    h = b.conv(h, 24, 5, activation="silu", scale=0.5)
    h = b.conv(h, 12, pixel_shuffle=2, base=b.conv(h, 3), base_mode="nearest")
    check(b, h, picture(*shape, dtype=dtype))


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_precisions(precision):
    b = Builder()
    h = b.conv(b.conv(b.input(16), 32, activation="relu"), 32)
    with set_precision(precision):
        check(b, h, picture(1, 16, 19, 21))


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "cropped", "transposed", "expanded"])
def test_layouts_of_inputs(layout):
    """Results as those of the same layout; a batch that is one sample expanded included."""
    b = Builder(backend="cpu")
    x = b.input(16)
    h = b.conv(b.conv(x, 16), 16, residual=[(x, 0.5)], base=x)
    check(b, b.conv(b.cat(h, x), 5), arrange(picture(2, 16, 9, 11), layout))


@every_dtype
@pytest.mark.parametrize("shape", [(1, 3, 40, 50), (2, 20, 9, 7)], ids=str)
def test_contiguous_inputs(dtype, shape):
    """Between native layers nothing is converted: the bits are those of channels_last, the layout its own."""
    b = Builder(dtype)
    x = b.input(shape[1])
    h = b.conv(x, 24, activation="relu")
    y = b.conv(b.cat(h, x), 5, residual=b.conv(h, 5))
    given = picture(*shape, dtype=dtype, layout=torch.contiguous_format)
    session = b.session((y, h), given)
    ours = session.run(b.module, [given])
    for a, other, recorded in zip(
        ours, b.plain(given.contiguous(memory_format=CL)), b.plain(given), strict=True
    ):
        assert a.stride() == recorded.stride()
        assert torch.equal(a, other)
    names = ran(session, b.module, given)
    assert dtype == torch.bfloat16 or not any(name.startswith("torch/") for name in names)


def test_every_op():
    b = Builder()
    x = b.input(12)
    h = b.conv(x, 16, activation="gelu")
    h = b.call(ops.pixel_shuffle, b.conv(h, 32), 2, channels=8)
    h = b.call(ops.pixel_unshuffle, h, downscale_factor=2, channels=32)
    h = b.call(ops.residual_add, h, [(b.conv(h, 32), 0.3), (h, -1.0)], scale=2.0, channels=32)
    h = b.call(ops.residual_add, h, b.conv(h, 32), channels=32)
    h = b.dense_block(h, (8, 12), residual=[(h, 0.5)])
    weight = b.parameter(32, 10, 4, 4, fan_in=32 * 16)
    h = b.call(ops.conv_transpose2d, h, weight, b.parameter(10), stride=2, padding=1, channels=10,
               activation="prelu", prelu_weight=b.parameter(10))  # fmt: skip
    layers = [{"weight": b.parameter(14, 10, 3, 3, fan_in=90), "padding": 1, "activation": "relu"},
              {"weight": b.parameter(10, 14, 3, 3, fan_in=126), "padding": 1, "residual": h}]  # fmt: skip
    h = b.call(ops.conv2d_chain, h, layers, channels=10)
    y = b.conv(h, 6, upsample=2, activation="leaky_relu", negative_slope=0.2)
    session = check(b, [y, b.conv(h, 4, upsample=3)], picture(1, 12, 9, 10))
    names = ran(session, b.module, picture(1, 12, 9, 10))
    assert all(name.startswith("cpu/") for name in names)
    assert {"cpu/pixel_shuffle", "cpu/pixel_unshuffle", "cpu/residual_add"} <= {
        n.rsplit("/", 1)[0] for n in names
    }


def test_transposed_that_needs_a_crop_is_pythons():
    b = Builder()
    h = b.conv(b.input(8), 12)
    weight = b.parameter(12, 6, 3, 3, fan_in=108)
    h = b.call(ops.conv_transpose2d, h, weight, None, stride=2, padding=1, channels=6)
    check(b, b.conv(h, 4), picture(1, 8, 7, 9))


# Concatenations.


def copies(session, module, *inputs):
    return ran(session, module, *inputs).count("cpu/copy")


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
    graphs.arena.release()
    assert graphs.arena.kept_bytes() == 0
    session.run(b.module, [x])
    assert graphs.arena.kept_bytes() == session.arena_bytes
    del session
    assert graphs.arena.kept_bytes() == 0


def test_too_large_arenas_are_not_kept(monkeypatch):
    b = Builder()
    x = picture(1, 3, 30, 30)
    session = b.session(b.conv(b.conv(b.input(3), 16), 3), x)
    graphs.arena.release()
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
    graphs.arena.release()


# Python between.


def test_views_through_python():
    """A view of a value keeps it; what is returned is nobody else's."""
    b = Builder()
    x = b.input(3)
    h = b.conv(x, 16)
    half = b.call(operator.getitem, h, (slice(None), slice(0, 8)), channels=8)
    parts = b.method("chunk", h, 2, 1)
    second = b.call(operator.getitem, parts, 1, channels=8)
    g = h
    for _ in range(4):
        g = b.conv(g, 16)
    later = b.call(operator.add, half, second, channels=8)
    cropped = b.call(operator.getitem, g, (..., slice(1, 5)), channels=16)
    y = b.conv(b.cat(later, b.conv(half, 8)), 6)
    output = [y, cropped, half, b.method("size", h, 2), x, {"g": g}]
    session = check(b, output, picture(1, 3, 8, 9))
    inputs = picture(1, 3, 8, 9), picture(1, 3, 8, 9, seed=2)
    first = session.run(b.module, inputs[:1])
    kept = copy.deepcopy(first)
    session.run(b.module, inputs[1:])
    graphs.poison()
    assert_same(first, kept)
    assert first[4] is inputs[0]


def test_views_that_were_not_foreseen():
    """A function that gives its input's memory at some calls alone."""
    calls = []

    def sometimes(x):
        calls.append(x)
        return x.clone() if len(calls) < 2 else x

    b = Builder()
    h = b.conv(b.input(3), 16)
    odd = b.call(sometimes, h, channels=16)
    g = b.conv(b.conv(h, 16), 16)
    x = picture(1, 3, 8, 9)
    session = b.session((b.conv(odd, 5, residual=b.conv(g, 5)), odd), x)
    calls.clear()
    expected = b.plain(x)
    for _ in range(2):
        ours = session.run(b.module, [x])
        graphs.poison()
        assert_same(ours, expected)


def test_shapes_are_constants():
    b = Builder()
    x = b.input(3)
    h = b.conv(x, 16)
    height = b.call(operator.getitem, b.call(getattr, h, "shape"), 2)
    twice = b.call(operator.mul, height, 2)
    up = b.call(F.interpolate, h, size=(twice, b.call(operator.floordiv, twice, 2)), channels=16)
    shuffled = b.call(
        ops.pixel_shuffle, b.conv(up, 4 * 4), b.call(operator.floordiv, twice, height), channels=4
    )
    check(b, (b.conv(shuffled, 3), twice), picture(1, 3, 6, 7))


def test_numbers_of_values_are_no_constants():
    b = Builder()
    h = b.conv(b.input(3), 16)
    gain = b.method("item", b.method("amax", h))
    twice = b.call(operator.mul, gain, 2.0)
    count = b.call(operator.add, b.call(len, h), b.call(getattr, h, "ndim"))
    scaled = b.conv(h, 8, scale=gain)
    summed = b.call(ops.residual_add, scaled, [(b.conv(h, 8), twice)], channels=8)
    check(b, (b.conv(summed, 4), count, gain), picture(1, 3, 6, 7))


class Keeper(nn.Module):
    """Keeps what it is shown, as hooks do."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def forward(self, x):
        self.kept.append(x)
        return x[:, :, 1:]


@pytest.mark.parametrize("is_view", [False, True])
def test_modules_may_keep_their_inputs(is_view):
    b = Builder()
    b.module.keeper = Keeper()
    h = b.conv(b.input(3), 16)
    if is_view:
        h = b.call(operator.getitem, h, (..., slice(0, 8)), channels=16)
    node = b.graph.call_module("keeper", (h,))
    b.channels[node] = 16
    session = check(b, b.conv(b.conv(node, 8), 8), picture(1, 3, 8, 9))
    kept = b.module.keeper.kept
    kept.clear()
    session.run(b.module, [picture(1, 3, 8, 9)])
    before = kept[0].clone()
    session.run(b.module, [picture(1, 3, 8, 9, seed=3)])
    graphs.poison()
    assert torch.equal(kept[0], before)


def test_a_graph_without_native_nodes():
    b = Builder()
    x = b.input(3)
    check(b, (b.call(torch.tanh, x), x, 3), picture(1, 3, 4, 5))


def test_empty_batches():
    b = Builder()
    h = b.conv(b.input(3), 16)
    check(b, b.conv(b.cat(h, b.conv(h, 8)), 12, pixel_shuffle=2), picture(0, 3, 4, 5))


# Constants.


def folded(b, x):
    """A convolution whose weight is computed from parameters."""
    weight, gain = b.parameter(16, 3, 3, 3, fan_in=27), b.parameter(16)
    shaped = b.method("view", gain, -1, 1, 1, 1)
    product = b.call(operator.mul, weight, shaped)
    return b.call(ops.conv2d, x, product, gain, padding=1, channels=16)


def test_changed_constants():
    b = Builder()
    h = folded(b, b.input(3))
    y = b.conv(b.cat(h, b.conv(h, 16, activation="prelu")), 5)
    x = picture(1, 3, 9, 10)
    session = b.session((y, h), x)
    parameters = [name for name, _ in b.module.named_parameters()]
    before = session.run(b.module, [x])
    for name in parameters:
        for change in ("in place", "replaced", "data"):
            old = getattr(b.module, name)
            with torch.no_grad():
                if change == "in place":
                    old.mul_(1.5)
                elif change == "replaced":
                    setattr(b.module, name, nn.Parameter(old * 0.5))
                else:
                    old.data = old.detach() * 1.25
            after = session.run(b.module, [x])
            assert_same(after, b.plain(x))
            assert not torch.equal(after[0], before[0]), (name, change)
            before = after


def test_replaced_modules_and_copies():
    b = Builder()
    b.module.layer = nn.Conv2d(3, 16, 3)
    x = b.input(3)
    weight, bias = b.graph.get_attr("layer.weight"), b.graph.get_attr("layer.bias")
    h = b.call(ops.conv2d, x, weight, bias, padding=1, channels=16)
    given = picture(1, 3, 9, 10)
    session = b.session(b.conv(h, 4), given)
    first = session.run(b.module, [given])
    other = copy.deepcopy(b.module)
    b.module.layer = nn.Conv2d(3, 16, 3)
    second = session.run(b.module, [given])
    assert_same(second, b.plain(given))
    assert not torch.equal(first, second)
    assert_same(session.run(other, [given]), first)
    b.module.layer = nn.Conv2d(3, 16, 5)
    with pytest.raises(ValueError, match="plan it again"):
        session.run(b.module, [given])


def test_parametrised_and_inference_tensors_are_read_anew():
    b = Builder()
    b.module.layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 16, 3))
    with torch.inference_mode():
        b.module.layer.register_buffer("shift", torch.randn(16))
    x = b.input(3)
    weight, bias = b.graph.get_attr("layer.weight"), b.graph.get_attr("layer.shift")
    given = picture(1, 3, 9, 10)
    session = b.session(b.conv(b.call(ops.conv2d, x, weight, bias, channels=16), 4), given)
    before = session.run(b.module, [given])
    with torch.inference_mode():
        b.module.layer.shift.mul_(2)
    after = session.run(b.module, [given])
    assert_same(after, b.plain(given))
    assert not torch.equal(before, after)
    with torch.no_grad():
        b.module.layer.parametrizations.weight.original0.mul_(3)
    assert_same(session.run(b.module, [given]), b.plain(given))


def test_constants_of_shapes():
    """Weights cut, and tensors made, by numbers that follow from shapes."""
    b = Builder()
    h = b.conv(b.input(3), 16)
    height = b.method("size", h, 2)
    weight = b.call(operator.getitem, b.parameter(40, 16, 3, 3), slice(0, height))
    rows = b.call(torch.arange, height, dtype=torch.float32)
    ramp = b.method("view", rows, 1, 1, height, 1)
    wide = b.method("expand", ramp, 1, 2, height, 9, channels=2)
    y = b.call(ops.conv2d, b.cat(h, wide), b.parameter(4, 18, 1, 1), channels=4)
    x = picture(1, 3, 8, 9)
    session = check(b, (y, b.call(ops.conv2d, h, weight, padding=1), rows), x)
    first = session.run(b.module, [x])[2]
    first.zero_()
    assert_same(session.run(b.module, [x]), b.plain(x))


def test_random_numbers_are_no_constants():
    b = Builder()
    h = b.conv(b.input(3), 16)
    noise = b.call(torch.rand_like, b.parameter(1, 16, 8, 9), channels=16)
    x = picture(1, 3, 8, 9)
    session = b.session((b.conv(b.cat(h, noise), 4), b.call(torch.mul, b.parameter(4), 2.0)), x)
    first, second = session.run(b.module, [x]), session.run(b.module, [x])
    assert not torch.equal(first[0], second[0])
    first[1].zero_()
    assert_same(session.run(b.module, [x])[1], second[1])


def test_inputs_of_another_shape_are_refused():
    b = Builder()
    session = b.session(b.conv(b.input(3), 4), picture(1, 3, 8, 9))
    with pytest.raises(ValueError, match="planned for"):
        session.run(b.module, [picture(1, 3, 9, 9)])


def test_inputs_of_another_layout():
    b = Builder()
    x = picture(1, 3, 8, 9)
    session = b.session(b.conv(b.input(3), 4), x)
    assert_same(session.run(b.module, [x.contiguous()]), b.plain(x))


# Threads and modes.


def test_many_threads_at_once():
    b = Builder()
    x = b.input(3)
    h = b.conv(x, 16)
    h = b.call(F.interpolate, b.dense_block(h, (8, 8)), scale_factor=2, channels=16)
    session_inputs = [picture(1, 3, 20, 21, seed=i) for i in range(8)]
    session = b.session(b.conv(h, 5, residual=b.conv(h, 5)), session_inputs[0])
    expected = [b.plain(x) for x in session_inputs]
    failures = []

    def work(i):
        try:
            results = [session.run(b.module, [session_inputs[i]]) for _ in range(20)]
            failures.extend(i for y in results if not torch.equal(y, expected[i]))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert graphs.arena.kept_bytes() >= session.arena_bytes


@pytest.mark.parametrize("first", [True, False])
def test_inference_mode(first):
    """A session that was first run under inference mode serves all modes, and the other way round."""
    b = Builder()
    h = b.conv(b.input(3), 16)
    x = picture(1, 3, 9, 10)
    session = b.session(b.conv(b.call(torch.tanh, h, channels=16), 4), x)
    expected = b.plain(x)
    for mode in (first, not first):
        with torch.inference_mode(mode):
            y = session.run(b.module, [x])
        assert_same(y, expected)
        assert y.is_inference() == mode
        assert not y.requires_grad


def test_more_exact_than_it_must_be():
    """Beside float64, as eager is."""
    b = Builder()
    x = b.input(16)
    h = b.conv(x, 32, activation="relu")
    y = b.conv(b.cat(h, b.conv(h, 16)), 16, residual=x)
    given = picture(1, 16, 33, 35)
    session = b.session(y, given)
    ours = session.run(b.module, [given])

    def plain(dtype):
        p = [value.to(dtype) for value in b.module.parameters()]
        t = given.to(dtype)
        h = F.relu(F.conv2d(t, p[0], p[1], padding=1))
        return F.conv2d(torch.cat([h, F.conv2d(h, p[2], p[3], padding=1)], 1), p[4], p[5], padding=1) + t

    with torch.no_grad():
        assert_as_close(ours, plain(torch.float32), plain(torch.float64))


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
    monkeypatch.setattr("sr_kernels.optimizer.chains._LARGE", 1)
    b = Builder(dtype, "cpu")
    x = picture(*shape, dtype=dtype)
    h = b.conv(b.input(16), 16)
    session = check(b, tail(b, b.cat(h, b.conv(h, 16))), x)
    assert session.arena_bytes < x.numel() * 8 * dtype.itemsize
    assert sum("chain" in name for name in ran(session, b.module, x)) == 1


def test_thin_layers_run_strip_by_strip():
    b = Builder(backend="cpu")
    h = b.input(1)
    for _ in range(4):
        h = b.conv(h, 12, activation="prelu")
    x = picture(1, 1, 180, 320)
    session = check(b, b.conv(h, 16, pixel_shuffle=4), x)
    assert sum("chain" in name for name in ran(session, b.module, x)) == 1
    assert session.arena_bytes == 0


@pytest.mark.parametrize("change", ["read twice", "given", "seen", "base"])
def test_what_others_read_is_in_no_chain(monkeypatch, change):
    monkeypatch.setattr("sr_kernels.optimizer.chains._LARGE", 1)
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
    session = Session(b.graph, b.module, large, [large[x]])
    pixels = 4 * 512 * 512  # bytes of one channel
    result = 64 * 16 * pixels
    assert session.arena_bytes <= (2 * 192 + 3 * 64) * pixels
    assert session.arena_bytes <= 2.25 * result / 3
