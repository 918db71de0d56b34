# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What is changed of an optimised module or its original afterwards is noticed."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels import optimize
from sr_kernels.backends import registry
from sr_kernels.optimizer.graph import structure
from sr_kernels.optimizer.region import Region
from tests.closeness import assert_as_close_together
from tests.optimizer.networks import (
    Body,
    assert_original_runs,
    assert_ours,
    assert_result,
    assert_same,
    conv,
    net,
    picture,
)

CPU = not registry.unavailable("cpu")


@pytest.fixture(
    params=[
        pytest.param(True, marks=pytest.mark.skipif(not CPU, reason="the native extension is not built")),
        False,
    ],
    ids=["native", "python"],
)
def natively(request, monkeypatch):
    """Whether the extension is asked what is as it was."""
    if not request.param:
        monkeypatch.setattr(structure, "_native", lambda: None)
    return request.param


def in_place(conv):
    with torch.no_grad():
        conv.weight.mul_(0.5)


def replaced(conv):
    conv.weight = nn.Parameter(conv.weight.detach() * 0.5)


def by_data(conv):
    conv.weight.data = conv.weight.data * 0.5


def by_data_twice(conv):
    """The second tensor may get the memory of the first."""
    for _ in range(3):
        conv.weight.data = conv.weight.data * 0.5


def transposed(conv):
    conv.weight.data = conv.weight.data.transpose(2, 3)


def no_bias(conv):
    with torch.no_grad():
        conv.bias.zero_()


@pytest.mark.parametrize("change", [in_place, replaced, by_data, by_data_twice, transposed, no_bias])
@pytest.mark.parametrize("layer", ["first", "second", "last"])
@pytest.mark.parametrize("side", ["fast", "model"])
@pytest.mark.parametrize("records", [True, False], ids=["gradients", "no gradients"])
def test_changed_weights_are_noticed(fast, model, change, layer, side, records):
    with torch.set_grad_enabled(records):
        before = fast(picture())
    change(getattr({"fast": fast, "model": model}[side], layer))
    assert not torch.equal(model(picture()), before)
    assert_same(fast, model, picture())
    assert_ours(fast, picture())


def test_a_weight_cut_down_in_place(fast, model):
    """Its address, version and strides stay."""
    with torch.no_grad():
        fast(picture())
    model.last.weight.data = model.last.weight.data[:4]
    model.last.bias.data = model.last.bias.data[:4]
    assert_same(fast, model, picture())


def test_changed_statistics_are_noticed(fast, model):
    fast(picture())
    with torch.no_grad():
        model.norm.running_mean.add_(1.0)
        model.norm.weight.mul_(3.0)
    assert_same(fast, model, picture())


def test_training_and_back(fast, model):
    fast(picture())
    twin = copy.deepcopy(model).train()
    fast.train()
    assert torch.equal(fast(picture(3, 3, 8, 8)), twin(picture(3, 3, 8, 8)))
    assert torch.equal(fast.norm.running_mean, twin.norm.running_mean)
    assert_original_runs(fast, picture())
    twin.norm.load_state_dict(fast.norm.state_dict())
    fast.eval()
    assert_ours(fast, picture())
    assert_same(fast, twin.eval(), picture())


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "not counted"])
@pytest.mark.parametrize("by", ["original", "fast"])
def test_statistics_that_training_writes(counted, by):
    """F.batch_norm counts no versions when it writes them."""
    model = net()
    if not counted:
        model.norm.num_batches_tracked = None
    fast = optimize(model)
    trained = {"original": model, "fast": fast}[by]
    with torch.no_grad():
        before = fast(picture())
        trained.train()(3 * picture(4, 3, 8, 8))
    trained.eval()
    assert_same(fast, model, picture())
    with torch.no_grad():
        assert not torch.equal(fast(picture()), before)
    assert_ours(fast, picture())


class OwnNorm(nn.Module):
    """A norm of one's own, by other names."""

    def __init__(self):
        super().__init__()
        self.body, self.last = conv(3, 8), conv(8, 3)
        self.register_buffer("seen", torch.zeros(8))
        self.register_buffer("spread", torch.ones(8))

    def forward(self, x):
        h = F.batch_norm(self.body(x), self.seen, self.spread, training=self.training)
        return self.last(F.relu(h))


def test_statistics_by_other_names():
    torch.manual_seed(0)
    model = OwnNorm().eval()
    fast = optimize(model)
    with torch.no_grad():
        before = fast(picture())
        model.train()(3 * picture(4, 3, 8, 8))
        assert not torch.equal(fast(picture()), before)
    assert_same(fast, model.eval(), picture())
    assert_ours(fast, picture())


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "not counted"])
def test_statistics_that_training_writes_op_by_op(counted, monkeypatch):
    monkeypatch.setattr(Region, "_by_session", lambda self, m, values, _: self._op_by_op(m, *values))
    test_statistics_that_training_writes(counted, "original")


def test_one_layer_in_training_mode(fast, model):
    fast.norm.train()
    twin = copy.deepcopy(model)
    twin.norm.train()
    assert torch.equal(fast(picture(2, 3, 8, 8)), twin(picture(2, 3, 8, 8)))
    fast.norm.eval()
    assert_ours(fast, picture())


