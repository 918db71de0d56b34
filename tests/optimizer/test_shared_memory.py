# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What others hold of a call is theirs; which calls are of one kind; whose gradients are asked for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels import optimize, record_kernels
from sr_kernels.optimizer.plan.replayed import is_replayable
from tests.optimizer.networks import Body, assert_ours, assert_result, assert_same, conv, net, picture


class Untraceable(nn.Module):
    """Gives its input on, in another shape, in a dict."""

    def forward(self, x):
        if x.sum() > 1e30:
            return {}
        return {"a": [x.flatten(2)], "b": x * 2}


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.second, self.third = conv(3, 8), Untraceable(), conv(8, 8), conv(8, 8)

    def forward(self, x):
        y = F.relu(self.first(x))
        found = self.inner(y)
        z = F.relu(self.third(F.relu(self.second(found["b"]))))
        return z + found["a"][0].reshape(z.shape)


@torch.no_grad()
def test_what_a_module_gives_on_is_not_freed():
    model = Around().eval()
    fast = optimize(model)
    for size in ((16, 16), (17, 20), (16, 16)):
        x = picture(1, 3, *size)
        assert_same(fast, model, x)
    assert_ours(fast, picture())


@torch.no_grad()
def test_what_a_hook_keeps_is_its_own():
    kept = []
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.AvgPool2d(2), conv(8, 8)).eval()
    model[3].register_forward_hook(lambda m, args, result: kept.append(args[0]))
    fast = optimize(model)
    kept.clear()
    x = picture(1, 3, 18, 22)
    for _ in range(3):
        fast(x)
    assert len(kept) == 3
    for seen in kept:
        assert_result(seen, model[:3], x)
    assert not is_replayable(fast._sr_region.rewritten.graph, fast)


class Scaled(nn.Module):
    """Asks tensors in a list for their size."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 3)

    def forward(self, x, others):
        return self.b(F.relu(self.a(x))) * others[0].shape[-1]


@torch.no_grad()
def test_lists_of_tensors_tell_calls_apart():
    model = Scaled().eval()
    fast = optimize(model, (picture(), [torch.zeros(64, 64)]))
    for size in (64, 128, 64):
        others = [torch.zeros(64, size)]
        assert_same(fast, model, picture(), others)
    assert_ours(fast, picture(), [torch.zeros(64, 64)])


def test_gradients_of_tensors_in_lists_and_of_buffers():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv(3, 8)
            self.register_buffer("gain", torch.ones(1))

        def forward(self, xs):
            return F.relu(self.a(xs[0])) * self.gain

    model = Listed().eval().requires_grad_(False)
    fast = optimize(model, ([picture()],))
    assert not fast([picture()]).requires_grad
    assert fast([picture().requires_grad_()]).requires_grad
    gain = torch.ones(1, requires_grad=True)
    assert torch.func.functional_call(fast, {"gain": gain}, ([picture()],)).requires_grad


@torch.no_grad()
@pytest.mark.parametrize("asked", [{"backend": "torch"}, {"precision": "highest"}], ids=str)
def test_what_was_asked_for_holds_under_compile(asked):
    fast = optimize(net(), picture(), **asked)
    compiled = torch.compile(fast, backend="eager")
    with record_kernels() as names:
        compiled(picture())
    assert not any("winograd" in name for name in names)


def test_a_result_added_to_itself():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(3, 8), conv(8, 8)

        def forward(self, x):
            y = self.b(F.relu(self.a(x)))
            return y + y

    fast = optimize(Twice().eval())
    assert not fast.report().undone
    assert_ours(fast, picture())
    assert_same(fast, fast.original, picture())


def test_graphs_of_a_layer_that_was_replaced_are_forgotten():
    fast = optimize(net())
    region = fast._sr_region
    with torch.no_grad():
        fast(picture())
        before = region._replays_for(fast)
        fast.second = conv(8, 8).eval()
        assert_ours(fast, picture())
    assert region._replays_for(fast) is not before
    assert any(t is fast.second.weight for t in region._replays_for(fast)._weights())


@torch.no_grad()
def test_constants_are_nobodys_without_a_session_either():
    class WithConstant(Body):
        def __init__(self):
            super().__init__()
            self.m = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return super().forward(x), (self.m * 2).type_as(x)

    fast = optimize(WithConstant().eval(), picture())
    for run in (fast, lambda x: fast._sr_region._op_by_op(fast, x)):
        for _ in range(2):
            constant = run(picture())[1]
            assert torch.equal(constant, torch.full((3,), 2.0))
            constant.add_(100)
