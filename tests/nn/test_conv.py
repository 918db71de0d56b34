# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The fused layers against the torch.nn modules that they replace."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sr_kernels
from sr_kernels import nn as srnn
from tests.closeness import assert_as_close, assert_as_close_together

ACTIVATIONS = {
    "none": lambda c: None,
    "relu": lambda c: nn.ReLU(),
    "leaky_relu": lambda c: nn.LeakyReLU(0.2),
    "prelu, one slope": lambda c: nn.PReLU(),
    "prelu": lambda c: nn.PReLU(c),
    "silu": lambda c: nn.SiLU(),
    "gelu": lambda c: nn.GELU(),
    "tanh": lambda c: nn.Tanh(),
    "sigmoid": lambda c: nn.Sigmoid(),
}
CONVOLUTIONS = {
    "3x3": lambda: nn.Conv2d(5, 7, 3, padding=1),
    "1x1 without bias": lambda: nn.Conv2d(8, 4, 1, bias=False),
    "5x3, strided, dilated": lambda: nn.Conv2d(4, 6, (5, 3), (2, 1), (1, 2), (1, 2)),
    "grouped, same": lambda: nn.Conv2d(8, 12, 3, padding="same", groups=4),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "reflect": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "replicate": lambda: nn.Conv2d(3, 4, 5, padding=2, padding_mode="replicate"),
}


def random_slopes(module):
    for child in module.modules():
        if isinstance(child, nn.PReLU):
            nn.init.uniform_(child.weight, 0.05, 0.5)
    return module


def sequential(*modules):
    return random_slopes(nn.Sequential(*(m for m in modules if m is not None)))


def run(module, *inputs):
    """(output, gradients of the inputs and parameters), without the module's own state changed."""
    module.zero_grad(set_to_none=True)
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    y = module(*inputs)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    (y * weights).sum().backward()
    return y.detach(), [x.grad for x in inputs] + [p.grad for p in module.parameters()]


def assert_same(fused, plain, *inputs):
    """Outputs and gradients under the tolerance rule; the layer has the plain one's parameters, in order."""
    exact = copy.deepcopy(plain).double()
    with sr_kernels.set_precision("highest"):
        y, gradients = run(fused, *inputs)
        y_eager, gradients_eager = run(plain, *inputs)
    y_exact, gradients_exact = run(exact, *(x.double() for x in inputs))
    assert_as_close(y, y_eager, y_exact)
    assert_as_close_together(gradients, gradients_eager, gradients_exact)
    y, gradients = run(copy.deepcopy(fused).double(), *(x.double() for x in inputs))
    for ours, theirs in zip([y, *gradients], [y_exact, *gradients_exact], strict=True):
        assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_conv_act(convolution, activation):
    torch.manual_seed(0)
    conv = CONVOLUTIONS[convolution]()
    plain = sequential(conv, ACTIVATIONS[activation](conv.out_channels))
    fused = srnn.ConvAct2d.from_torch(*copy.deepcopy(plain))
    assert_same(fused, plain, torch.randn(2, conv.in_channels, 11, 13))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu", "prelu"])
def test_residual_conv(activation, after):
    torch.manual_seed(0)

    class Plain(nn.Sequential):
        def forward(self, x, residual):
            z = self[0](x)
            act = self[1] if len(self) > 1 else nn.Identity()
            return act(0.25 * z + residual) if after else 0.25 * act(z) + residual

    plain = Plain(*sequential(nn.Conv2d(5, 7, 3, padding=1), ACTIVATIONS[activation](7)))
    fused = srnn.ResidualConv2d.from_torch(*copy.deepcopy(plain), scale=0.25, activation_after_add=after)
    assert_same(fused, plain, torch.randn(2, 5, 9, 10), torch.randn(2, 7, 9, 10))


