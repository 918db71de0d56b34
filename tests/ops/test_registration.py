# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What torch.library, torch.compile and torch.export ask of every op."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch._dynamo.testing

from sr_kernels import ops, reference
from sr_kernels.backends import record_kernels, use_backend
from tests import samples
from tests.closeness import assert_as_close

OPS = torch.ops.sr_kernels


def by_name(sample):
    return sample.name


def leaves(arguments):
    """The arguments with every floating tensor a leaf that wants its gradient, layout kept."""

    def walk(value):
        if isinstance(value, torch.Tensor):
            return value.detach().requires_grad_() if value.is_floating_point() else value
        return type(value)(walk(v) for v in value) if isinstance(value, (list, tuple)) else value

    return {k: walk(v) for k, v in arguments.items()}


def opcheck(op, arguments):
    torch.library.opcheck(op, (), leaves(arguments))


@pytest.mark.parametrize("sample", samples.FEATURES, ids=by_name)
def test_opcheck_conv2d(sample):
    opcheck(OPS.conv2d.default, samples.flat(sample, sample.arguments()))


# opcheck traces every convolution of the block forward and backward: the short blocks show the same
SHORT = [replace(s, growth=s.growth[:1], biases=s.biases[-2:]) for s in samples.DENSE]


@pytest.mark.parametrize("sample", SHORT, ids=by_name)
def test_opcheck_dense_block(sample):
    arguments = sample.arguments()
    for i, (residual, weight) in enumerate(arguments.pop("residual") or [], start=1):
        arguments[f"residual{i}"], arguments[f"residual{i}_weight"] = residual, weight
    opcheck(OPS.dense_block.default, arguments)


@pytest.mark.parametrize("sample", [p for p in samples.PICTURES if p.offset in (0, 1)], ids=by_name)
def test_opcheck_pointwise(sample):
    opcheck(OPS.pixel_shuffle.default, {"input": sample.shuffled(), "upscale_factor": sample.factor})
    opcheck(OPS.pixel_unshuffle.default, {"input": sample.unshuffled(), "downscale_factor": sample.factor})
    x, first, second = sample.terms(3)
    opcheck(OPS.residual_add.default, {"input": x, "residual1": first, "residual2": second, "scale": 0.5})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16], ids=str)
@pytest.mark.parametrize(("shape", "layout"), samples.IMAGES, ids=str)
def test_opcheck_images(shape, layout, dtype):
    image = samples.image(shape, layout, dtype)
    opcheck(OPS.image_to_float.default, {"image": image})
    opcheck(OPS.float_to_image.default, {"input": ops.image_to_float(image), "dtype": dtype})


def compiled(function, dynamic, backend="aot_eager"):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=dynamic, backend=backend)


def same(a, b):
    assert a.shape == b.shape
    assert a.stride() == b.stride()
    assert torch.equal(a, b)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("sample", samples.FEATURES, ids=by_name)