def test_made_in_training_mode():
    model = net().train()
    fast = optimize(model)
    assert fast.training
    assert all(m.training for m in model.modules())
    assert "training mode" in str(fast.report())
    twin = copy.deepcopy(model)
    assert torch.equal(fast(picture(2, 3, 8, 8)), twin(picture(2, 3, 8, 8)))
    fast.eval()
    assert_ours(fast, picture())


def test_training_steps_are_the_originals():
    """A step of an optimiser in eval mode, with its gradients, is that of the plain module."""
    model = net()
    twin = copy.deepcopy(model)
    exact = copy.deepcopy(model).double()
    fast = optimize(model)
    for module in (fast, twin, exact):
        x = picture(2, 3, 9, 8).to(next(module.parameters()).dtype)
        steps = torch.optim.SGD(module.parameters(), 0.1)
        for _ in range(3):
            steps.zero_grad()
            module(x).square().mean().backward()
            steps.step()
    found = [[p.detach() for p in module.parameters()] for module in (fast, twin, exact)]
    assert_as_close_together(*found)
    assert_same(fast, twin, picture())


def test_hooks_on_the_module(fast, model):
    seen = []
    handle = fast.register_forward_hook(lambda m, args, y: seen.append(y.shape) or y * 2)
    assert_result(fast(picture()) / 2, net(), picture())
    assert_ours(fast, picture())
    handle.remove()
    assert len(seen) == 2
    assert_same(fast, model, picture())


@pytest.mark.usefixtures("natively")
def test_hooks_inside_put_there_later_run(fast, model):
    seen = []
    handle = fast.second.register_forward_hook(lambda m, args, y: seen.append(y))
    with pytest.warns(RuntimeWarning, match="second has other hooks"):
        y = fast(picture())
    assert torch.equal(y, model(picture()))
    assert len(seen) == 1
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_ours(fast, picture())
    assert len(seen) == 1


@pytest.mark.usefixtures("natively")
def test_hooks_inside_that_were_there_run(model):
    seen = []
    model.second.register_forward_hook(lambda m, args, y: seen.append(y) or y * 3)
    fast = optimize(model)
    seen.clear()
    y = fast(picture())
    assert len(seen) == 1
    assert_result(y, model, picture())
    assert_ours(fast, picture())


def test_hooks_of_all_modules_see_every_layer(fast, model):
    """As profilers and tracers register them."""
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, y: seen.append(type(m)))
    try:
        model(picture())
        expected, seen[:] = list(seen), []
        with pytest.warns(RuntimeWarning, match="hooks of all modules"):
            y = fast(picture())
    finally:
        handle.remove()
    assert len(seen) == len(expected) > 1
    assert torch.equal(y, model(picture()))
    assert_ours(fast, picture())


def test_nothing_is_optimised_under_hooks_of_all_modules(model):
    handle = nn.modules.module.register_module_forward_pre_hook(lambda m, args: None)
    try:
        fast = optimize(model)
    finally:
        handle.remove()
    assert "hooks of all modules" in str(fast.report())
    assert_original_runs(fast, picture())


def other_layer(m):
    m.act = nn.Tanh()


def other_forward(m):
    m.second.forward = lambda x: x * 2


def other_slope(m):
    m.act.negative_slope = 0.9


def other_epsilon(m):
    m.norm.eps = 0.5


def circular(m):
    for layer in (m.first, m.second, m.last):
        layer.padding_mode = "circular"


def dilated(m):
    m.second.padding = m.second.dilation = (2, 2)


def other_stride(m):
    m.second.stride, m.second.padding = (1, 1), "same"


@pytest.mark.usefixtures("natively")
@pytest.mark.parametrize(
    "change", [other_layer, other_forward, other_slope, other_epsilon, circular, dilated, other_stride]
)
@pytest.mark.parametrize("called_before", [False, True])
def test_another_structure_runs_by_the_original_forward(fast, model, change, called_before):
    if called_before:
        fast(picture())
    change(fast)
    twin = net()
    change(twin)
    with pytest.warns(RuntimeWarning, match="since it was optimised"):
        assert torch.equal(fast(picture()), twin(picture()))


def another_of_its_kind():
    torch.manual_seed(7)
    return conv(8, 8).eval()


@pytest.mark.usefixtures("natively")
def test_another_layer_of_the_same_kind(fast, model):
    fast(picture())
    fast.second, model.second = another_of_its_kind(), another_of_its_kind()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_ours(fast, picture())
    assert_same(fast, model, picture())


@pytest.mark.usefixtures("natively")
def test_another_number_of_its_own():
    class Scaled(Body):
        factor = 1.0

        def __init__(self):
            super().__init__()
            self.scale, self.mode = 0.5, "add"

        def forward(self, x):
            return super().forward(x) * self.scale

    model = Scaled().eval()
    fast = optimize(model)
    assert_ours(fast, picture())
    fast.scale = 2.0
    with pytest.warns(RuntimeWarning, match="scale has changed"):
        y = fast(picture())
    twin = copy.deepcopy(model)
    twin.scale = 2.0
    assert torch.equal(y, twin(picture()))