def test_residual_conv_with_two_weighted_residuals():
    torch.manual_seed(0)
    conv = srnn.ResidualConv2d(3, 4, 3, padding=1, scale=0.5).double()
    x, a, b = torch.randn(1, 3, 6, 6).double(), *torch.randn(2, 1, 4, 6, 6).double()
    y = conv(x, [(a, 2.0), (b, -1.0)])
    torch.testing.assert_close(y, 0.5 * F.conv2d(x, conv.weight, conv.bias, padding=1) + 2 * a - b)


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("activation", ["none", "leaky_relu", "prelu", "prelu, one slope"])
def test_pixel_shuffle_conv(activation, factor):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 5 * factor**2, 3, padding=1)
    act = ACTIVATIONS[activation](conv.out_channels)
    plain = sequential(conv, act, nn.PixelShuffle(factor))
    twin = copy.deepcopy(plain)
    act = twin[1] if act is not None else None
    fused = srnn.PixelShuffleConv2d.from_torch(twin[0], act, upscale_factor=factor)
    assert_same(fused, plain, torch.randn(2, 6, 7, 9))


@pytest.mark.parametrize("mode", [None, "nearest", "bilinear"])
def test_pixel_shuffle_conv_with_base(mode):
    torch.manual_seed(0)

    class Plain(nn.Sequential):
        def forward(self, x, base):
            enlarged = F.interpolate(base, scale_factor=2, mode=mode) if mode else base
            return super().forward(x) + enlarged

    plain = Plain(nn.Conv2d(6, 12, 3, padding=1), nn.PixelShuffle(2))
    fused = srnn.PixelShuffleConv2d.from_torch(copy.deepcopy(plain[0]), upscale_factor=2, base_mode=mode)
    side = 1 if mode else 2
    assert_same(fused, plain, torch.randn(2, 6, 7, 9), torch.randn(2, 3, 7 * side, 9 * side))


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_upsample_conv(kernel, factor):
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, kernel, padding=kernel // 2)
    plain = sequential(nn.Upsample(scale_factor=factor), conv, nn.LeakyReLU(0.2))
    fused = srnn.UpsampleConv2d.from_torch(*copy.deepcopy(plain)[1:], scale_factor=factor)
    assert_same(fused, plain, torch.randn(2, 5, 6, 7))


@pytest.mark.parametrize("activation", ["none", "prelu", "tanh"])
@pytest.mark.parametrize(
    "options",
    [(9, 3, 4, 2), (9, 2, 4, 1), (4, 2, 1, 0), (3, 1, 1, 0), (2, 2, 0, 0), ((5, 3), (3, 2), 1, (2, 1))],
)
def test_conv_transpose(options, activation):
    torch.manual_seed(0)
    plain = sequential(nn.ConvTranspose2d(5, 4, *options), ACTIVATIONS[activation](4))
    fused = srnn.ConvTransposeAct2d.from_torch(*copy.deepcopy(plain))
    assert_same(fused, plain, torch.randn(2, 5, 6, 7))


LAYERS = {
    "ConvAct2d": lambda **k: srnn.ConvAct2d(4, 6, 3, padding=1, **k),
    "ResidualConv2d": lambda **k: srnn.ResidualConv2d(4, 6, 3, padding=1, scale=0.5, **k),
    "PixelShuffleConv2d": lambda **k: srnn.PixelShuffleConv2d(4, 6, 3, padding=1, upscale_factor=3, **k),
    "UpsampleConv2d": lambda **k: srnn.UpsampleConv2d(4, 6, 3, padding=1, scale_factor=2, **k),
    "ConvTransposeAct2d": lambda **k: srnn.ConvTransposeAct2d(4, 6, 4, stride=2, padding=1, **k),
}


def call(layer, x):
    """The layer's output; a zero residual where it needs one."""
    if isinstance(layer, srnn.ResidualConv2d):
        return layer(x, torch.zeros(x.shape[0], layer.out_channels, *x.shape[2:], dtype=x.dtype))
    return layer(x)


