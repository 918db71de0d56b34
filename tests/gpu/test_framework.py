# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What PyTorch asks of an op on the device: autocast, compile, opcheck, gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sr_kernels import nn, ops, reference
from sr_kernels.backends import record_kernels, use_backend
from sr_kernels.ops._signature import Signature, is_watched
from tests import samples
from tests.closeness import assert_as_close_together
from tests.gpu import cases
from tests.gpu.support import assert_ran, assert_same, place

CHECKED = [samples.FEATURES[i] for i in (0, 15, 25, 29, -10)]
COMPILER = {"cpu": "aot_eager"}  # Inductor's C++ takes a minute
OPS = torch.ops.sr_kernels


def by_name(sample):
    return sample.name


def test_calls_are_told_apart(device):
    """What is prepared once serves plain tensors of the device, and nobody who watches is passed over."""
    of = Signature([True, False]).of
    x = torch.ones(1, 4, 8, 8, device=device)
    with torch.inference_mode():
        assert of((x, 1.0)) is not None
        assert of((torch.ones_like(x), 1.0)) is not None
    assert of((torch.nn.Parameter(x), 1.0)) is not None
    assert of((x, 1.0)) != of((x.to("cpu" if device == "cuda" else "meta"), 1.0))
    assert of((torch._neg_view(x), 1.0)) is None
    with torch.autocast(device):
        assert is_watched()
    assert not is_watched()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype, backend, device):
    """float32 weights and inputs, computed with and returned in the dtype of autocast."""
    a = place(cases.LAYERS[1].arguments(), device)
    with torch.autocast(device, dtype), use_backend(backend), record_kernels() as names:
        y = ops.conv2d(**a)
        again = ops.conv2d(**a)
    assert_ran(names, backend)
    assert y.dtype == dtype
    assert_same(again, y, "a second call")
    assert_same(y, ops.conv2d(**samples.convert(a, dtype), backend=backend), "tensors of that dtype")


@pytest.mark.slow
def test_compile(backend, device):
    """One node in the graph, the same result; the layer's own operations around it are compiled."""
    layer = nn.ConvAct2d(64, 64, 3, padding=1, activation="leaky_relu", negative_slope=0.2)
    layer = layer.to(device, torch.float16).requires_grad_(False)
    x = place(cases.LAYERS[1].arguments(torch.float16)["input"], device)

    def function(x):
        return layer(x * 2.0) + 1.0

    torch._dynamo.reset()
    with use_backend(backend), torch.no_grad():
        compiled = torch.compile(function, fullgraph=True, backend=COMPILER.get(device, "inductor"))
        with record_kernels() as names:
            y = compiled(x)
        assert_ran(names, backend)
        torch.testing.assert_close(y, function(x))
        assert y.stride() == function(x).stride()


def leaves(arguments):
    """The arguments with every floating tensor a leaf that wants its gradient."""

    def walk(value):
        if isinstance(value, torch.Tensor):
            return value.detach().requires_grad_() if value.is_floating_point() else value
        return type(value)(walk(v) for v in value) if isinstance(value, (list, tuple)) else value

    return {k: walk(v) for k, v in arguments.items()}


@pytest.mark.parametrize("sample", CHECKED, ids=by_name)
def test_opcheck_conv2d(sample, device):
    arguments = samples.flat(sample, place(sample.arguments(), device))
    torch.library.opcheck(OPS.conv2d.default, (), leaves(arguments))


def test_opcheck_the_rest(device):
    sample = samples.Dense(shape=(1, 6, 5, 7), growth=(4,), biases=(True, True))
    arguments = place(sample.arguments(), device)
    del arguments["residual"]
    torch.library.opcheck(OPS.dense_block.default, (), leaves(arguments))
    picture = samples.Picture(layout="channels_last")
    x = place(picture.shuffled(), device)
    torch.library.opcheck(OPS.pixel_shuffle.default, (), leaves({"input": x, "upscale_factor": 2}))
    torch.library.opcheck(
        OPS.residual_add.default, (), leaves({"input": x, "residual1": x + 1, "scale": 0.5})
    )
    image = place(samples.image((7, 5, 3), "contiguous", torch.uint8), device)
    torch.library.opcheck(OPS.image_to_float.default, (), {"image": image})


@pytest.mark.parametrize("sample", [samples.SMALL_CONVS[i] for i in (0, 12, 20, 24)], ids=by_name)
def test_gradcheck(sample, device):
    """float64 runs in PyTorch's operations; its convolutions' backward may add in any order."""
    arguments = leaves(place(sample.arguments(torch.float64), device))
    names = [k for k, v in arguments.items() if isinstance(v, torch.Tensor)]

    def function(*tensors):
        return ops.conv2d(**{**arguments, **dict(zip(names, tensors, strict=True))})

    tensors = [arguments[k] for k in names]
    assert torch.autograd.gradcheck(function, tensors, nondet_tol=1e-9, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, nondet_tol=1e-9, fast_mode=True)


def gradients(op, arguments):
    arguments = leaves(arguments)
    y = op(arguments)
    upstream = (
        torch.linspace(-1, 1, y.numel(), device=y.device, dtype=torch.float64).to(y.dtype).view(y.shape)
    )
    return list(torch.autograd.grad(y, samples.tensors_of(arguments), upstream))


TRAINED = [
    cases.LAYERS[0],
    cases.LAYERS[1],
    cases.LAYERS[2],
    replace(cases.LAYERS[6], activation="silu"),
    cases.LAYERS[10],
    cases.LAYERS[11],
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("sample", TRAINED, ids=by_name)
def test_gradients(sample, dtype, backend, device):
    """Of input, weight, bias, slopes and residuals, on the automatic backend beside the one named."""
    arguments = place(sample.arguments(dtype), device)

    def plain(a):
        return reference.conv2d(**samples.plain(sample, a))

    eager = gradients(plain, arguments)
    exact = gradients(plain, samples.convert(arguments, torch.float64))
    chosen = "auto" if cases.may_refuse(backend, sample, dtype) else backend
    with record_kernels() as names:
        ours = gradients(lambda a: ops.conv2d(**a, backend=chosen), arguments)
    assert names
    assert chosen == "auto" or names[0].startswith(f"{backend}/"), names
    assert_as_close_together(ours, eager, exact)
