# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Calls that record gradients: forwards are those of sessions, backwards run the graph again."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import sr_kernels
from sr_kernels import optimize
from sr_kernels.optimizer.region import Region
from tests.closeness import assert_as_close
from tests.optimizer.networks import conv, kernels_of, net, picture

pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")


def leaf(*shape):
    return picture(*shape).requires_grad_()


def is_recorded(y):
    return type(y.grad_fn).__name__ == "_RecordedBackward"


def gradients(module, x, loss=lambda y: y.sin().sum()):
    """Of the picture and of all parameters."""
    found = torch.autograd.grad(loss(module(x)), [x, *module.parameters()])
    return dict(zip(["picture", *dict(module.named_parameters())], found, strict=True))


def assert_gradients(fast, model, x, loss=lambda y: y.sin().sum()):
    exact = gradients(copy.deepcopy(model).double(), x.detach().double().requires_grad_(), loss)
    ours, theirs = gradients(fast, x, loss), gradients(model, x, loss)
    for name, gradient in ours.items():
        assert_as_close(gradient, theirs[name], exact[name], name)


def test_the_forward_is_a_session(fast):
    x = leaf()
    y = fast(x)
    assert is_recorded(y)
    with torch.no_grad():
        assert torch.equal(y, fast(x))
    assert kernels_of(fast, x) == kernels_of(fast.requires_grad_(False), x.detach())


def test_nothing_but_inputs_is_kept(fast):
    x = leaf()
    saved = {id(t) for t in fast(x).grad_fn.saved_tensors}
    assert id(x) in saved
    assert saved - {id(x)} <= {id(t) for t in (*fast.parameters(), *fast.buffers())}


def test_gradients_are_those_of_the_ops(fast, monkeypatch):
    x = leaf(2, 3, 12, 9)
    ours = gradients(fast, x)
    monkeypatch.setattr(
        Region, "_recorded", lambda self, module, values, _: self.rewritten.function(module, *values)
    )
    assert not is_recorded(fast(x))
    for name, gradient in gradients(fast, x).items():
        assert torch.equal(ours[name], gradient), name


def test_frozen_parameters(fast):
    x = leaf()
    fast.requires_grad_(False)
    fast(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in fast.parameters())


def test_a_picture_without_gradient(fast):
    x = picture()
    fast(x).sum().backward()
    assert x.grad is None
    assert all(p.grad is not None for p in fast.parameters())


def test_twice(fast):
    x = leaf()
    y = fast(x).sin().sum()
    first = torch.autograd.grad(y, x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(y, x)[0])
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(y, x)


def test_batched_gradients(fast, model):
    x = leaf(1, 3, 6, 5)
    y = fast(x)
    upstream = torch.randn(3, *y.shape)
    found = torch.autograd.grad(y, x, upstream, is_grads_batched=True, retain_graph=True)[0]
    for i in range(3):
        double = x.detach().double().requires_grad_()
        theirs = torch.autograd.grad(model(x), x, upstream[i])[0]
        exact = torch.autograd.grad(copy.deepcopy(model).double()(double), double, upstream[i].double())[0]
        assert_as_close(found[i], theirs, exact)


def test_under_checkpoints(fast):
    x = leaf()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = checkpoint(fast, x, use_reentrant=False)
        assert is_recorded(y)
        ours = torch.autograd.grad(y.sin().sum(), x)[0]
    assert torch.equal(ours, gradients(fast, x)["picture"])


class Cropped(nn.Module):
    """A result that is a view."""

    def __init__(self):
        super().__init__()
        self.body, self.last = conv(3, 8), conv(8, 3)

    def forward(self, x):
        return self.last(F.relu(self.body(x)))[:, :, 1:-1, 2:]


def test_results_may_be_written_to(fast, model):
    def halved(y):
        return y.mul_(0.5).sin().sum()

    assert_gradients(fast, model, leaf(), halved)
    torch.manual_seed(0)
    cropped = Cropped().eval()
    cut = optimize(cropped)
    assert is_recorded(cut(leaf()))
    assert_gradients(cut, cropped, leaf(), halved)


def test_a_parameter_that_is_written_to_in_between(fast):
    y = fast(leaf()).sum()
    with torch.no_grad():
        next(fast.parameters()).mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_a_parameter_that_is_replaced_in_between(fast):
    x = leaf()
    expected = gradients(fast, x)["picture"]
    y = fast(x).sin().sum()
    fast.first.weight = nn.Parameter(torch.zeros_like(fast.first.weight))
    assert torch.equal(torch.autograd.grad(y, x)[0], expected)


def test_what_is_in_force_is_the_forwards(fast):
    x = leaf()
    with sr_kernels.set_precision("highest"):
        y = fast(x)
        with sr_kernels.record_kernels() as there:
            torch.autograd.grad(y.sum(), x, retain_graph=True)
    asked, cast = sr_kernels.use_backend("torch"), torch.autocast("cpu", torch.bfloat16)
    with asked, cast, sr_kernels.record_kernels() as here:
        dx = torch.autograd.grad(y.sum(), x)[0]
    assert here == there
    assert any(name.startswith("cpu/") for name in here)
    assert dx.dtype == torch.float32