def test_compile_conv2d(sample, dynamic):
    arguments = sample.arguments()
    function = compiled(ops.conv2d, dynamic)
    with record_kernels() as names:
        y = function(**arguments)
    assert names
    same(y, ops.conv2d(**arguments))
    arguments = leaves(arguments)
    tensors = samples.tensors_of(arguments)
    mine = torch.autograd.grad(function(**arguments).square().sum(), tensors)
    for a, b in zip(mine, torch.autograd.grad(ops.conv2d(**arguments).square().sum(), tensors), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile_the_rest(dynamic):
    for sample in samples.DENSE[:2]:
        arguments = sample.arguments()
        same(compiled(ops.dense_block, dynamic)(**arguments), ops.dense_block(**arguments))
    for sample in samples.TRANSPOSED[4:6]:
        arguments = sample.arguments()
        same(compiled(ops.conv_transpose2d, dynamic)(**arguments), ops.conv_transpose2d(**arguments))
    x = torch.randn(2, 8, 4, 6)
    for function in (
        lambda x: ops.pixel_shuffle(x, 2),
        lambda x: ops.pixel_unshuffle(x, 2),
        lambda x: ops.residual_add(x, [(x, 0.5), (x + 1, 2.0)], scale=0.1),
        lambda x: ops.image_to_float(ops.float_to_image(x[:1, :3])),
    ):
        same(compiled(function, dynamic)(x), function(x))


def test_dynamic_compiles_once():
    weight = torch.randn(8, 4, 3, 3)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def function(x, base):
        return ops.conv2d(x, weight, padding=1, pixel_shuffle=2, base=base, base_mode="nearest")

    fast = compiled(function, True, counter)
    compilations = []
    for h, w in ((5, 7), (8, 6), (31, 12)):
        x, base = torch.randn(2, 4, h, w), torch.randn(2, 2, h, w)
        same(fast(x, base), function(x, base))
        compilations.append(counter.frame_count)
    assert compilations == compilations[:1] * 3, "another size compiled again"


def network(x, weight, tail, slopes):
    y = ops.conv2d(x.contiguous(memory_format=torch.channels_last), weight, padding=1, activation="relu")
    y = torch.sin(y)
    end = {
        "activation": "prelu",
        "prelu_weight": slopes,
        "pixel_shuffle": 2,
        "base": x,
        "base_mode": "nearest",
    }
    return ops.conv2d(y, tail, padding=1, **end)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_inductor(dynamic):
    """Between our ops inductor makes its own kernels; layouts must survive, forward and backward."""
    x = torch.randn(1, 3, 10, 13)
    parameters = [torch.randn(8, 3, 3, 3) / 5, torch.randn(12, 8, 3, 3) / 8, torch.rand(12)]
    function = compiled(network, dynamic, "inductor")
    y = function(x, *parameters)
    torch.testing.assert_close(y, network(x, *parameters))
    assert y.stride() == network(x, *parameters).stride()
    for p in parameters:
        p.requires_grad_()
    mine = torch.autograd.grad(function(x, *parameters).square().sum(), parameters)
    eager = torch.autograd.grad(network(x, *parameters).square().sum(), parameters)
    for a, b in zip(mine, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


class Everything(torch.nn.Module):
    """One of each op."""

    def __init__(self):
        super().__init__()
        normal = torch.nn.ParameterList
        self.head = torch.nn.Parameter(torch.randn(8, 12, 3, 3) / 10)
        self.dense = normal([torch.randn(4, 8, 3, 3) / 9, torch.randn(8, 12, 3, 3) / 10])
        self.up = torch.nn.Parameter(torch.randn(8, 12, 4, 4) / 11)

    def forward(self, image):
        x = ops.image_to_float(image)
        y = ops.conv2d(ops.pixel_unshuffle(x, 2), self.head, padding=1, activation="silu")
        y = ops.residual_add(ops.dense_block(y, list(self.dense), [None, None]), y, scale=0.5)
        y = ops.conv_transpose2d(y, self.up, stride=2, padding=1)
        return ops.float_to_image(ops.pixel_shuffle(y, 2))


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_export(strict, tmp_path):
    model = Everything().eval()
    image = torch.randint(0, 256, (12, 16, 3), dtype=torch.uint8)
    height, width = (
        torch.export.Dim("half_height", min=2, max=64),
        torch.export.Dim("half_width", min=2, max=64),
    )
    program = torch.export.export(
        model, (image,), dynamic_shapes={"image": {0: 2 * height, 1: 2 * width}}, strict=strict
    )
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    for op in (
        "conv2d",
        "dense_block",
        "pixel_shuffle",
        "pixel_unshuffle",
        "residual_add",
        "image_to_float",
        "float_to_image",
    ):
        assert f"sr_kernels.{op}.default" in called
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for size in ((12, 16), (18, 8)):
        image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
        assert torch.equal(loaded(image), model(image))


@pytest.mark.parametrize("sample", samples.FEATURES[::3], ids=by_name)
def test_export_conv2d(sample):
    arguments = sample.arguments()

    class One(torch.nn.Module):
        def forward(self, arguments):
            return ops.conv2d(**arguments)

    program = torch.export.export(One(), (arguments,))
    same(program.module()(copy.deepcopy(arguments)), ops.conv2d(**arguments))


def test_meta():
    sample = samples.FEATURES[-1]
    arguments = {
        k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in sample.arguments().items()
    } | {"residual": None}
    y = ops.conv2d(**arguments)
    assert y.device.type == "meta"
    assert y.shape == reference.conv2d(**samples.plain(sample, sample.arguments())).shape


def test_compiled_function_obeys_use_backend():
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 4, 3, 3)
    function = compiled(lambda x: ops.conv2d(x, weight), False)
    y = function(x)
    with use_backend("torch"), record_kernels() as names:
        assert_as_close(function(x), y, ops.conv2d(x.double(), weight.double()))
    assert names[0] == "torch/conv2d"
