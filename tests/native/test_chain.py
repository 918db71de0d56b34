# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Chains of convolutions strip by strip: the same bits as layer by layer, whatever the strips and threads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sr_kernels import nn, ops
from sr_kernels.backends import record_kernels
from sr_kernels.backends.base import ChainArgs, ConvArgs, expanded
from sr_kernels.config import set_precision
from sr_kernels.models import FSRCNN

cpu = pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")
from sr_kernels.backends import cpu_chain  # noqa: E402  (it needs no extension, but nothing else uses it)

every_isa = pytest.mark.parametrize("isa", [isa.name for isa in cpu.ISAS])
every_precision = pytest.mark.parametrize("precision", ["highest", "high"])

# (outputs, kernel height and width, padding left, right, top, bottom, factor of a shuffle if there is one)
NETS = {
    "thin": [(12, (3, 3), (1, 1, 1, 1))] * 4,
    "fsrcnn": [
        (56, (5, 5), (2, 2, 2, 2)),
        (12, (1, 1), (0,) * 4),
        (12, (3, 3), (1,) * 4),
        (56, (1, 1), (0,) * 4),
    ],
    "uneven": [
        (17, (3, 3), (2, 0, 0, 2)),
        (5, (4, 2), (3, 3, 5, 2)),
        (20, (3, 3), (0, 2, 3, 3)),
        (3, (3, 3), (1,) * 4),
    ],
    "few outputs": [(33, (3, 3), (1,) * 4), (3, (3, 3), (1,) * 4), (16, (9, 9), (4,) * 4)],
    "no padding": [(16, (3, 3), (0,) * 4), (16, (3, 3), (0,) * 4)],
    "shuffled": [
        (16, (3, 3), (1,) * 4),
        (64, (3, 3), (1,) * 4, 2),
        (45, (3, 2), (0, 3, 2, 1), 3),
        (17, (3, 3), (1,) * 4),
        (3, (3, 3), (1,) * 4),
    ],
    "one": [(16, (3, 3), (1,) * 4)],
}
STRIPS = [(8, 16, 24), (3, 5, 7), (4, 1000, 1000), (16, 8, 1)]


def layers_of(net, height, width, ci=14, batch=2, **last):
    draw = torch.Generator().manual_seed(height * 100 + width)
    shape, layers = (batch, ci, height, width), []
    x = torch.randn(shape, generator=draw).contiguous(memory_format=torch.channels_last)
    for co, (kh, kw), padding, *shuffle in NETS[net]:
        weight = torch.randn(co, shape[1], kh, kw, generator=draw) / (shape[1] * kh * kw) ** 0.5
        layer = ConvArgs(x, weight, torch.randn(co, generator=draw), padding=padding, activation="prelu")
        slopes = torch.rand(co, generator=draw)
        layers.append(replace(layer, prelu_weight=slopes, pixel_shuffle=shuffle[0] if shuffle else 1))
        shape = layers[-1].output_shape()
        x = expanded(shape, x)
    return [*layers[:-1], replace(layers[-1], **last)]


def poisoned(args):
    y = torch.full(args.output_shape(), float("nan"), dtype=args.weight.dtype)
    return y.contiguous(memory_format=torch.channels_last)


def one_by_one(layers):
    x = layers[0].input
    for layer in layers:
        y = poisoned(layer)
        cpu._conv_into(replace(layer, input=x), y)
        x = y
    return x


def chained(layers, strips, y=None):
    y = poisoned(layers[-1]) if y is None else y
    with record_kernels() as names:
        cpu._chain_into(layers, y, cpu_chain.Strips(*strips))
    assert names[0] == f"cpu/chain/{cpu.current_isa().unit}"
    assert len(names) == 1 + len(layers)
    return y


@every_precision
@every_isa
@pytest.mark.parametrize("net", NETS)
def test_the_same_bits_as_layer_by_layer(isa, net, precision):
    sizes = [(29, 37), (5, 90), (64, 6), *([(1, 9), (7, 1)] if net != "no padding" else [])]
    with cpu.limit_isa(isa), set_precision(precision):
        for height, width in sizes:
            layers = layers_of(net, height, width)
            expected = one_by_one(layers)
            assert expected.isfinite().all()
            for strips in STRIPS:
                assert torch.equal(chained(layers, strips), expected), (height, width, strips)


@every_isa
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("net", NETS)
def test_16_bits(isa, net, dtype):
    layers = layers_of(net, 29, 37)
    for i, layer in enumerate(layers):
        tensors = (layer.input, layer.weight, layer.bias, layer.prelu_weight)
        names = ("input", "weight", "bias", "prelu_weight")
        half = {name: tensor.to(dtype) for name, tensor in zip(names, tensors, strict=True)}
        layers[i] = replace(layer, **half)
        if i:
            layers[i].input = expanded(layers[i - 1].output_shape(), half["weight"])
    with cpu.limit_isa(isa):
        expected = one_by_one(layers)
        assert expected.dtype == dtype
        for strips in STRIPS:
            assert torch.equal(chained(layers, strips), expected), strips


