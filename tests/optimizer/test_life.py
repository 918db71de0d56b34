# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Where optimised modules go: to other dtypes, files, threads, compilers, gradients"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn

from sr_kernels import optimize
from sr_kernels.optimizer import Report
from tests.closeness import assert_as_close_together
from tests.optimizer.networks import (
    Body,
    Net,
    Opaque,
    assert_ours,
    assert_result,
    assert_same,
    assert_weights_gradients,
    kernels_of,
    net,
    picture,
)

# An optimised form that gives up, in favour of the original, says so.
pytestmark = pytest.mark.filterwarnings("error:.*the optimised form")


def test_it_is_a_module_of_its_class(fast, model):
    assert isinstance(fast, Net)
    assert inspect.signature(fast.forward) == inspect.signature(model.forward)
    assert list(fast.state_dict()) == list(model.state_dict())
    assert [n for n, _ in fast.named_modules()] == [n for n, _ in model.named_modules()]
    assert all(a is b for a, b in zip(fast.parameters(), model.parameters(), strict=True))
    assert fast.original is model
    assert type(model) is Net
    assert isinstance(fast.report(), Report)
    assert_ours(fast, picture())
    assert_same(fast, model, picture())


def test_optimising_an_optimised_module_starts_from_its_original(fast, model):
    again = optimize(fast)
    assert again.original is model
    assert type(again) is type(fast)


class Held(nn.Module):
    """Names its layers in a list, a dictionary and by a method, beside where they hang; one hangs twice."""

    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(3, 3, 3, 1, 1), nn.BatchNorm2d(3), Body()
        self.again = self.norm
        self.layers, self.table, self.last = [self.one, self.norm], {"two": self.two}, self.two.forward

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.again(self.last(self.table["two"](x)))


def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3, 1, 1))


@pytest.mark.parametrize("make", [plain, Net, Opaque, Held])
def test_modes_and_hooks_are_its_own(make):
    model = make().eval()
    fast = optimize(model)
    y = model(picture())
    fast.train()
    assert all(m.training for m in fast.modules())
    assert not any(m.training for m in model.modules())
    assert len(list(fast.modules())) == len(list(model.modules()))
    for m in fast.modules():
        m.register_forward_hook(lambda m, args, y: y * 2)
        m.register_forward_pre_hook(lambda m, args: None)
        m.register_state_dict_pre_hook(lambda m, prefix, keep_vars: None)
    assert torch.equal(model(picture()), y)
    assert not any(table for m in model.modules() for name, table in vars(m).items() if "_hooks" in name)


def test_layers_that_are_named_otherwise_are_its_own():
    model = Held().eval()
    fast = optimize(model)
    fast.train()
    twin = copy.deepcopy(model).train()
    twin.last = twin.two.forward  # a copied method is the original's
    assert torch.equal(fast(picture()), twin(picture()))
    assert torch.equal(fast.norm.running_mean, twin.norm.running_mean)
    assert fast.again is fast.norm is fast.layers[1]
    fast.eval()
    assert_ours(fast, picture())


