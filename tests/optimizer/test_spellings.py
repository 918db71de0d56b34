# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What may be written in several ways becomes one call, and only where it is the same for every size."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sr_kernels
from sr_kernels import ops, optimize
from sr_kernels.backends import registry
from sr_kernels.optimizer.graph.capture import capture
from sr_kernels.optimizer.module import assembled
from sr_kernels.optimizer.region import Region, Settings
from tests.optimizer.networks import assert_ours, assert_same, picture
from tests.optimizer.rewrites.small import Of, calls, check, names, rewritten, shaken


def conv(ci=4, co=4):
    return nn.Conv2d(ci, co, 3, padding=1)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.conv(x) + x * 0.5,
        lambda m, x: torch.add(m.conv(x), x, alpha=0.5),
        lambda m, x: m.conv(x).add(x, alpha=0.5),
        lambda m, x: m.conv(x).sub(x, alpha=-0.5),
        lambda m, x: m.conv(x).add_(x, alpha=0.5),
        lambda m, x: torch.multiply(x, 0.5) + m.conv(x),
        lambda m, x: m.conv(x).sub(x.multiply(-0.5)),
    ],
)
def test_sums(forward):
    found = check(shaken(Of(forward, conv=conv())), 4, "conv + scale + residual", 1, ["conv2d"])
    ((_, weight),) = calls(found, ops.conv2d)[0].kwargs["residual"]
    assert weight == 0.5


def height_width(m, x):
    h, w = x.shape[2:]
    return (h * 2, w * 2)


@pytest.mark.parametrize(
    "size",
    [
        lambda m, x: (x.shape[2] * 2, x.shape[3] * 2),
        lambda m, x: (2 * x.size(2), x.size(-1) * 2),
        lambda m, x: [x.shape[-2] * 2, x.size()[3] * 2],
        height_width,
    ],
)
def test_enlargement_to_a_multiple_of_its_own_size(size):
    module = Of(lambda m, x: m.conv(F.interpolate(x, size(m, x), mode="nearest")), conv=conv())
    check(shaken(module), 4, "upsample + conv", 1, ["conv2d"])


@pytest.mark.parametrize(
    "size",
    [
        lambda m, x, y: (x.shape[2], x.shape[3]),
        lambda m, x, y: (y.shape[2] * 2, y.shape[3] * 3),
        lambda m, x, y: (y.shape[3] * 2, y.shape[2] * 2),
        lambda m, x, y: (16, 24),
    ],
    ids=["another's", "two factors", "turned", "numbers"],
)
def test_not_to_a_size_that_only_was_a_multiple(size):
    def forward(m, x):
        y = F.max_pool2d(x, 2)
        return m.conv(F.interpolate(y, size(m, x, y), mode="nearest"))

    found = rewritten(shaken(Of(forward, conv=conv())), 4, ((1, 16, 24), (2, 16, 24)))
    assert found.counts["upsample + conv"] == 0
    assert "interpolate" in names(found)


def test_a_concatenation_of_one():
    module = Of(lambda m, x: F.relu(m.conv(torch.cat([x], 1))), conv=conv())
    check(shaken(module), 4, "conv + activation", 1, ["conv2d"])


def test_the_librarys_layers():
    layers = sr_kernels.nn
    module = nn.Sequential(
        layers.ConvAct2d(4, 6, 3, padding=1, activation="relu"),
        layers.ConvTransposeAct2d(6, 5, 3, stride=2, padding=1),
        nn.PReLU(5),
        layers.PixelShuffleConv2d(5, 3, 3, padding=1, padding_mode="reflect", upscale_factor=2),
    )
    expected = ["conv2d", "conv_transpose2d", "pad", "conv2d"]
    sizes = ((1, 9, 12), (2, 7, 5), (1, 3, 4))
    check(shaken(module), 4, "conv + activation", 1, expected, sizes=sizes)