class Several(nn.Module):
    """Results of several kinds in a tree; one that follows from no parameter."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 3)

    def forward(self, x):
        h = F.relu(self.a(x))
        return {"picture": self.b(h), "more": [h, h.argmax(1)], "size": x.shape[2]}


def test_trees_of_results():
    torch.manual_seed(0)
    model = Several().eval()
    fast, x = optimize(model), leaf()
    y = fast(x)
    assert is_recorded(y["picture"])
    assert not y["more"][1].requires_grad
    assert torch.equal(y["more"][1], model(x)["more"][1])
    assert y["size"] == x.shape[2]
    assert_gradients(fast, model, x, lambda y: y["picture"].sin().sum())
    assert_gradients(fast, model, x, lambda y: y["picture"].sum() + y["more"][0].sum())


class Through(Several):
    """Gives back what it was given, too."""

    def forward(self, x):
        return self.b(F.relu(self.a(x))), x


def test_what_lies_in_an_input_is_left_to_the_ops():
    torch.manual_seed(0)
    model = Through().eval()
    fast, x = optimize(model), leaf()
    y, same = fast(x)
    assert not is_recorded(y)
    assert same is x
    assert_gradients(fast, model, x, lambda found: (found[0] * found[1].sum()).sin().sum())


class Noisy(Several):
    def forward(self, x):
        return F.dropout(self.b(F.relu(self.a(x))), 0.5, training=True)


def test_random_numbers_are_not_drawn_twice():
    torch.manual_seed(0)
    fast, x = optimize(Noisy().eval()), leaf()
    y = fast(x)
    assert not is_recorded(y)
    found = torch.autograd.grad(y.sum(), fast.b.bias)[0]
    assert torch.equal(found / 2, (y != 0).sum((0, 2, 3)))


class Tied(Several):
    """One weight twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(8, 8), conv(8, 8)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


class Both(Tied):
    """Two arguments."""

    def forward(self, x, y):
        return self.b(F.relu(self.a(x))) + y


def made(kind):
    torch.manual_seed(0)
    return kind().eval()


def test_tied_weights():
    model = made(Tied)
    fast = optimize(model, picture(1, 8, 12, 10))
    assert is_recorded(fast(leaf(1, 8, 9, 9)))
    assert_gradients(fast, model, leaf(1, 8, 9, 9))


def test_one_tensor_as_two_arguments():
    model = made(Both)
    fast, x = optimize(model, (picture(1, 8, 12, 10), picture(1, 8, 12, 10))), leaf(1, 8, 9, 9)
    assert is_recorded(fast(x, x))
    double = x.detach().double().requires_grad_()
    exact = copy.deepcopy(model).double()
    calls = ((fast, x), (model, x), (exact, double))
    assert_as_close(*(torch.autograd.grad(module(x, x).sin().sum(), x)[0] for module, x in calls))


def test_hooks_run_once(fast):
    seen, x = [], leaf()
    expected = torch.autograd.grad(fast(x).sum(), fast.last.weight)[0]
    fast.last.weight.register_hook(lambda g: seen.append(g) or 2 * g)
    h = x * 1.0
    h.register_hook(lambda g: seen.append(g))
    fast(h).sum().backward()
    assert len(seen) == 2
    assert torch.equal(fast.last.weight.grad, 2 * expected)


def test_a_layer_frozen_in_between(fast):
    y = fast(leaf()).sum()
    fast.first.weight.requires_grad_(False)
    y.backward()
    assert fast.last.weight.grad is not None


@pytest.mark.parametrize(
    "draw",
    [
        lambda h: F.gumbel_softmax(h, dim=1),
        lambda h: F.rrelu(h, training=True),
        lambda h: F.scaled_dot_product_attention(h, h, h, dropout_p=0.5),
    ],
)
def test_whatever_draws_random_numbers_draws_them_once(draw):
    class Drawing(Several):
        def forward(self, x):
            return draw(self.b(F.relu(self.a(x))))

    model = made(Drawing)
    fast, x = optimize(model), leaf()
    for _ in range(2):
        torch.manual_seed(3)
        ours = torch.autograd.grad(fast(x).sin().sum(), x)[0]
        after = torch.rand(1)
        torch.manual_seed(3)
        expected = torch.autograd.grad(fast._sr_region.rewritten.function(fast, x).sin().sum(), x)[0]
        assert torch.equal(after, torch.rand(1))
        assert torch.equal(ours, expected)
        torch.manual_seed(3)
        model(x)
        assert torch.equal(after, torch.rand(1))


class Loose(Several):
    """A result without gradient beside one that has it."""

    def forward(self, x):
        h = self.b(F.relu(self.a(x)))
        return h, h.detach() + 1.0