@pytest.mark.parametrize("name", LAYERS)
def test_initialised_as_torch(name):
    """The same seed gives the same values, and leaves the same random state."""
    torch.manual_seed(3)
    fused = LAYERS[name](activation="prelu")
    after = torch.get_rng_state()
    torch.manual_seed(3)
    plain = fused.to_torch()
    conv = next(m for m in plain if hasattr(m, "kernel_size"))
    fresh = type(conv)(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(fused.weight, fresh.weight)
    assert torch.equal(fused.bias, fresh.bias)
    assert fused.prelu_weight.tolist() == [0.25]
    assert [n for n, _ in fused.named_parameters()] == ["weight", "bias", "prelu_weight"]


@pytest.mark.parametrize("activation", ["leaky_relu", "prelu"])
@pytest.mark.parametrize("name", LAYERS)
def test_state_dicts_go_both_ways(name, activation):
    torch.manual_seed(0)
    fused = LAYERS[name](activation=activation, negative_slope=0.2)
    plain = copy.deepcopy(fused.to_torch())
    for parameter in plain.parameters():
        nn.init.uniform_(parameter)
    # the keys of the sequence that the layer replaces load as they are
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 5, 6)
    scale = 0.5 if name == "ResidualConv2d" else 1.0
    torch.testing.assert_close(call(fused, x), scale * plain(x))
    # nested, under another module's prefix
    holder = nn.ModuleDict({"layer": LAYERS[name](activation=activation, negative_slope=0.2)})
    holder.load_state_dict({f"layer.{k}": v for k, v in plain.state_dict().items()})
    torch.testing.assert_close(call(holder["layer"], x), scale * plain(x))
    # and back: to_torch shares the parameters
    pointers = [{p.data_ptr() for p in module.parameters()} for module in (fused.to_torch(), fused)]
    assert pointers[0] == pointers[1]
    assert set(fused.to_torch().state_dict()) == set(plain.state_dict())


def test_foreign_keys_are_still_reported():
    layer = srnn.ConvAct2d(3, 4, 3, activation="relu")
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    with pytest.raises(RuntimeError, match="running_mean"):
        layer.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Missing"):
        layer.load_state_dict({"other": torch.zeros(1)})


@pytest.mark.parametrize("name", LAYERS)
def test_copies_and_dtypes(name):
    torch.manual_seed(0)
    layer = LAYERS[name](activation="prelu")
    x = torch.randn(2, 4, 5, 6)
    y = call(layer, x)
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    twins = [
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(stream, weights_only=False),
    ]
    for twin in twins:
        assert torch.equal(call(twin, x), y)
        assert str(twin) == str(layer)
    for dtype in (torch.float64, torch.bfloat16):
        assert call(copy.deepcopy(layer).to(dtype), x.to(dtype)).dtype == dtype
    built = LAYERS[name](activation="prelu", dtype=torch.float64, device="meta")
    assert {p.dtype for p in built.parameters()} == {torch.float64}
    assert {p.device.type for p in built.parameters()} == {"meta"}