class Interrupted(nn.Module):
    """Counts its calls, draws a random number, and fails as no Exception does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if type(x) is torch.Tensor:
            self.calls.add_(1)
            torch.rand(())
            raise KeyboardInterrupt
        return x * 2


def test_an_interruption_leaves_the_module_as_it_was():
    model = Interrupted().train()
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        optimize(model, picture())
    assert model.calls == 0
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_to_another_dtype(fast, model, dtype):
    exact = copy.deepcopy(model)
    fast.to(dtype)
    assert {p.dtype for p in fast.parameters()} == {dtype}
    exact.load_state_dict(fast.state_dict())
    assert_same(fast, model, picture().to(dtype), exact=exact)


def test_half_and_back(fast, model):
    for change in (fast.half, fast.float, fast.bfloat16, fast.float):
        change()
        x = picture().to(fast.first.weight.dtype)
        assert_same(fast, model, x)


def test_to_the_meta_device(fast):
    found = copy.deepcopy(fast).to("meta")(picture().to("meta"))
    assert found.shape == (1, 3, 28, 22)


@pytest.mark.parametrize("make", [Net, Opaque])
def test_deepcopy_shares_nothing(make):
    torch.manual_seed(0)
    model = make().eval()
    fast = optimize(model)
    twin = copy.deepcopy(fast)
    before = fast(picture())
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(0.5)
    assert torch.equal(fast(picture()), before)
    assert_ours(twin, picture())
    assert_same(twin, twin.original, picture())
    assert not torch.allclose(twin(picture()), before)


def save_and_load(module):
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize("through", [save_and_load, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("make", [Net, Opaque])
def test_pickled(through, make):
    torch.manual_seed(0)
    fast = optimize(make().eval())
    loaded = through(fast)
    assert type(loaded) is type(fast)
    assert str(loaded.report()) == str(fast.report())
    assert kernels_of(loaded, picture()) == kernels_of(fast, picture()) != []
    assert torch.equal(loaded(picture()), fast(picture()))
    with torch.no_grad():
        for p in loaded.original.parameters():
            p.mul_(0.5)
    assert_same(loaded, loaded.original, picture())


def test_state_dict_loads_into_plain_and_back(fast, model):
    plain = Net().eval()
    plain.load_state_dict(fast.state_dict())
    assert torch.equal(plain(picture()), model(picture()))
    other = Net().eval()
    fast(picture())
    fast.load_state_dict(other.state_dict())
    assert_same(fast, other, picture())
    fast.load_state_dict(plain.state_dict(), assign=True)
    assert_same(fast, plain, picture())


def gradients(module, x, second):
    weights = list(module.parameters())
    found = torch.autograd.grad(module(x).sin().sum(), [x, *weights], create_graph=second)
    if second:
        found = torch.autograd.grad(sum(g.square().sum() for g in found), [x, *weights])
    return found


@pytest.mark.parametrize("second", [False, True])
def test_gradients(fast, model, second):
    x = picture(2, 3, 7, 6).requires_grad_()
    theirs, ours = gradients(model, x, second), gradients(fast, x, second)
    exact = gradients(copy.deepcopy(model).double(), x.detach().double().requires_grad_(), second)
    assert_as_close_together(ours, theirs, exact)


def test_gradients_of_weights_alone(fast, model):
    model.first.weight.requires_grad_(False)
    fast(picture()).sum().backward()
    assert model.first.weight.grad is None
    assert model.second.weight.grad is not None
    assert_weights_gradients(model.second.weight.grad, model, "second.weight", picture())


def test_no_gradients_no_graph(fast):
    fast.requires_grad_(False)
    assert not fast(picture()).requires_grad
    assert fast(picture().requires_grad_()).requires_grad
    with torch.no_grad():
        assert not fast(picture().requires_grad_()).requires_grad


def test_inference_mode(model):
    with torch.inference_mode():
        fast = optimize(model)
        assert fast(picture()).is_inference()
        assert_ours(fast, picture())
    assert_same(fast, model, picture())
    x = picture().requires_grad_()
    fast(x).sum().backward()
    assert x.grad is not None


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        model = net()
        fast = optimize(model)
        assert_same(fast, model, picture())
        model.first.weight.mul_(0.5)
        assert_same(fast, model, picture())


@pytest.mark.parametrize("make", [Net, Body, Opaque])
def test_autocast_gives_the_originals_dtype_and_values(make):
    model = make().eval()
    fast = optimize(model)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = fast(picture()), model(picture())
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
        again = optimize(model)
    assert_ours(again, picture())


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("make", [Net, Body])
def test_compiled(make, fullgraph):
    torch.compiler.reset()  # what other tests have compiled counts too
    model = make().eval()
    fast = optimize(model)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=fullgraph)
    for shape in ((1, 3, 14, 11), (2, 3, 8, 9)):
        assert_same(compiled, model, picture(*shape))
        assert_ours(compiled, picture(*shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_ours(fast, picture())  # compiling leaves a mark on it
        assert_ours(copy.deepcopy(fast), picture())


def test_compiled_within_another_module():
    class Outer(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x * 2) + 1

    model = net()
    outer = torch.compile(Outer(optimize(model)), backend="aot_eager", fullgraph=True)
    assert_same(outer, Outer(model), picture())
    assert_ours(outer, picture())


def test_optimising_a_module_that_is_compiled():
    model = torch.compile(net(), backend="aot_eager")
    fast = optimize(model)
    assert_same(fast, net(), picture())


def test_compiled_with_parts_inside():
    model = Opaque().eval()
    fast = torch.compile(optimize(model), backend="aot_eager")
    assert_same(fast, model, picture())


@pytest.mark.parametrize("make", [Net, Body])
def test_exported(make):
    model = make().eval()
    n, h, w = torch.export.Dim("n"), torch.export.Dim("h", min=4), torch.export.Dim("w", min=4)
    program = torch.export.export(
        optimize(model), (picture(2, 3, 9, 8),), dynamic_shapes=({0: n, 2: h, 3: w},)
    )
    assert {"sr_kernels"} <= {str(node.target).split(".")[0] for node in program.graph.nodes}
    assert_same(program.module(), model, picture(1, 3, 14, 11))


def test_traced_by_others(fast, model):
    traced = torch.jit.trace(fast, picture())
    assert_same(traced, model, picture(1, 3, 9, 9))
    symbolic = torch.fx.symbolic_trace(fast)
    assert_same(symbolic, model, picture())
    with pytest.warns(RuntimeWarning, match="inside of vmap"):  # of which torch knows no channels_last
        assert_same(
            torch.func.vmap(fast), torch.func.vmap(model), picture(3, 1, 3, 9, 8), exact=Vmapped(model)
        )


class Vmapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = copy.deepcopy(inner)

    def forward(self, x):
        return torch.stack([self.inner(part) for part in x])


def test_functional_call(fast, model):
    halved = {name: p.detach() * 0.5 for name, p in model.named_parameters()}
    twin = copy.deepcopy(model)
    twin.load_state_dict({**model.state_dict(), **halved})
    fast(picture())
    ours = torch.func.functional_call(fast, halved, (picture(),))
    assert_result(ours, twin, picture())
    assert_same(fast, model, picture())


def test_dataparallel_replicas(fast, model):
    fast(picture())
    replica = fast._replicate_for_data_parallel()
    parts = dict(fast.named_modules())
    copies = {name: m._replicate_for_data_parallel() for name, m in parts.items() if name}
    for name, m in {"": replica, **copies}.items():
        for child in parts[name]._modules:
            m._modules[child] = copies[f"{name}.{child}".lstrip(".")]
        for key, p in parts[name]._parameters.items():  # as torch.nn.parallel.replicate does
            setattr(m, key, p * 1.0)
    assert_ours(replica, picture())
    assert_same(replica, model, picture(), exact=copy.deepcopy(model))
    replica(picture()).sum().backward()
    assert_weights_gradients(model.first.weight.grad, model, "first.weight", picture())


def test_eight_threads_at_once(fast, model):
    pictures = [picture(1, 3, 8 + i, 20 - i, seed=i) for i in range(8)]
    with torch.no_grad():
        expected = [fast(x) for x in pictures]
    fast = copy.deepcopy(fast)
    found: dict[int, list[bool]] = {i: [] for i in range(8)}
    gate = threading.Barrier(8)

    def work(i):
        gate.wait()
        with torch.no_grad():
            for k in range(20):
                j = (i + k) % 8
                found[i].append(torch.equal(fast(pictures[j]), expected[j]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(same) == 20 and all(same) for same in found.values())