def test_results_without_gradient():
    fast = optimize(made(Loose))
    y, loose = fast(leaf())
    assert is_recorded(y)
    assert not loose.requires_grad
    loose.numpy()


@dataclass
class Boxed:
    picture: torch.Tensor


class Boxing(Several):
    def forward(self, x):
        return Boxed(self.b(F.relu(self.a(x))))


def test_results_in_unknown_containers():
    fast, x = optimize(made(Boxing)), leaf()
    for _ in range(2):
        y = fast(x).picture
        assert y.requires_grad
        assert not is_recorded(y)


class Overlapping(Several):
    def forward(self, x):
        h = self.b(F.relu(self.a(x)))
        return h, h[:, :, 1:]


def test_results_that_share_memory():
    model = made(Overlapping)
    fast = optimize(model)

    def loss(found):
        found[0].mul_(3.0)
        return found[1].sin().sum()

    x = picture().contiguous(memory_format=torch.channels_last)  # or they are copied to another format
    for _ in range(2):
        assert_gradients(fast, model, x.requires_grad_(), loss)


class Normalised(Several):
    """A layer of torch's that no kernel of ours computes."""

    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(8, affine=True)

    def forward(self, x):
        return self.b(F.relu(self.norm(self.a(x))))


def test_layers_of_torch():
    model = made(Normalised)
    fast = optimize(model)
    assert is_recorded(fast(leaf()))
    assert_gradients(fast, model, leaf())
    y, weight = fast(leaf()).sum(), fast.norm.weight
    fast.norm.weight = nn.Parameter(torch.zeros(8))
    assert torch.autograd.grad(y, weight)[0].abs().max() > 0


@pytest.mark.parametrize("name", ["a.weight", "b.bias", "norm.weight", None])
def test_all_frozen_but_one(name):
    model = made(Normalised).requires_grad_(False)
    fast = optimize(model)
    if name is not None:
        fast.get_parameter(name).requires_grad_(True)
    y = fast(picture())
    assert is_recorded(y) == y.requires_grad == (name is not None)
    if name is not None:
        y.sin().sum().backward()
        assert fast.get_parameter(name).grad.abs().max() > 0


def test_frozen_networks_are_not_walked(fast, monkeypatch):
    fast.requires_grad_(False)
    for name in ("parameters", "buffers", "modules"):
        monkeypatch.setattr(nn.Module, name, lambda *_: pytest.fail("walked"))
    assert not fast(picture()).requires_grad


def test_all_frozen_but_what_a_hook_reads():
    model, gain = made(Normalised), nn.Parameter(torch.ones(8, 1, 1))
    model.register_parameter("gain", gain)
    model.a.register_forward_hook(lambda m, args, y: y * model.gain)
    fast = optimize(model.requires_grad_(False))
    gain.requires_grad_(True)
    assert fast(picture()).requires_grad
    assert torch.autograd.grad(fast(picture()).sin().sum(), gain)[0].abs().max() > 0


def test_computed_weights_are_not_kept_alive(fast):
    base = torch.ones((), requires_grad=True)
    hidden = base * 2.0
    weight = fast.first.weight.detach() * hidden  # an activation is fused behind it
    y = torch.func.functional_call(fast, {"first.weight": weight}, (picture(),))
    assert is_recorded(y)
    assert torch.autograd.grad(y.sum(), base)[0].abs() > 0
    alive = weakref.ref(weight)
    del y, weight
    gc.collect()
    assert alive() is None


def test_what_is_refused_is_refused_at_once(monkeypatch):
    fast, x = optimize(made(Through)), leaf()
    fast(x)
    monkeypatch.setattr(Region, "_by_session", None)
    assert fast(x)[1] is x


def test_training_steps_in_eval_mode():
    """A few steps come to what they come to without optimize."""
    model = net()
    fast, exact = optimize(copy.deepcopy(model)), copy.deepcopy(model).double()
    for module in (model, fast, exact):
        steps = torch.optim.SGD(module.parameters(), lr=0.1)
        for seed in range(3):
            steps.zero_grad()
            x = picture(seed=seed).to(next(module.parameters()).dtype)
            module(x).square().mean().backward()
            steps.step()
    before = dict(net().named_parameters())
    for name in before:
        moved = [(m.get_parameter(name) - before[name]).detach() for m in (fast, model, exact)]
        assert_as_close(moved[0], moved[1], moved[2], name)


class Instance(Several):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(8, track_running_stats=True)

    def forward(self, x):
        return self.b(F.relu(self.norm(self.a(x))))


def test_the_backward_is_in_the_forwards_mode():
    fast, x = optimize(made(Instance)), leaf()
    expected = torch.autograd.grad(fast(x).sin().sum(), x)[0]
    y, before = fast(x).sin().sum(), fast.norm.running_mean.clone()
    fast.train()
    assert torch.equal(torch.autograd.grad(y, x)[0], expected)
    assert torch.equal(fast.norm.running_mean, before)