@pytest.mark.parametrize("name", LAYERS)
def test_memory_format_is_kept(name):
    layer = LAYERS[name]()
    x = torch.randn(2, 4, 5, 6)
    y = call(layer, x)
    assert y.is_contiguous()
    last = call(layer, x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_from_torch_shares_parameters_and_mode():
    conv, act = nn.Conv2d(3, 4, 3).eval(), nn.PReLU(4)
    layer = srnn.ConvAct2d.from_torch(conv, act)
    assert layer.weight is conv.weight
    assert layer.bias is conv.bias
    assert layer.prelu_weight is act.weight
    assert not layer.training


def test_what_a_layer_says_of_itself():
    layer = srnn.ConvAct2d(3, 4, 3, padding=1, activation="leaky_relu", negative_slope=0.2)
    assert repr(layer) == (
        "ConvAct2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), activation='leaky_relu', "
        "negative_slope=0.2)"
    )
    assert "scale=0.5" in repr(LAYERS["ResidualConv2d"]())
    assert "upscale_factor=3" in repr(LAYERS["PixelShuffleConv2d"]())
    assert "scale_factor=2" in repr(LAYERS["UpsampleConv2d"]())
    assert "num_parameters=6" in repr(LAYERS["ConvTransposeAct2d"](activation="prelu", num_parameters=6))


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: srnn.ConvAct2d(3, 4, 3, activation="swish"), ValueError, "activation is 'swish'.*relu"),
        (
            lambda: srnn.ConvAct2d(3, 4, 3, activation="prelu", num_parameters=3),
            ValueError,
            "num_parameters is 3; give 1 or 4",
        ),
        (lambda: srnn.ConvAct2d(0, 4, 3), ValueError, "in_channels is 0"),
        (lambda: srnn.ConvAct2d(3, 4.0, 3), TypeError, "out_channels is 4.0"),
        (lambda: srnn.ConvAct2d(3, 4, (3, 0)), ValueError, r"kernel_size\[1\] is 0"),
        (lambda: srnn.ConvAct2d(3, 4, 3, groups=2), ValueError, "in_channels must be divisible by groups"),
        (lambda: srnn.PixelShuffleConv2d(3, 4, 3, upscale_factor=0), ValueError, "upscale_factor is 0"),
        (lambda: srnn.PixelShuffleConv2d(3, 4, 3, base_mode="cubic"), ValueError, "base_mode is 'cubic'"),
        (
            lambda: srnn.PixelShuffleConv2d.from_torch(nn.Conv2d(3, 10, 3), upscale_factor=2),
            ValueError,
            "multiple of 4 channels, conv has 10",
        ),
        (lambda: srnn.UpsampleConv2d(3, 4, 3, scale_factor=0.5), TypeError, "scale_factor is 0.5"),
        (
            lambda: srnn.UpsampleConv2d(3, 4, 3, padding=1, padding_mode="reflect"),
            ValueError,
            "padding_mode is 'reflect'",
        ),
        (lambda: srnn.ConvTransposeAct2d(4, 4, 3, groups=2), ValueError, "groups is 2"),
        (lambda: srnn.ConvAct2d.from_torch(nn.Conv2d(3, 4, 3), nn.Softmax(1)), TypeError, "Softmax"),
        (lambda: srnn.ConvAct2d.from_torch(nn.Conv2d(3, 4, 3), nn.GELU("tanh")), TypeError, "GELU"),
        (lambda: srnn.ResidualBlock(8, kernel_size=4), ValueError, "kernel_size is 4"),
        (lambda: srnn.ResidualDenseBlock(8, growth=0), ValueError, "growth is 0"),
        (lambda: srnn.ConvAct2d(3, 4, 3)(torch.zeros(1, 5, 8, 8)), (TypeError, ValueError), "input"),
    ],
)
def test_bad_arguments(build, error, match):
    with pytest.raises(error, match=match):
        build()


@pytest.mark.parametrize(
    "layer",
    [
        srnn.ConvAct2d(3, 4, 3),
        srnn.PixelShuffleConv2d(3, 4, 3),
        srnn.UpsampleConv2d(3, 4, 3),
        srnn.ConvTransposeAct2d(3, 4, 3),
        srnn.FusedSequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
    ],
)
def test_inputs_without_a_batch_are_refused(layer):
    assert layer(torch.zeros(1, 3, 8, 8)).dim() == 4
    with pytest.raises(ValueError, match="input"):
        layer(torch.zeros(3, 8, 8))


def test_a_transposed_convolution_has_no_output_size():
    layer = srnn.ConvTransposeAct2d(3, 4, 3, stride=2, output_padding=1)
    assert layer(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 18, 18)
    with pytest.raises(TypeError, match="output_size"):
        layer(torch.zeros(1, 3, 8, 8), output_size=(18, 18))
