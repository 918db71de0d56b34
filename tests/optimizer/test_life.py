# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What may happen to an optimised module after it was made: everything that may happen to any module."""

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

import sr_kernels
from sr_kernels import optimize
from sr_kernels.optimizer import Report
from tests.closeness import assert_as_close_together
from tests.optimizer.networks import (
    Body,
    Net,
    assert_original_runs,
    assert_ours,
    assert_same,
    conv,
    kernels_of,
    net,
    picture,
)


@pytest.fixture
def model():
    return net()


@pytest.fixture
def fast(model):
    return optimize(model)


class Opaque(nn.Module):
    """No graph as a whole; two parts inside have one."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([Body(), Body()])

    def forward(self, x, loud=False):
        for part in self.parts if float(x.sum()) > -1e9 else ():
            x = part(x)
        return x


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
def test_changed_weights_are_noticed(fast, model, change, layer, side):
    before = fast(picture())
    change(getattr({"fast": fast, "model": model}[side], layer))
    assert not torch.equal(model(picture()), before)
    assert_same(fast, model, picture())
    assert_ours(fast, picture())


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
    fast = optimize(model)
    for module in (fast, twin):
        steps = torch.optim.SGD(module.parameters(), 0.1)
        for _ in range(3):
            steps.zero_grad()
            module(picture(2, 3, 9, 8)).square().mean().backward()
            steps.step()
    for ours, theirs in zip(fast.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert_same(fast, twin, picture())


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
    twin = copy.deepcopy(model)
    twin.zero_grad()
    twin(picture()).sum().backward()
    torch.testing.assert_close(model.second.weight.grad, twin.second.weight.grad)


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
    model = make().eval()
    fast = optimize(model)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=fullgraph)
    for shape in ((1, 3, 14, 11), (2, 3, 8, 9)):
        assert_same(compiled, model, picture(*shape))
        assert_ours(compiled, picture(*shape))


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
    assert_same(torch.func.vmap(fast), torch.func.vmap(model), picture(3, 1, 3, 9, 8), exact=Vmapped(model))


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
    torch.testing.assert_close(ours, twin(picture()))
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
    twin = copy.deepcopy(model)
    twin.zero_grad()
    twin(picture()).sum().backward()
    torch.testing.assert_close(model.first.weight.grad, twin.first.weight.grad)


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


def test_hooks_on_the_module(fast, model):
    seen = []
    handle = fast.register_forward_hook(lambda m, args, y: seen.append(y.shape) or y * 2)
    assert torch.allclose(fast(picture()), 2 * net()(picture()), atol=1e-5)
    assert_ours(fast, picture())
    handle.remove()
    assert len(seen) == 2
    assert_same(fast, model, picture())


def test_hooks_inside_put_there_later_run(fast, model):
    seen = []
    handle = fast.second.register_forward_hook(lambda m, args, y: seen.append(y))
    with pytest.warns(RuntimeWarning, match="second has hooks"):
        y = fast(picture())
    assert torch.equal(y, model(picture()))
    assert len(seen) == 2
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_ours(fast, picture())
    assert len(seen) == 2


def test_hooks_inside_that_were_there_run(model):
    seen = []
    model.second.register_forward_hook(lambda m, args, y: seen.append(y) or y * 3)
    fast = optimize(model)
    seen.clear()
    y = fast(picture())
    assert len(seen) == 1
    torch.testing.assert_close(y, model(picture()))
    assert_ours(fast, picture())


def other_layer(m):
    m.act = nn.Tanh()


def other_forward(m):
    m.second.forward = lambda x: x * 2


def other_slope(m):
    m.act.negative_slope = 0.9


def other_epsilon(m):
    m.norm.eps = 0.5


@pytest.mark.parametrize("change", [other_layer, other_forward, other_slope, other_epsilon])
@pytest.mark.parametrize("called_before", [False, True])
def test_another_structure_runs_by_the_original_forward(fast, model, change, called_before):
    if called_before:
        fast(picture())
    change(fast)
    twin = net()
    change(twin)
    with pytest.warns(RuntimeWarning, match="since it was optimised"):
        assert torch.equal(fast(picture()), twin(picture()))


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
    torch.testing.assert_close(y, 4 * model(picture()))


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
    fast.layers.append(conv(3, 3))
    with pytest.warns(RuntimeWarning, match="layers has other modules inside"):
        assert torch.equal(fast(picture()), model(picture()))


@pytest.mark.parametrize(
    "x",
    [
        picture(2, 3, 9, 8).contiguous(memory_format=torch.channels_last),
        picture(2, 3, 20, 30)[:, :, ::2, 3:14],
        picture(2, 9, 9, 8)[:, 2:5],
        picture(1, 1, 9, 8).expand(2, 3, 9, 8),
        picture(2, 9, 8, 3).permute(0, 3, 1, 2),
        picture(3, 3, 1, 1),
        picture(1, 3, 1, 31),
    ],
    ids=["channels_last", "strided", "channels", "expanded", "permuted", "1x1", "row"],
)
def test_any_layout_and_size(fast, model, x):
    before = x.clone()
    assert_same(fast, model, x)
    assert_ours(fast, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("last", [False, True])
def test_results_have_the_originals_layout(fast, model, last):
    x = picture(2, 3, 9, 8)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    with torch.no_grad():
        assert fast(x).stride() == model(x).stride()


def test_empty_batch(fast, model):
    assert fast(picture()[:0]).shape == (0, 3, 28, 22)
    x = picture()[:0].requires_grad_()
    fast(x).sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize(
    "args",
    [
        (),
        (picture(1, 4, 8, 8),),
        (picture(8, 8),),
        (picture().double(),),
        (picture().to(torch.int32),),
        ("picture",),
        (None,),
        (picture(), picture()),
    ],
    ids=["none", "channels", "rank", "double", "int", "str", "None", "two"],
)
def test_wrong_inputs_give_the_originals_error(fast, model, args):
    with pytest.raises(Exception) as theirs:
        model(*args)
    with pytest.raises(type(theirs.value)) as ours:
        fast(*args)
    assert str(ours.value).replace("OptimizedNet", "Net") == str(theirs.value).replace("OptimizedNet", "Net")


def test_an_image_without_a_batch_dimension(fast, model):
    module = Body().eval()
    ours = optimize(module)
    assert torch.equal(ours(picture()[0]), module(picture()[0]))


class WithOptions(Body):
    def forward(self, x, scale=1.0, *, add=None, sides=(1, 1)):
        y = super().forward(x) * scale
        return y if add is None else y + add


def test_keywords_and_defaults():
    model = WithOptions().eval()
    fast = optimize(model)
    x = picture()
    assert_ours(fast, x)
    assert_ours(fast, x=x)
    assert_ours(fast, x, 1.0)
    assert_ours(fast, x, scale=1.0, add=None, sides=(1, 1))
    assert_same(fast, model, x)
    for args, kwargs in (
        ((x, 2.0), {}),
        ((x,), {"scale": 3.0}),
        ((x,), {"add": x}),
        ((x,), {"sides": (2, 2)}),
    ):
        assert torch.equal(fast(*args, **kwargs), model(*args, **kwargs))
    for args, kwargs in (((), {"scale": 1.0}), ((x,), {"other": 1}), ((x, 1.0, None), {})):
        with pytest.raises(TypeError) as theirs:
            model(*args, **kwargs)
        with pytest.raises(TypeError) as ours:
            fast(*args, **kwargs)
        assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype(model, dtype):
    state = copy.deepcopy(model.state_dict())
    fast = optimize(model, dtype=dtype)
    assert fast.original is model
    assert {p.dtype for p in fast.parameters()} == {dtype}
    assert all(torch.equal(p, state[name]) for name, p in model.state_dict().items())
    x = picture()
    y = fast(x)
    assert y.dtype == torch.float32
    assert fast(x.to(dtype)).dtype == dtype
    assert fast(x=x).dtype == torch.float32
    error = (y - model(x)).double().square().mean().sqrt() / model(x).square().mean().sqrt()
    assert error < 8 * torch.finfo(dtype).eps
    loaded = pickle.loads(pickle.dumps(fast))
    assert torch.equal(loaded(x), y)
    assert torch.equal(copy.deepcopy(fast)(x), y)


def test_dtype_that_the_module_does_not_take():
    class Stubborn(Body):
        def forward(self, x):
            return super().forward(x.float())

    model = Stubborn().eval()
    fast = optimize(model, dtype=torch.bfloat16)
    assert torch.equal(fast(picture()), model(picture())) or fast.report().parity.holds
    assert "nothing is converted" in str(fast.report())
    assert fast.one.weight.dtype == torch.float32


def test_dtype_of_a_module_whose_forward_is_an_attribute(model):
    model.forward = model.forward
    fast = optimize(model, dtype=torch.bfloat16)
    y = fast(picture())
    assert y.dtype == torch.float32
    assert not torch.equal(y, model(picture()))
    torch.testing.assert_close(y, model(picture()), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_precision_is_its_own(model, precision):
    fast = optimize(model, precision=precision)
    with sr_kernels.set_precision("highest"):
        if precision != "medium":
            assert_same(fast, model, picture())
        inside = kernels_of(fast, picture(1, 3, 64, 64))
    assert kernels_of(fast, picture(1, 3, 64, 64)) == inside


def test_backend(model):
    fast = optimize(model, backend="torch")
    assert not [name for name in kernels_of(fast, picture()) if not name.startswith("torch")]
    assert_same(fast, model, picture())


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"dtype": "bfloat16"}, TypeError),
        ({"dtype": torch.int8}, TypeError),
        ({"backend": "abacus"}, ValueError),
        ({"precision": "low"}, ValueError),
        ({"example_inputs": 3}, TypeError),
    ],
)
def test_wrong_arguments(model, settings, error):
    with pytest.raises(error):
        optimize(model, **settings)
    with pytest.raises(TypeError, match="give a torch.nn.Module"):
        optimize(lambda x: x)


def test_random_numbers_and_switches_are_left_as_they_were(model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    optimize(model)
    assert torch.equal(torch.rand(3), expected)
    assert torch.is_grad_enabled()
    assert sr_kernels.config.get_precision() == "high"