@every_isa
@pytest.mark.parametrize("base", ["none", "nearest", "other factor"])
def test_everything_that_the_last_layer_may_do(isa, base):
    layers = layers_of("fsrcnn", 21, 26)
    height, width = layers[-1].conv_size()
    last = {"pixel_shuffle": 2, "scale": 0.3, "residuals": [(torch.randn(2, 56, height, width), 0.5)]}
    last["residuals"].append((torch.randn(2, 56, height, width), -1.5))
    if base != "none":
        factor = 2 if base == "nearest" else 1
        last["base"] = torch.randn(2, 14, 2 * height // factor, 2 * width // factor)
        last["base_mode"] = "nearest" if base == "nearest" else "none"
    layers[-1] = replace(layers[-1], **last)
    with cpu.limit_isa(isa):
        expected = one_by_one(layers)
        assert all(torch.equal(chained(layers, strips), expected) for strips in STRIPS)


@every_isa
@pytest.mark.parametrize(("shuffle", "factor"), [(1, 3), (2, 6), (3, 2), (2, 8)])
def test_strips_begin_where_a_pixel_of_the_base_does(isa, shuffle, factor):
    height, width = 24, 48
    layers = layers_of("thin", height, width)
    small = (2, 12 * 3 // shuffle**2 // 3, height * shuffle // factor, width * shuffle // factor)
    if shuffle == 3:
        weight = torch.randn(18, 12, 3, 3)
        changes = {"weight": weight, "bias": None, "activation": "none", "prelu_weight": None}
        layers[-1], small = replace(layers[-1], **changes), (2, 2, *small[2:])
    layers[-1] = replace(layers[-1], pixel_shuffle=shuffle, base=torch.randn(small), base_mode="nearest")
    with cpu.limit_isa(isa):
        expected = one_by_one(layers)
        assert all(torch.equal(chained(layers, strips), expected) for strips in STRIPS)


@every_isa
def test_every_number_of_threads_gives_the_same_bits(isa):
    layers, before = layers_of("fsrcnn", 70, 61), torch.get_num_threads()
    with cpu.limit_isa(isa):
        expected = one_by_one(layers)
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            try:
                assert torch.equal(chained(layers, (8, 16, 24)), expected)
            finally:
                torch.set_num_threads(before)


@every_isa
def test_slices_and_guards(isa):
    """Input and output are channels of wider buffers between guards, which stay as they are."""
    layers = layers_of("uneven", 19, 33)
    n, ci, h, w = layers[0].input.shape
    wide = torch.full((n, ci + 5, h, w), float("nan")).contiguous(memory_format=torch.channels_last)
    wide[:, 2 : 2 + ci] = layers[0].input
    n, co, h, w = layers[-1].output_shape()
    memory = torch.full((n * (co + 6) * h * w + 128,), 12345.0)
    out = memory[64:-64].view(n, h, w, co + 6).permute(0, 3, 1, 2)
    with cpu.limit_isa(isa):
        expected = one_by_one(layers)
        layers[0] = replace(layers[0], input=wide[:, 2 : 2 + ci])
        assert torch.equal(chained(layers, (8, 8, 12), out[:, 2 : 2 + co]), expected)
    out[:, 2 : 2 + co] = 12345.0
    assert (memory == 12345.0).all()


def test_what_the_native_side_refuses():
    p, nowhere = cpu._C.ConvParams(), [0] * 8
    for layers, rows, told in (([], 8, "1 to 32"), ([p] * 33, 8, "1 to 32"), ([p], 0, "1 pixel or more")):
        with pytest.raises(IndexError, match=told):
            cpu._C.conv2d_chain(0, layers, [nowhere] * len(layers), rows, 8, 8, 1)
    for run in (cpu._C.conv2d_steps, lambda *a: cpu._C.conv2d_chain(*a[:-1], 8, 8, 8, 1)):
        with pytest.raises(ValueError, match="one list of addresses"):
            run(0, [p], [nowhere] * 2, 1)
        with pytest.raises(TypeError):
            run(0, [p], [nowhere[:7]], 1)
    p.kernel = 999
    for run in (cpu._C.conv2d_steps, lambda *a: cpu._C.conv2d_chain(*a[:-1], 8, 8, 8, 1)):
        with pytest.raises(IndexError, match="999"):
            run(0, [p], [nowhere], 1)


@pytest.mark.parametrize("net", [net for net in NETS if net != "one"])
@pytest.mark.parametrize("size", [(1, 1), (40, 50), (180, 320), (720, 1280), (5000, 9)])
@pytest.mark.parametrize("threads", [1, 2, 16])
def test_strips_cover_the_picture(net, size, threads):
    shape = (1, 14, *(side + 40 for side in size))
    layers = layers_of(net, 20, 20)
    for i, layer in enumerate(layers):
        layers[i] = replace(layer, input=expanded(shape, layer.weight))
        shape = layers[i].output_shape()
    strips = cpu_chain.strips(layers, threads)
    height, width = layers[-1].conv_size()
    assert strips.rows >= 4
    assert 1 <= strips.columns <= width
    assert min(32, height) <= strips.height <= height
    across, down = -(-width // strips.columns), -(-height // strips.height)
    assert across * down >= min(threads, max(height // 32, 1))  # nobody is idle, where there are rows enough


def test_the_choice():
    """Thin layers of pictures that no cache holds, and more where results would be mapped anew."""
    cases = [
        ("thin", 360, 640, True),
        ("thin", 40, 40, False),  # fits a cache
        ("fsrcnn", 270, 480, True),
        ("one", 720, 1280, False),
        ("few outputs", 270, 480, False),
        ("no padding", 270, 480, False),
        ("no padding", 720, 1280, True),
    ]
    for net, height, width, wanted in cases:
        ci = 1 if net == "fsrcnn" else 12
        layers, shape = layers_of(net, 20, 20, ci), (1, ci, height, width)
        for i, layer in enumerate(layers):
            layers[i] = replace(layer, input=expanded(shape, layer.weight))
            shape = layers[i].output_shape()
        assert (not cpu.CpuBackend().slower("conv2d_chain", ChainArgs(layers))) == wanted, net
    half = [replace(layer, input=layer.input.bfloat16()) for layer in layers_of("thin", 360, 640)]
    assert any("16-bit" in reason for reason in cpu.CpuBackend().slower("conv2d_chain", ChainArgs(half)))
    assert cpu.CpuBackend().reasons("conv2d_chain", ChainArgs(layers_of("thin", 9, 9, base_mode="bilinear")))
    double = [replace(layer, weight=layer.weight.double()) for layer in layers_of("thin", 9, 9)]
    assert cpu.CpuBackend().reasons("conv2d_chain", ChainArgs(double))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_op_takes_the_chain(layout):
    weight = torch.randn(12, 12, 3, 3) / 10
    x = torch.randn(1, 12, 200, 210).contiguous(memory_format=layout)
    layers = [{"weight": weight, "padding": 1, "activation": "relu"}] * 4
    with record_kernels() as names:
        y = ops.conv2d_chain(x, layers)
    assert names[0].startswith("cpu/chain/")
    expected = x
    for layer in layers:
        expected = ops.conv2d(expected, **layer, backend="cpu")
    assert torch.equal(y, expected)
    assert y.stride() == x.stride()
    with torch.inference_mode():
        assert torch.equal(ops.conv2d_chain(x, layers), y)
    assert ops.conv2d_chain(x[:0], layers).shape == (0, 12, 200, 210)


def test_fsrcnn_is_one_chain():
    model = FSRCNN(scale=4).eval()
    x = torch.rand(1, 1, 150, 160)
    with torch.no_grad(), record_kernels() as names:
        y = model(x)
    assert names[0].startswith("cpu/chain/")
    assert len(names) == 9
    seen = []
    handle = model.mid_part[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with torch.no_grad(), record_kernels() as names:
        assert torch.equal(model(x), y)
    assert seen == [(1, 12, 150, 160)]
    assert not any("chain" in name for name in names)
    handle.remove()
    model(x).sum().backward()  # one by one, and every parameter has its gradient
    assert all(p.grad is not None for p in model.parameters())


def test_stages_that_are_no_chain():
    conv, up = torch.nn.Conv2d(3, 4, 3, padding=1), nn.ConvTransposeAct2d(4, 3, 4, stride=2)
    x = torch.rand(1, 3, 94, 95)
    for stages in (
        [nn.FusedSequential(conv, torch.nn.Softplus())],
        [nn.FusedSequential(conv, torch.nn.PixelShuffle(2), torch.nn.Conv2d(1, 3, 1))],
        [torch.nn.ReLU(), conv],
        [conv, up],
        [torch.nn.Conv2d(3, 4, 3, stride=2), up],
        [torch.nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")],
    ):
        from sr_kernels.nn.sequential import run_chained

        expected = x
        for stage in stages:
            expected = stage(expected)
        torch.testing.assert_close(run_chained(stages, x), expected)
