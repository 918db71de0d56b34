# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Sessions give the bits of the ops called one by one, whatever Python does between them."""

from __future__ import annotations

import copy
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels import ops
from sr_kernels.config import set_precision
from tests.optimizer import graphs
from tests.optimizer.graphs import CL, Builder, assert_same, check, picture, ran
from tests.samples import arrange

pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


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
