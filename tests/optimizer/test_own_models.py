# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The library's own models, which torch.fx sees whole: nothing of them is left out."""

import copy
import itertools

import pytest
import torch

import sr_kernels
from benchmarks import span
from sr_kernels.bench.plain import frozen, kaiming_
from sr_kernels.optimizer.graph.capture import capture
from sr_kernels.optimizer.module import assembled
from sr_kernels.optimizer.region import Region, Rewritten, Settings
from tests.closeness import assert_as_close
from tests.models import plain

SIZES = ((1, 20, 16), (2, 13, 18), (1, 5, 7))
CASES = list(plain.SMALL)


def model(case):
    name, sizes = plain.SMALL[case]
    made = sr_kernels.models.create(name, **sizes)
    made.load_state_dict(plain.build(case).state_dict())
    return made.eval()


def pictures(made):
    random = torch.Generator().manual_seed(1)
    return [torch.rand((n, made.in_channels, h, w), generator=random) for n, h, w in SIZES]


@pytest.mark.parametrize("case", CASES)
def test_captured_whole(case, recwarn):
    made = model(case)
    found = capture(made)
    assert found.graph is not None, found.reason
    assert not found.inner
    rewritten = Rewritten(found.graph, made, [[x] for x in pictures(made)[:2]])
    assert not [node for node in rewritten.graph.nodes if node.op == "call_module"]
    fast = assembled(made, {"": Region(rewritten, Settings(), {})})
    reference = plain.build(case)
    with torch.no_grad():
        for x in pictures(made):
            y, eager = fast(x), reference(x)
            assert y.is_contiguous()
            assert_as_close(y, eager, plain.build(case).double()(x.double()), case)
    assert not [w for w in recwarn if w.category is RuntimeWarning]  # of a form that failed


def kernels(module, x):
    """Those of one call, copies apart: between layouts, which models leave to PyTorch."""
    with torch.inference_mode(), sr_kernels.record_kernels() as names:
        module(x)
    return [name for name in names if name != "cpu/copy"], names.count("cpu/copy")


def optimised(module, channels):
    """Without the clock, whose outcome is another test's matter."""
    random = torch.Generator().manual_seed(1)
    tried = [[torch.rand((n, channels, h, w), generator=random)] for n, h, w in SIZES[:2]]
    rewritten = Rewritten(capture(module).graph, module, tried)
    return assembled(module, {"": Region(rewritten, Settings(), {})})


@pytest.mark.parametrize("side", [20, 64])
@pytest.mark.parametrize("case", CASES)
def test_plain_modules_run_by_the_kernels_of_the_models(case, side):
    """Layer by layer: what a user of PyTorch alone writes becomes what the library's model of it is."""
    made = model(case)
    x = torch.rand(1, made.in_channels, side, side + 4)
    ours, copies = kernels(optimised(plain.build(case), made.in_channels), x)
    assert ours == kernels(made, x)[0]
    assert any(name.startswith("cpu/") for name in ours)
    assert copies <= 2  # of what comes in and what goes out


@pytest.mark.parametrize("side", [20, 64])
def test_plain_span_runs_by_the_kernels_of_our_layers(side):
    network = frozen(kaiming_(span.SPAN(24)))
    of_ours = frozen(span.SpanOfOurs(network))
    fast = optimised(network, 3)
    x = torch.rand(1, 3, side, side + 4)
    with torch.no_grad():
        eager, exact = network(x), copy.deepcopy(network).double()(x.double())
        for form in (fast, of_ours):
            assert_as_close(form(x), eager, exact)
    ours, copies = kernels(fast, x)
    assert ours == kernels(of_ours, x)[0]
    assert len(ours) == 22
    assert copies <= 3  # and of what is concatenated but needed longer


@pytest.mark.parametrize("case", ["srvgg x4", "edsr x4", "rrdbnet x2"])
def test_refuses_what_the_model_refuses(case):
    """The check is no part of the graph; what it refuses is no call that the graph was made for."""
    made = model(case)
    graph = capture(made).graph
    region = Region(Rewritten(graph, made, [[x] for x in pictures(made)[:2]]), Settings(), {})
    fast = assembled(made, {"": region})
    for wrong in (
        torch.rand(1, 1, 16, 16),
        torch.rand(3, 16, 16),
        torch.randint(0, 255, (1, 3, 16, 16), dtype=torch.uint8),
        torch.rand(1, 3, 16, 16, dtype=torch.float64),
        "picture",
    ):
        with pytest.raises((TypeError, ValueError)) as theirs:
            made(wrong)
        with pytest.raises(theirs.type) as ours:
            fast(wrong)
        assert str(ours.value) == str(theirs.value).replace(type(made).__name__, type(fast).__name__)


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        *itertools.product(["srvgg", "espcn", "fsrcnn", "edsr"], [2, 3, 4]),
        *itertools.product(["rrdbnet"], [1, 2, 4]),
    ],
)
def test_reports_nothing_left(name, scale):
    sizes = {"rrdbnet": {"num_block": 1}, "edsr": {"num_block": 1}, "srvgg": {"num_conv": 2}}.get(name, {})
    made = sr_kernels.create(name, scale=scale, **sizes).eval()
    report = sr_kernels.optimizer.optimize(made).report()
    assert report.left == {}
    assert report.parity.holds