class Options:
    def __init__(self, factor):
        self.factor = factor


class Settled(Body):
    """Reads a tuple, a list, a dictionary, functions and an object, none of which a graph holds by name."""

    def __init__(self):
        super().__init__()
        self.pair, self.items, self.table = (1.0, 0.5), [1.0, [0.5]], {"by": 0.5}
        self.function, self.options = torch.sigmoid, Options(0.5)
        self.partial = functools.partial(F.leaky_relu, negative_slope=0.3)

    def forward(self, x):
        y = super().forward(x) * self.pair[1] * self.items[1][0] * self.table["by"]
        return self.partial(self.function(y) * self.options.factor - 0.3)


@pytest.mark.usefixtures("natively")
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pair", lambda m: setattr(m, "pair", (1.0, 2.0))),
        ("items", lambda m: m.items[1].__setitem__(0, 2.0)),
        ("table", lambda m: m.table.update(by=2.0)),
        ("function", lambda m: setattr(m, "function", torch.tanh)),
        ("options", lambda m: setattr(m, "options", Options(2.0))),
        ("partial", lambda m: setattr(m, "partial", functools.partial(F.leaky_relu, negative_slope=0.9))),
    ],
)
@pytest.mark.parametrize("through", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("called_before", [False, True])
def test_another_setting_of_its_own(name, change, through, called_before):
    torch.manual_seed(0)
    model = Settled().eval()
    fast = through(optimize(model))
    if called_before:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_ours(fast, picture())
    twin = copy.deepcopy(model)
    change(fast)
    change(twin)
    with pytest.warns(RuntimeWarning, match=f"{name} has changed"):
        y = fast(picture())
    assert torch.equal(y, twin(picture()))
    assert torch.equal(fast(picture()), twin(picture()))  # and it is not taken for the setting meant


@pytest.mark.usefixtures("natively")
def test_one_layer_more_in_a_list():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([conv(3, 3), nn.ReLU()])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    model = Listed().eval()
    fast = optimize(model)
    for layers in (fast.layers, model.layers):
        layers.append(nn.Tanh())
    with pytest.warns(RuntimeWarning, match="layers has other modules inside"):
        assert torch.equal(fast(picture()), model(picture()))


class Transposed(nn.Module):
    """A convolution whose padding follows from its weight's size."""

    def __init__(self):
        super().__init__()
        self.a, self.up = conv(3, 8), nn.ConvTranspose2d(8, 8, 4, 2, 1)

    def forward(self, x):
        return self.up(F.relu(self.a(x)))


@pytest.mark.parametrize("records", [True, False], ids=["gradients", "no gradients"])
@pytest.mark.parametrize("size", [(14, 11), (9, 8)], ids=["known size", "new size"])
def test_a_weight_of_another_shape(records, size):
    torch.manual_seed(0)
    model = Transposed().eval()
    fast = optimize(model)
    with torch.set_grad_enabled(records):
        fast(picture())
        model.up.weight = fast.up.weight = nn.Parameter(torch.randn(8, 8, 3, 3))
        x = picture(1, 3, *size)
        with pytest.warns(RuntimeWarning, match="up.weight is"):
            assert torch.equal(fast(x), model(x))


class Scaled(nn.Module):
    """Reads what its class has."""

    scale = 0.2

    def __init__(self):
        super().__init__()
        self.a, self.b, self.sides = conv(3, 8), conv(8, 3), ([1.0], 2.0)

    def forward(self, x):
        return self.b(F.relu(self.a(x))) * self.scale * self.sides[0][0]


def nested(fast, model):
    fast.sides[0][0] = model.sides[0][0] = 3.0


def shadowing(fast, model):
    fast.scale = model.scale = 2.0


@pytest.mark.usefixtures("natively")
@pytest.mark.parametrize("change", [nested, shadowing])
def test_attributes_changed_out_of_the_way(change):
    torch.manual_seed(0)
    model = Scaled().eval()
    fast = optimize(model)
    fast(picture())
    change(fast, model)
    with pytest.warns(RuntimeWarning, match="is not used"):
        assert torch.equal(fast(picture()), model(picture()))


@pytest.mark.usefixtures("natively")
def test_a_shallow_copy_has_attributes_of_its_own():
    torch.manual_seed(0)
    model = Scaled().eval()
    model.gain = 1.0
    fast = optimize(model)
    fast(picture())
    twin = copy.copy(fast)
    twin.gain = 5.0
    with pytest.warns(RuntimeWarning, match="gain has changed"):
        twin(picture())


def test_what_is_unaltered_is_known_without_python(natively, monkeypatch):
    fast, asked = optimize(net()), []
    fast(picture())
    altered = structure._altered
    monkeypatch.setattr(structure, "_altered", lambda rows: asked.append(len(rows)) or altered(rows))
    for _ in range(3):
        assert_ours(fast, picture())
    assert (sum(asked) == 0) is natively