class CastsItsMean(nn.Module):
    """As SPAN does: an attribute is set to itself in the picture's dtype."""

    def __init__(self, forward):
        super().__init__()
        self.conv = conv(3, 4)
        self.mean = torch.rand(1, 3, 1, 1)
        self.other = torch.rand(1, 3, 1, 1)
        self.how = forward

    def forward(self, x):
        self.how(self, x)
        return self.conv((x - self.mean) * 255)

    def cast(self, x):
        self.mean = self.mean.type_as(x)

    def swap(self, x):
        self.mean = self.other.type_as(x)

    def count(self, x):
        self.mean = self.mean.type_as(x) + 1


def test_an_attribute_set_to_itself():
    module = shaken(CastsItsMean(CastsItsMean.cast))
    before = module.mean
    check(module, 3, "constants into conv", 1, ["sub", "conv2d"])
    assert module.mean is before or torch.equal(module.mean, before)


@pytest.mark.parametrize("how", [CastsItsMean.swap, CastsItsMean.count])
def test_not_an_attribute_set_to_something_else(how):
    module = shaken(CastsItsMean(how))
    assert capture(module).reason == "its forward changes mean"


def test_a_run_of_the_module_inside_is_not_forgotten():
    """A module that stays as it is may do more than it returns: it is called though nobody reads it."""

    class Counts(nn.Module):
        calls = 0

        def forward(self, x):
            type(self).calls += int(x.shape[0] > 0)
            return x

    def forward(m, x):
        m.counts(x)
        return F.relu(m.conv(x))

    module = shaken(Of(forward, conv=conv(), counts=Counts()))
    found = rewritten(module, 4)
    before = Counts.calls
    found.function(module, torch.rand(1, 4, 5, 5))
    assert Counts.calls == before + 1
    assert operator.contains(names(found), "counts")


def test_lists_and_dicts_come_back_as_they_were():
    def forward(m, x):
        y = F.relu(m.conv(x))
        return y, [y, {"inner": (y, [x])}]

    module = shaken(Of(forward, conv=conv()))
    found = rewritten(module, 4)
    fast = assembled(module, {"": Region(found, Settings(), {})})
    for _ in range(2):
        with torch.no_grad():
            result = fast(torch.rand(1, 4, 5, 6))
        kinds = [type(part) for part in (result, result[1], result[1][1], result[1][1]["inner"][1])]
        assert kinds == [tuple, list, dict, list]


POOLS = {
    "max": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "average": nn.AvgPool2d((2, 3), ceil_mode=True, count_include_pad=False, divisor_override=5),
    "adaptive max": nn.AdaptiveMaxPool2d((5, None)),
    "adaptive average": nn.AdaptiveAvgPool2d(1),
}


def pooled(pool):
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 8), nn.ReLU(), pool, conv(8, 4)).eval()
    return model, optimize(model)


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_pools_are_functions(pool):
    model, fast = pooled(pool)
    assert not [node for node in fast._sr_region.rewritten.graph.nodes if node.op == "call_module"]
    assert_ours(fast, picture())
    for size in ((17, 14), (9, 22)):
        assert_same(fast, model, picture(1, 3, *size))


@pytest.mark.skipif(bool(registry.unavailable("cpu")), reason="the native extension is not built")
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_sizes_of_networks_with_pools_are_planned_without_a_run(pool, monkeypatch):
    from sr_kernels.optimizer.plan import planning

    model, fast = pooled(pool)
    runs = []
    monkeypatch.setattr(planning, "_recorded", lambda *_: runs.append(0))
    for size in ((14, 11), (17, 14), (9, 22)):
        assert_same(fast, model, picture(1, 3, *size))
    assert not runs


@pytest.mark.filterwarnings("ignore:max_unpool")
def test_places_of_the_largest():
    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.pool = conv(3, 8), nn.MaxPool2d(2, return_indices=True)

        def forward(self, x):
            y, places = self.pool(F.relu(self.a(x)))
            return F.max_unpool2d(y, places, 2)

    torch.manual_seed(0)
    model = Places().eval()
    assert_same(optimize(model), model, picture(1, 3, 14, 12))
