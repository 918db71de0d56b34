# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The gradient of bias and activation in one pass, beside eager's."""

from __future__ import annotations

import pytest
import torch

from sr_kernels import ops, reference
from sr_kernels.backends import record_kernels
from sr_kernels.backends.triton import backend, moves
from tests import samples
from tests.closeness import assert_as_close_together

pytestmark = pytest.mark.usefixtures("interpreted", "poisoned", "always")


@pytest.fixture
def always(monkeypatch):
    """However small the gradient is."""
    monkeypatch.setattr(backend, "_BACKWARD_ELEMENTS", 0)


def gradients(function, arguments, dtype):
    """Of a sum weighted at random, for every tensor of the arguments in dtype."""
    a = samples.convert(arguments, dtype)
    tensors = [t.requires_grad_() for t in samples.tensors_of(a) if t.is_floating_point()]
    y = function(a)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad(y, tensors, weights.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "sample",
    [
        *(samples.Conv(activation=name) for name in ("relu", "tanh", "sigmoid", "silu", "gelu")),
        samples.Conv(activation="leaky_relu", slope=0.2),
        samples.Conv(activation="leaky_relu", slope=-0.5),
        samples.Conv(activation="prelu", slopes=7, shape=(1, 5, 40, 50)),
        samples.Conv(activation="prelu", slopes=1, residuals=(0.5,), scale=-0.7),
        samples.Conv(activation="relu", channels=12, shuffle=2, bias=False),
        samples.Conv(activation="silu", scale=0.3, layout="channels_last", residuals=(1.0, 2.0)),
    ],
    ids=lambda sample: sample.name,
)
def test_gradients(sample, dtype):
    def ours(a):
        return ops.conv2d(**a, backend="triton")

    def plain(a):
        return reference.conv2d(**samples.plain(sample, a))

    arguments = samples.convert(sample.arguments(torch.float64), dtype)
    with record_kernels() as names:
        mine = gradients(ours, arguments, dtype)
    assert names.count("triton/activation_backward") == 1
    # eager in float64 from the same values; gradients of biases alone are few
    assert_as_close_together(
        mine, gradients(plain, arguments, dtype), gradients(plain, arguments, torch.float64)
    )


@pytest.mark.parametrize("steps", [4, 16])
@pytest.mark.parametrize("activation", ["prelu", "silu"])
def test_programs_of_several_steps(steps, activation, monkeypatch):
    """As on large layers: programs go on over the pixels, the last one beyond them."""
    monkeypatch.setattr(moves, "_PROGRAMS", 3)
    monkeypatch.setattr(moves, "_BACKWARD_TILE", 16 if steps == 16 else 64)
    sample = samples.Conv(
        shape=(1, 5, 13, 11), channels=7, activation=activation, slopes=7 if activation == "prelu" else 0
    )
    launched = []
    kernel = moves.activation_backward_kernel

    class Recorder:
        def __getitem__(self, grid):
            launched.append(grid)
            return lambda *args, **options: (
                launched.append(options["STEPS"]) or kernel[grid](*args, **options)
            )

    monkeypatch.setattr(moves, "activation_backward_kernel", Recorder())
    arguments = samples.convert(sample.arguments(torch.float64), torch.float32)
    with record_kernels() as names:
        mine = gradients(lambda a: ops.conv2d(**a, backend="triton"), arguments, torch.float32)
    assert names.count("triton/activation_backward") == 1
    (programs,), found = launched
    assert found == steps
    assert programs > 1
    plain, exact = (
        gradients(lambda a: reference.conv2d(**samples.plain(sample, a)), arguments, dtype)
        for dtype in (torch.float32, torch.float64)
    )
    assert_as_close_together(mine, plain, exact)


def test_an_activation_after_the_sum_is_left_to_pytorch():
    sample = samples.Conv(residuals=(1.0,), activation="relu", after=True)
    with record_kernels() as names:
        gradients(lambda a: ops.conv2d(**a, backend="triton"), sample.arguments(torch.float32), torch.float32)
    assert "triton/activation_backward" not in names


def test_small_gradients_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(backend, "_BACKWARD_ELEMENTS", 10**6)
    sample = samples.Conv(activation="silu")
    with record_kernels() as names:
        gradients(lambda a: ops.conv2d(**a, backend="triton"), sample.arguments(torch.float32), torch.float32)
    assert "triton/activation_backward" not in names
