# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Modules of every kind: each comes back as a working module, the parts that have a graph optimised."""

from __future__ import annotations

import abc
import collections
import copy
import random
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels import optimize
from sr_kernels.optimizer.graph.capture import capture
from tests.optimizer.networks import (
    Body,
    assert_original_runs,
    assert_ours,
    assert_results,
    assert_same,
    conv,
    net,
    picture,
)

# An optimised form that gives up, in favour of the original, says so.
pytestmark = pytest.mark.filterwarnings("error:.*the optimised form")


def no_work(*args, **kwargs):
    raise AssertionError("this shall not run")


class Branches(nn.Module):
    """Control flow that depends on values."""

    def __init__(self):
        super().__init__()
        self.body, self.other = Body(), Body()

    def forward(self, x):
        return self.body(x) if x.mean() > 0 else self.other(x)


class Sizes(nn.Module):
    """Control flow that depends on the size."""

    def __init__(self):
        super().__init__()
        self.body = Body()

    def forward(self, x):
        h, w = x.shape[-2:]
        if h % 4 or w % 4:
            x = F.pad(x, (0, -w % 4, 0, -h % 4), mode="replicate")
        return self.body(x)[..., :h, :w]


class Star(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Body()

    def forward(self, *args, **kwargs):
        return self.body(args[0]) * kwargs.get("scale", 1.0)


class UnreadStar(Body):
    def forward(self, x, *args, **kwargs):
        return super().forward(x)


class Many(nn.Module):
    """Two in, several out."""

    def __init__(self):
        super().__init__()
        self.body, self.other = Body(), Body()

    def forward(self, x, y):
        a, b = self.body(x), self.other(y)
        return {"sum": a + b, "parts": (a, [b, x]), "number": 3, "none": None}


Pair = collections.namedtuple("Pair", "a b")


class NamedPair(Body):
    def forward(self, x):
        y = super().forward(x)
        return Pair(y, y * 2)


class InTuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Body()

    def forward(self, pair):
        return self.body(pair[0]) + pair[1]


class NoParameters(nn.Module):
    def forward(self, x):
        return F.interpolate(F.relu(x), scale_factor=2, mode="nearest")


class Nothing(nn.Module):
    def forward(self, x):
        return x


class LazyBuffer(nn.Module):
    """Makes a buffer when it first runs."""

    def __init__(self):
        super().__init__()
        self.body = Body()

    def forward(self, x):
        if not hasattr(self, "mask"):
            self.register_buffer("mask", torch.linspace(0.5, 1.5, 3).view(1, 3, 1, 1))
        return self.body(x) * self.mask


class Counter(nn.Module):
    """Writes attributes, a buffer in place and a new one, in forward."""

    def __init__(self):
        super().__init__()
        self.body, self.calls, self.seen = Body(), 0, []
        self.register_buffer("total", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.total += 1
        self.last = x.mean()
        return self.body(x) + self.total


class Shared(nn.Module):
    """One part in two places and called twice."""

    def __init__(self):
        super().__init__()
        self.a = Body()
        self.b = nn.Sequential(self.a, nn.ReLU(), self.a)

    def forward(self, x):
        return self.b(self.a(x)) if x.sum() > -1e9 else x


class Recursive(nn.Module):
    """Calls itself."""

    def __init__(self):
        super().__init__()
        self.body = Body()

    def forward(self, x, depth=2):
        return self.forward(self.body(x), depth - 1) if depth else x


class Typed(nn.Module):
    """Asks what it was given: a graph would take the wrong branch."""

    def __init__(self):
        super().__init__()
        self.body = Body()

    def forward(self, x):
        return self.body(x) if isinstance(x, torch.Tensor) else self.body(x * 100)


class Slots(Body):
    __slots__ = ("extra",)


class Meta(type):
    def __call__(cls, *args, **kwargs):
        return super().__call__(*args, **kwargs)


class WithMeta(Body, metaclass=Meta):
    pass


class Abstract(Body, abc.ABC):
    @abc.abstractmethod
    def name(self): ...


class Concrete(Abstract):
    def name(self):
        return "concrete"


class Final(Body):
    """No class can be derived from it."""

    def __init_subclass__(cls):
        raise TypeError("final")


class HasReport(Body):
    """Uses the names that optimised modules have."""

    def __init__(self):
        super().__init__()
        self.original = conv(3, 3)

    def report(self):
        return 2.0

    def forward(self, x):
        return super().forward(self.original(x)) * self.report()


class OwnAttribute(Body):
    def __getattr__(self, name):
        return 7.0 if name == "seven" else super().__getattr__(name)

    def forward(self, x):
        return super().forward(x) * self.seven


class Statistics(Body):
    """Numbers from a tensor decide."""

    def forward(self, x):
        return super().forward(x) * x.max().item()


class Numpy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Body()

    def forward(self, x):
        y = self.body(x).detach().numpy()
        return torch.from_numpy(y * 2)


class MakesTensors(nn.Module):
    """A grid from the size alone."""

    def __init__(self):
        super().__init__()
        self.body = Body()

    def forward(self, x):
        grid = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
        return self.body(x) + grid


class Windows(nn.Module):
    """Attention in windows: reshapes by sizes that are known when it runs."""

    def __init__(self):
        super().__init__()
        self.first, self.last = Body(), conv(3, 3)
        self.qkv = nn.Linear(3, 9)

    def forward(self, x):
        x = self.first(x)
        n, c, h, w = x.shape
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        y = (torch.softmax(q @ k.transpose(1, 2), -1) @ v).transpose(1, 2).reshape(n, c, h, w)
        return self.last(y) + x


CASES = [
    Branches, Sizes, Star, UnreadStar, NamedPair, NoParameters, Nothing, Shared, Recursive,
    Typed, Slots, WithMeta, Concrete, Final, HasReport, OwnAttribute, Statistics, Numpy,
    MakesTensors, Windows,
]  # fmt: skip
PLAIN = {Nothing, NoParameters, Final}  # where no kernel of ours is to run


def make(kind):
    torch.manual_seed(0)
    return kind().eval()


@pytest.mark.parametrize("kind", CASES, ids=[kind.__name__ for kind in CASES])
def test_any_module_works(kind):
    twin, model = make(kind), make(kind)
    fast = optimize(model)
    assert isinstance(fast, kind)
    for shape in ((1, 3, 16, 16), (2, 3, 13, 10)):
        with torch.no_grad():
            assert_results(fast(picture(*shape)), twin, picture(*shape))
    (assert_original_runs if kind in PLAIN else assert_ours)(fast, picture())
    assert list(fast.state_dict()) == list(twin.state_dict())
    assert_results(copy.deepcopy(fast)(picture()), twin, picture())


def test_a_branch_that_samples_do_not_take():
    model = make(Branches)
    fast = optimize(model)
    assert_same(fast, model, picture() - 9)
    assert "optimised in parts (body)" in str(fast.report())
    assert "other: it was not called" in str(fast.report())


def test_recursion_with_another_depth():
    model = make(Recursive)
    fast = optimize(model)
    assert_same(fast, model, picture(), 4)


def test_stars_with_more_arguments():
    model = make(UnreadStar)
    fast = optimize(model)
    assert_ours(fast, picture())
    assert torch.equal(fast(picture(), 1, scale=2), model(picture(), 1, scale=2))


def test_several_inputs_and_outputs():
    model = make(Many)
    assert "give example_inputs" in str(optimize(model).report())
    for example in ((picture(), picture()), {"x": picture(), "y": picture()}, [(picture(), picture())]):
        fast = optimize(model, example)
        with torch.no_grad():
            assert_results(fast(picture(), picture()), model, picture(), picture())
            x = picture(2, 3, 9, 9)
            assert_results(fast(y=x, x=x), model, x, x)
        assert_ours(fast, picture(), picture())


def test_a_tuple_as_input():
    model = make(InTuple)
    fast = optimize(model, ((picture(), picture()),))
    assert_results(fast((picture(), picture())), model, (picture(), picture()))
    assert_ours(fast, (picture(), picture()))


def test_what_forward_writes_is_taken_back_and_goes_on():
    model, twin = make(Counter), make(Counter)
    before = copy.deepcopy(model.state_dict())
    fast = optimize(model)
    assert model.calls == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for _ in range(3):
        before = copy.deepcopy(twin)
        twin(picture())
        assert_results(fast(picture()), before, picture())
    assert fast.calls == twin.calls == 3
    assert torch.equal(fast.total, twin.total)
    assert_ours(fast, picture())


def test_a_buffer_made_at_the_first_call():
    model = make(LazyBuffer)
    fast = optimize(model)
    assert not hasattr(model, "mask")
    with pytest.warns(RuntimeWarning, match="mask"):
        fast(picture())
    assert_ours(fast, picture())
    assert_results(fast(picture()), make(LazyBuffer), picture())
    assert fast.mask.shape == (1, 3, 1, 1)


@pytest.mark.parametrize("wrap", [torch.jit.script, lambda m: torch.jit.trace(m, picture())])
def test_torchscript(wrap):
    model = wrap(make(Body))
    fast = optimize(model)
    assert torch.equal(fast(picture()), model(picture()))
    assert "TorchScript" in str(fast.report())
    assert fast.original is model
    assert list(fast.state_dict()) == list(model.state_dict())


def test_torchscript_inside():
    model = nn.Sequential(torch.jit.script(make(Body)), make(Body))
    fast = optimize(model)
    eager = nn.Sequential(make(Body), make(Body))
    eager.load_state_dict(model.state_dict())
    assert_results(fast(picture()), eager, picture())
    assert_ours(fast, picture())
    copy.deepcopy(fast)(picture())


def test_final_class_tells_why():
    model = make(Final)
    fast = optimize(model)
    assert "no class can be derived" in str(fast.report())
    assert fast.original is model
    assert "no class can be derived" in str(copy.deepcopy(fast).report())


def test_final_class_inside():
    model = nn.Sequential(make(Final), make(Branches))
    fast = optimize(model)
    assert_results(fast(picture()), model, picture())
    assert_ours(fast, picture())


def test_forward_as_an_attribute():
    model = make(Branches)
    forward = model.body.forward
    model.body.forward = lambda x: forward(x) * 2
    fast = optimize(model)
    assert torch.equal(fast(picture()), model(picture()))
    model.forward = lambda x: x * 3
    fast = optimize(model)
    assert torch.equal(fast(picture()), picture() * 3)
    assert "attribute" in str(fast.report())


def test_lazy_layers():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU()).eval()
    fast = optimize(model)
    assert "call it once" in str(fast.report())
    assert fast(picture()).shape == (1, 4, 12, 9)
    assert_ours(optimize(model), picture())


def test_on_the_meta_device():
    with torch.device("meta"):
        model = Body().eval()
    fast = optimize(model)
    assert "meta" in str(fast.report())
    assert fast(picture().to("meta")).shape == (1, 3, 14, 11)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Body()

    def forward(self, x):
        return F.dropout(self.body(x + 0.1 * torch.rand_like(x)), 0.5, training=True)


class PythonNoise(Body):
    def forward(self, x):
        return super().forward(x) * random.random()


class Fixed(Body):
    """Random weights are made in forward, from nothing that is given."""

    def forward(self, x):
        return super().forward(x) + torch.randn(3, 1, 1)


def assert_as_rounded(ours, theirs, body):
    """Results with the same random numbers, which float64 would draw otherwise: off by what the contract
    allows of eager's error in the convolutions, which these noises at most double, and that error itself."""
    with torch.no_grad():
        error = (body(picture()) - copy.deepcopy(body).double()(picture().double())).abs().max()
    half = torch.finfo(torch.float32).eps / 2
    assert ((ours - theirs).abs() <= 2 * (4 + 1) * error + half * theirs.abs()).all()


@pytest.mark.parametrize("kind", [Noisy, Fixed])
def test_random_numbers_are_those_of_the_original(kind):
    model = make(kind)
    fast = optimize(model)
    for seed in range(3):
        torch.manual_seed(seed)
        theirs = model(picture())
        torch.manual_seed(seed)
        assert_as_rounded(fast(picture()), theirs, make(Body))
    assert not torch.allclose(fast(picture()), fast(picture()))


def test_random_numbers_of_python():
    model = make(PythonNoise)
    fast = optimize(model)
    random.seed(1)
    theirs = model(picture())
    random.seed(1)
    assert_as_rounded(fast(picture()), theirs, make(Body))


class Nested(nn.Module):
    """A list in a dict in a list."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.ModuleDict({"a": nn.ModuleList([Body()])}), Branches()])

    def forward(self, x):
        for part in self.parts[0]["a"]:
            x = part(x)
        return self.parts[1](x)


def test_parts_by_path():
    found = capture(make(Nested))
    assert found.graph is not None
    assert list(found.inner) == ["parts.1"]
    assert found.inner["parts.1"].graph is None
    assert sorted(dict(found.regions())) == ["", "parts.1.body", "parts.1.other"]


def test_failing_forward():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Body()

        def forward(self, x):
            raise RuntimeError("no luck")

    fast = optimize(make(Failing))
    assert "no luck" in str(fast.report())
    with pytest.raises(RuntimeError, match="no luck"):
        fast(picture())
    fast = optimize(make(Failing), picture())
    with pytest.raises(RuntimeError, match="no luck"):
        fast(picture())


def test_optimize_never_raises_for_a_fault_of_its_own(monkeypatch):
    from sr_kernels.optimizer.proof import prove

    monkeypatch.setattr(prove, "regions", no_work)
    fast = optimize(net())
    assert "could not be optimised (AssertionError: this shall not run)" in str(fast.report())
    assert torch.equal(fast(picture()), net()(picture()))


def test_a_fault_in_running_is_warned_of_once(monkeypatch):
    fast = optimize(net())
    monkeypatch.setattr(type(fast._sr_region), "_fast", no_work)
    with pytest.warns(RuntimeWarning, match="this shall not run"):
        y = fast(picture())
    assert torch.equal(y, net()(picture()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast(picture())


class Assigning(nn.Module):
    """A forward that makes one parameter of another at every call, as reparametrised networks do."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 16), conv(16, 16)

    def forward(self, x):
        self.b.bias.data = self.a.bias.data * 100.0
        return F.relu(self.b(F.relu(self.a(x))))


def test_assigned_data_is_not_lost():
    model = make(Assigning)
    fast = optimize(copy.deepcopy(model))
    assert_same(fast, model, picture())
    assert "changes" in str(fast.report()) or "assigns the data" in str(fast.report())


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 16), conv(16, 3)

    def forward(self, x, gain=1.0):
        return self.b(F.relu(self.a(x))) * gain


def test_optional_arguments_are_what_the_example_gives():
    model = make(Gain)
    fast = optimize(model, (picture(), 2.0))
    assert_ours(fast, picture(), 2.0)
    assert_ours(fast, picture(), gain=2.0)
    assert_original_runs(fast, picture())
    with torch.no_grad():
        assert torch.equal(fast(picture()), model(picture()))
    fast = optimize(model)
    assert_ours(fast, picture())
    assert_ours(fast, picture(), gain=1.0)
    assert_original_runs(fast, picture(), 2.0)
