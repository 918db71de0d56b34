# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Weight norm and spectral norm, of both styles, as convolutions of computed kernels."""

import pytest
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from tests.optimizer.rewrites.small import check, compare, names, picture, rewritten, shaken

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")

STYLES = {
    "weight hook": weight_norm,
    "weight hook, one norm": lambda layer: weight_norm(layer, dim=None),
    "spectral hook": spectral_norm,
    "weight parametrisation": parametrizations.weight_norm,
    "weight parametrisation, axis 1": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "spectral parametrisation": parametrizations.spectral_norm,
}


@pytest.fixture(params=STYLES)
def normed(request):
    return STYLES[request.param]


def test_convolution(normed):
    module = nn.Sequential(normed(nn.Conv2d(4, 6, 3, padding=1)), nn.LeakyReLU(0.2))
    module(picture(4, (1, 5, 5)))  # spectral norm's first estimate
    check(shaken(module), 4, "conv + activation", 1, ["conv2d"])


def test_transposed_convolution(normed):
    module = nn.Sequential(normed(nn.ConvTranspose2d(4, 3, 4, 2, 1)))
    module(picture(4, (1, 5, 5)))
    check(shaken(module), 4, "transposed conv", 1, ["conv2d"])


def test_with_a_norm_behind(normed):
    module = nn.Sequential(normed(nn.Conv2d(4, 6, 3, padding=1, bias=False)), nn.BatchNorm2d(6))
    module(picture(4, (2, 5, 5)))
    check(shaken(module), 4, "conv + batch norm", 1, ["conv2d"])


def test_training_of_a_spectral_norm_inside_is_the_modules_own():
    """It changes what is stored."""
    module = shaken(nn.Sequential(spectral_norm(nn.Conv2d(4, 6, 3, padding=1)), nn.ReLU()))
    assert rewritten(module, 4).trained == ["0"]


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.register_forward_hook(lambda m, args, y: y * 2),
        lambda layer: layer.register_forward_pre_hook(lambda m, args: (args[0] * 2,)),
        lambda layer: parametrize.register_parametrization(layer, "weight", nn.Tanh()),
        lambda layer: parametrizations.orthogonal(layer),
        lambda layer: weight_norm(layer).register_forward_pre_hook(lambda m, args: (args[0] * 2,)),
        lambda layer: parametrizations.weight_norm(layer).register_forward_hook(lambda m, args, y: y * 2),
        lambda layer: parametrize.register_parametrization(
            parametrizations.weight_norm(layer), "weight", nn.Tanh()
        ),
    ],
    ids=["hook", "pre-hook", "another one", "orthogonal", "two hooks", "a hook beside", "two steps"],
)
def test_left_alone(change):
    layer = nn.Conv2d(4, 6, 3, padding=1)
    change(layer)
    module = shaken(nn.Sequential(layer, nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1)))
    found = rewritten(module, 4)
    assert names(found) == ["0", "activate", "conv2d"]
    compare(lambda x: found.function(module, x), module, 4)
