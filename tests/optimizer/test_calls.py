# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""How optimised modules may be called, and what optimize is asked for."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import sr_kernels
from sr_kernels import optimize
from sr_kernels.backends.base import BackendError
from tests.optimizer.networks import (
    Body,
    assert_lower,
    assert_ours,
    assert_same,
    kernels_of,
    net,
    picture,
)

# An optimised form that gives up, in favour of the original, says so.
pytestmark = pytest.mark.filterwarnings("error:.*the optimised form")


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


class InAList(Body):
    def forward(self, x):
        y = super().forward(x)
        return [y, {"twice": [y * 2]}]


def test_lists_and_dicts_are_pythons_own():
    """At the first call of a kind and at later ones, and in programs of others."""
    fast = optimize(InAList().eval())
    assert_ours(fast, picture())
    for _ in range(3):
        found = fast.requires_grad_(False)(picture())
        assert (type(found), type(found[1]), type(found[1]["twice"])) == (list, dict, list)
    found = fast.requires_grad_(True)(picture())
    assert (type(found), type(found[1]), type(found[1]["twice"])) == (list, dict, list)


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
    assert_lower(y, model, dtype, x)
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
    del model.forward  # bound to the model itself, and so to float32
    assert_lower(y, model, torch.bfloat16, picture())


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


def test_a_backend_that_is_not_there():
    with pytest.raises(BackendError, match=r"'cuda' was asked for and cannot run here: .*Leave it out"):
        optimize(net(), backend="cuda")


def test_examples_that_it_does_not_take():
    model = net()
    fast = optimize(model, picture(1, 5, 8, 8))
    assert "does not take the example inputs (RuntimeError: " in str(fast.report())
    assert torch.equal(fast(picture()), model(picture()))


def test_a_compiled_module():
    model = net()
    fast = optimize(torch.compile(model, backend="eager"))
    assert "it was compiled" in str(fast.report())
    assert fast.original is model
    assert_ours(fast, picture())


def test_examples_of_the_dtype_that_is_asked_for():
    fast = optimize(net(), picture().bfloat16(), dtype=torch.bfloat16)
    assert fast.report().regions
    assert_ours(fast, picture().bfloat16())
