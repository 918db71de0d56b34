# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Models as modules: creation, inputs, copies, dtypes, compilation."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from sr_kernels import models
from sr_kernels.config import set_precision
from sr_kernels.models.base import padded
from tests.models import plain


def small(case="srvgg x2"):
    name, sizes = plain.SMALL[case]
    return plain.kaiming_(models.create(name, **sizes))


@pytest.mark.parametrize("name", models.list_models())
def test_create(name):
    sizes = {"num_block": 1} if name in ("edsr", "rrdbnet") else {}
    model = models.create(name, scale=2, **sizes)
    assert not model.training
    assert model.scale == 2
    assert type(model.receptive_radius()) is int
    x = torch.rand(1, model.in_channels, 6, 8)
    assert model(x).shape == (1, model.out_channels, 12, 16)
    assert models.create(name, **sizes).scale == models.sizes_of(name)["scale"]
    assert model.input_multiple == (2 if name == "rrdbnet" else 1)


def test_create_with_bad_arguments():
    with pytest.raises(ValueError, match="'swinir' is not known; known are srvgg"):
        models.create("swinir")
    with pytest.raises(TypeError, match="no argument 'blocks'; it has scale, channels"):
        models.create("srvgg", blocks=1)
    for name in models.list_models():
        for bad in (0, -2):
            with pytest.raises(ValueError, match=f"scale is {bad}"):
                models.create(name, scale=bad)
        with pytest.raises(TypeError, match="scale is 2.5"):
            models.create(name, scale=2.5)
    with pytest.raises(ValueError, match="scale is 6"):
        models.create("edsr", scale=6)
    with pytest.raises(ValueError, match="power of two"):
        models.create("rrdbnet", scale=3)
    with pytest.raises(ValueError, match="rgb_mean has 2"):
        models.create("edsr", rgb_mean=(0.5, 0.5))


def test_initial_weights_of_the_published_networks():
    rrdb = models.create("rrdbnet", num_feat=64, num_block=1)
    weight = rrdb.get_parameter("body.0.rdb1.conv1.weight")
    assert weight.std().item() == pytest.approx(0.1 * (2 / (64 * 9)) ** 0.5, rel=0.05)
    espcn = models.create("espcn")
    assert espcn.get_parameter("last_part.0.weight").std().item() == pytest.approx(0.001, rel=0.1)
    assert espcn.get_parameter("first_part.0.weight").std().item() == pytest.approx(
        (2 / (64 * 25)) ** 0.5, rel=0.1
    )


@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        (lambda x: x.numpy(), TypeError, "input is ndarray"),
        (lambda x: x[0], ValueError, r"shape \(3, 8, 8\); give \(N, 3, H, W\)"),
        (lambda x: x[:, :2], ValueError, r"shape \(1, 2, 8, 8\)"),
        (lambda x: x[:, :, :0], ValueError, "at least 1"),
        (lambda x: (255 * x).to(torch.uint8), TypeError, "uint8"),
        (lambda x: x.double(), TypeError, "float64, the weights torch.float32"),
        (lambda x: x.to("meta"), TypeError, "on meta"),
    ],
)
def test_bad_inputs(bad, error, match):
    with pytest.raises(error, match=match):
        small()(bad(torch.rand(1, 3, 8, 8)))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(2, 3),
        lambda x: x[:, :, ::2, 1:],
        lambda x: x.flip(1),
        lambda x: x[:1].expand(2, -1, -1, -1),
        lambda x: x[:0],
    ],
)
def test_any_input_layout(view):
    model = small()
    x = view(torch.rand(2, 3, 10, 12))
    y = model(x)
    assert y.is_contiguous()
    assert torch.equal(y, model(x.contiguous()))


@pytest.mark.parametrize("case", ["srvgg x2", "espcn x3", "fsrcnn x3", "edsr x2", "rrdbnet x2"])
def test_copies_compute_the_same(case):
    model = small(case)
    x = torch.rand(1, model.in_channels, 7, 9)
    y = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), y)
        assert twin.receptive_radius() == model.receptive_radius()
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in model.parameters()}


@pytest.mark.parametrize("case", ["srvgg x2", "edsr x2"])
def test_functional_call_and_named_parameters(case):
    """State dict and named_parameters have the same names, so that EMA and functional transforms work."""
    model = small(case)
    assert set(dict(model.named_parameters())) == set(model.state_dict())
    x = torch.rand(1, 3, 6, 6)
    doubled = {k: 2 * v for k, v in model.named_parameters()}
    y = torch.func.functional_call(model, doubled, (x,))
    model.load_state_dict(doubled)
    assert torch.equal(model(x), y)


@pytest.mark.parametrize("case", ["srvgg x2", "edsr x3", "rrdbnet x2", "fsrcnn x2 small"])
def test_compiles_as_one_graph(case):
    model = small(case)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.rand(1, model.in_channels, 8, 10)
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))


def test_exports():
    model = small()
    x = torch.rand(1, 3, 8, 10)
    exported = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        assert torch.equal(exported(x), model(x))


def test_residual_scale_of_the_published_edsr():
    with torch.device("meta"):
        wide, narrow = (models.create("edsr", num_feat=n, num_block=1) for n in (256, 64))
    assert wide.get_submodule("body.0.conv2").scale == 0.1
    assert narrow.get_submodule("body.0.conv2").scale == 1


def test_autocast():
    model = small()
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    with torch.no_grad():
        assert (y.float() - model(x)).abs().max() < 0.1


def test_one_training_step_lowers_the_loss():
    model = small().train()
    x, target = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = (model(x) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_embedded_names_the_scales_it_has():
    with pytest.raises(ValueError, match="scale is 7; the package carries weights for"):
        models.embedded(7)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("multiple", [2, 4])
def test_padding_to_a_multiple_reflects_back_and_forth(length, multiple):
    x = torch.arange(length * 3.0).view(1, 1, length, 3)
    for image, axis in ((x, 2), (x.transpose(2, 3), 3)):
        found = padded(image, multiple).select(5 - axis, 0).flatten()
        missing = -length % multiple
        expected = np.pad(x[0, 0, :, 0].numpy(), (0, missing), "reflect" if length > 1 else "edge")
        assert found.tolist() == expected.tolist()


def test_hooks_of_edsrs_last_convolution_count():
    case = "edsr x2"
    name, sizes = plain.SMALL[case]
    ours, theirs = models.create(name, **sizes), plain.build(case)
    ours.load_state_dict(theirs.state_dict())
    for model in (ours, theirs):
        model.conv_last.register_forward_hook(lambda module, inputs, output: 2 * output)
    x = torch.rand(1, 3, 8, 9)
    with torch.no_grad(), set_precision("highest"):
        torch.testing.assert_close(ours(x), theirs(x))
