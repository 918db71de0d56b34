# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A call like an earlier one skips checks and the dispatcher: nothing may be different for it."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sr_kernels
from sr_kernels import ops
from sr_kernels.backends import BackendError, registry
from sr_kernels.ops._signature import Signature, is_watched

CHANNELS_LAST = torch.channels_last
X = torch.randn(1, 16, 20, 24).contiguous(memory_format=CHANNELS_LAST)
W, B = torch.randn(16, 16, 3, 3), torch.randn(16)
BLOCK = (X, [torch.randn(8, 16, 3, 3), torch.randn(16, 24, 3, 3)], [torch.randn(8), None])


def conv(x=X, weight=W, bias=B, **settings):
    return ops.conv2d(x, weight, bias, padding=1, **settings)


def ran(call):
    with sr_kernels.record_kernels() as names:
        call()
    return names


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"weight": W.double()}, TypeError),
        ({"weight": W[:, :15]}, ValueError),
        ({"bias": B[:15]}, ValueError),
        ({"bias": B.to_sparse()}, TypeError),
        ({"x": X[0]}, ValueError),
        ({"x": X.to_sparse()}, TypeError),
        ({"scale": torch.tensor(1.0)}, TypeError),
        ({"upsample": 1.0}, TypeError),
        ({"upsample": 0}, ValueError),
        ({"activation_after_add": 0}, TypeError),
        ({"activation": "nothing"}, ValueError),
        ({"residual": X[:, :, :1]}, ValueError),
        ({"backend": "nobody"}, ValueError),
        ({"x": X.double(), "weight": W.double(), "bias": B.double(), "backend": "cpu"}, BackendError),
    ],
)
def test_a_good_call_hides_no_bad_one(changed, error):
    conv()
    for _ in range(2):
        with pytest.raises(error):
            conv(**changed)
    conv()


def test_settings_that_change_in_between_are_followed():
    for _ in range(2):
        assert "winograd" in ran(conv)[0]
        with sr_kernels.set_precision("highest"):
            assert "direct" in ran(conv)[0]
        with sr_kernels.use_backend("torch"):
            assert ran(conv) == ["torch/conv2d"]
        assert ran(lambda: conv(backend="torch")) == ["torch/conv2d"]
        assert "direct" in ran(lambda: conv(stride=2))[0]


def test_the_environment_is_followed(monkeypatch):
    assert "winograd" in ran(conv)[0]
    monkeypatch.setenv("SR_KERNELS_BACKEND", "torch")
    assert ran(conv) == ["torch/conv2d"]


def test_a_lower_instruction_set_is_followed():
    cpu = pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")
    for isa in (cpu.ISAS[0], cpu.ISAS[-1]) * 2:
        with cpu.limit_isa(isa.name):
            for call in (conv, lambda: ops.dense_block(*BLOCK)):
                assert all(name.endswith(f"/{isa.unit}") for name in ran(call))


@pytest.mark.parametrize(
    "x", [X, X.contiguous(), X[..., 1:], X.transpose(2, 3), X[:, :, ::2], X.expand(3, -1, -1, -1), X[:0]]
)
def test_layouts_are_told_apart(x):
    first, second = conv(x), conv(x)
    assert first.stride() == second.stride()
    assert torch.equal(first, second)
    plain = conv(x, backend="torch")
    assert first.stride() == plain.stride()
    torch.testing.assert_close(first, plain, atol=1e-4, rtol=1e-4)


def test_weights_are_not_kept_by_the_signature():
    """Two layers of one shape, in turns, and weights written to in between."""
    other = torch.randn_like(W)
    first, second = conv(), conv(weight=other)
    assert torch.equal(first, conv())
    assert torch.equal(second, conv(weight=other))
    other.mul_(2)
    torch.testing.assert_close(conv(weight=other, bias=None), 2 * (second - B.view(1, -1, 1, 1)))


@pytest.mark.parametrize("call", [conv, lambda: ops.dense_block(*BLOCK)], ids=["conv2d", "dense_block"])
def test_whoever_watches_sees_the_op(call):
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.name())
            return function(*args, **(kwargs or {}))

    call()
    with Watch():
        call()
    assert [name for name in seen if name.startswith("sr_kernels::")]
    with torch.profiler.profile() as profile:
        call()
    assert any(event.name.startswith("sr_kernels::") for event in profile.events())
    assert not is_watched()


def test_only_plain_tensors_have_a_signature():
    of = Signature([True, True, False]).of
    assert of((X, [W, None], 1.0)) == of((X.clone(memory_format=torch.preserve_format), [W + 1, None], 1.0))
    assert of((X, [W, None], 1.0)) != of((X.contiguous(), [W, None], 1.0))
    assert of((X, [W, None], 1.0)) != of((X, [W, None], 2.0))
    with torch.inference_mode():
        assert of((torch.ones(1), None, 1.0)) is not None

    class Mine(torch.Tensor):
        pass

    for x in (
        X.to("meta"),
        X.to_sparse(),
        torch._neg_view(X),
        X.as_subclass(Mine),
        torch._to_functional_tensor(X),
    ):
        assert of((X, [W, x], 1.0)) is None
        assert of((x, None, 1.0)) is None


def test_a_negated_view_is_read_with_its_sign():
    torch.testing.assert_close(conv(torch._neg_view(X), bias=None), -conv(bias=None))


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(registry, "_prepared", {})
    monkeypatch.setattr(registry, "_MOST_PREPARED", 4)
    for i in range(11):
        ops.conv2d(X[..., : 4 + i], W, padding=1)
        assert len(registry._prepared) <= 4


def test_threads_share_what_is_prepared():
    """One layer and one block, eight threads, inputs of their own."""
    inputs = [torch.randn_like(X) for _ in range(8)]
    expected = [(conv(x), ops.dense_block(x, *BLOCK[1:])) for x in inputs]
    wrong = []

    def work(x, results):
        for _ in range(50):
            found = conv(x), ops.dense_block(x, *BLOCK[1:])
            wrong.extend(1 for a, b in zip(found, results, strict=True) if not torch.equal(a, b))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(inputs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_gradients_still_flow():
    conv()
    weight = W.clone().requires_grad_()
    conv(weight=weight).sum().backward()
    assert weight.grad is not None
    block = [BLOCK[1][0].clone().requires_grad_(), BLOCK[1][1]]
    ops.dense_block(X, block, BLOCK[2]).sum().backward()
    assert block[0].grad is not None
