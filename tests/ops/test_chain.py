# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""conv2d_chain equals conv2d layer by layer, for every caller that conv2d has, and says what does not fit."""

from __future__ import annotations

import pytest
import torch

from sr_kernels import ops, reference
from sr_kernels.backends import BackendError, record_kernels, use_backend
from tests.closeness import assert_as_close
from tests.samples import arrange, convert


def chain(dtype=torch.float32, ci=5, **last):
    """(input, layers) of three layers, the last with the keyword arguments given."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

    layers = [
        {"weight": normal(12, ci, 3, 3) / 7, "bias": normal(12), "padding": 1, "activation": "relu"},
        {"weight": normal(9, 12, 1, 1) / 3, "activation": "prelu", "prelu_weight": normal(9)},
        {"weight": normal(8, 9, 5, 3) / 11, "bias": normal(8), "padding": (2, 1), **last},
    ]
    return normal(2, ci, 11, 13), layers


def one_by_one(input, layers, **options):
    for layer in layers:
        input = ops.conv2d(input, **layer, **options)
    return input


def leaves(x, layers):
    """The same with every tensor a leaf that wants its gradient; and the list of them."""
    x = x.detach().requires_grad_()
    layers = [
        {k: v.detach().requires_grad_() if isinstance(v, torch.Tensor) else v for k, v in layer.items()}
        for layer in layers
    ]
    return x, layers, [x, *(v for layer in layers for v in layer.values() if isinstance(v, torch.Tensor))]


LAST = [
    {},
    {"pixel_shuffle": 2, "base": torch.randn(2, 2, 11, 13), "base_mode": "nearest", "activation": "tanh"},
    {"pixel_shuffle": 2, "base": torch.randn(2, 2, 11, 13), "base_mode": "bilinear"},
    {"residual": [(torch.randn(2, 8, 11, 13), 0.5)], "scale": 0.2, "activation_after_add": True},
]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "cropped"])
@pytest.mark.parametrize("last", LAST, ids=lambda last: ",".join(last) or "plain")
def test_equals_layer_by_layer(last, layout):
    x, layers = chain(**last)
    x = arrange(x, layout)
    y, expected = ops.conv2d_chain(x, layers), one_by_one(x, layers)
    assert torch.equal(y, expected)
    assert y.stride() == expected.stride()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    x, layers = chain(dtype)
    y = ops.conv2d_chain(x, layers)
    assert y.dtype == dtype
    assert torch.equal(y, one_by_one(x, layers))


def test_reference():
    x, layers = chain()
    plain = []
    for layer in layers:
        pad = layer.get("padding", 0)
        top, left = pad if isinstance(pad, tuple) else (pad, pad)
        plain.append({**layer, "padding": (left, left, top, top)})
    exact = reference.conv2d_chain(x.double(), convert(plain, torch.float64))
    assert_as_close(ops.conv2d_chain(x, layers), reference.conv2d_chain(x, plain), exact)


def test_a_backend_is_obeyed():
    x, layers = chain()
    with record_kernels() as names:
        ops.conv2d_chain(x, layers, backend="torch")
    assert names == ["torch/conv2d"] * 3
    with use_backend("torch"), record_kernels() as names:
        ops.conv2d_chain(x, layers)
    assert names == ["torch/conv2d"] * 3
    with pytest.raises(BackendError, match="triton"):
        ops.conv2d_chain(x, layers, backend="triton")
    with pytest.raises(ValueError, match="nonsense"):
        ops.conv2d_chain(x, layers, backend="nonsense")


def test_gradients():
    x, layers, tensors = leaves(*chain(torch.float64))
    mine = torch.autograd.grad(ops.conv2d_chain(x, layers).square().sum(), tensors)
    theirs = torch.autograd.grad(one_by_one(x, layers).square().sum(), tensors)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_transforms():
    x, layers = chain()
    expected = one_by_one(x, layers)
    stacked = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.vmap(lambda x: ops.conv2d_chain(x, layers))(stacked)[0], expected)
    grad = torch.func.grad(lambda x: ops.conv2d_chain(x, layers).sum())(x)
    assert torch.equal(grad, torch.func.grad(lambda x: one_by_one(x, layers).sum())(x))
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.conv2d_chain(x, layers)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, one_by_one(x, layers))


@pytest.mark.parametrize("last", LAST[:2], ids=["plain", "base"])
def test_opcheck(last):
    x, layers = chain(**last)
    flat = {
        "weights": [layer["weight"] for layer in layers],
        "biases": [layer.get("bias") for layer in layers],
        "paddings": [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 2, 2],
        "activations": [layer.get("activation") or "none" for layer in layers],
        "negative_slopes": [0.01] * 3,
        "prelu_weights": [layer.get("prelu_weight") for layer in layers],
        **{name: last[name] for name in ("pixel_shuffle", "base", "base_mode") if name in last},
    }
    operator = torch.ops.sr_kernels.conv2d_chain.default
    torch.library.opcheck(operator, (x,), flat)
    flat["weights"] = [weight.requires_grad_() for weight in flat["weights"]]
    torch.library.opcheck(operator, (x.requires_grad_(),), flat)
    with pytest.raises(ValueError, match="2 biases"):
        operator(x, **{**flat, "biases": flat["biases"][:2]})


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile(dynamic):
    torch._dynamo.reset()
    x, layers = chain(**LAST[1])
    function = torch.compile(ops.conv2d_chain, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    assert torch.equal(function(x, layers), ops.conv2d_chain(x, layers))
    x, layers, tensors = leaves(x, layers)
    mine = torch.autograd.grad(function(x, layers).square().sum(), tensors)
    theirs = torch.autograd.grad(ops.conv2d_chain(x, layers).square().sum(), tensors)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_export():
    x, layers = chain()

    class One(torch.nn.Module):
        def forward(self, x):
            return ops.conv2d_chain(x, layers)

    shapes = {"x": {2: torch.export.Dim("h", min=6, max=64), 3: torch.export.Dim("w", min=6, max=64)}}
    program = torch.export.export(One(), (x,), dynamic_shapes=shapes)
    for size in ((11, 13), (7, 20)):
        x = torch.randn(2, 5, *size)
        assert torch.equal(program.module()(x), ops.conv2d_chain(x, layers))


def changed(i, **changes):
    x, layers = chain()
    layers[i] = {**layers[i], **changes}
    return x, layers


BAD = [
    ((torch.zeros(1, 5, 4, 4), []), TypeError, ["layers", "empty"]),
    ((torch.zeros(1, 5, 4, 4), chain()[1][0]), TypeError, ["layers", "dict"]),
    ((torch.zeros(1, 5, 4, 4), [torch.zeros(3, 5, 1, 1)]), TypeError, ["layers[0]", "Tensor"]),
    ((torch.zeros(1, 5, 4, 4), [{"bias": None}]), TypeError, ["layers[0]", "weight"]),
    (([1], chain()[1]), TypeError, ["input", "list"]),
    (changed(0, pixel_shuffle=2), TypeError, ["layers[0]", "pixel_shuffle", "last"]),
    (changed(1, stride=2), TypeError, ["layers[1]", "stride", "conv2d"]),
    (
        changed(1, weight=torch.zeros(9, 11, 1, 1)),
        ValueError,
        ["layers[1]", "(2, 12, 11, 13)", "(9, 11, 1, 1)"],
    ),
    (changed(1, weight=torch.zeros(9, 12, 1)), ValueError, ["layers[1]", "(9, 12, 1)"]),
    (changed(2, bias=torch.zeros(3)), ValueError, ["layers[2]", "bias", "(8)", "(3)"]),
    (changed(1, weight=torch.zeros(9, 12, 1, 1).double()), TypeError, ["layers[1]", "weight", "float64"]),
    (changed(0, padding=-1), ValueError, ["layers[0]", "padding", "-1"]),
    (changed(0, activation="elu"), ValueError, ["layers[0]", "'elu'"]),
    (changed(2, scale="x"), TypeError, ["layers[2]", "scale"]),
    (changed(2, pixel_shuffle=3), ValueError, ["layers[2]", "pixel_shuffle=3"]),
]


@pytest.mark.parametrize(("arguments", "error", "words"), BAD, ids=lambda value: str(value)[-40:])
def test_bad_input(arguments, error, words):
    with pytest.raises(error) as caught:
        ops.conv2d_chain(*arguments)
    message = str(caught.value)
    assert message.startswith("conv2d_chain: ")
    assert all(word in message for word in words), message
