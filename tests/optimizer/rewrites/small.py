# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Small modules rewritten, without the question whether that is faster: what was found, what is computed."""

from __future__ import annotations

import copy
import operator
import warnings
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels.optimizer.graph import graphs
from sr_kernels.optimizer.graph.capture import capture
from sr_kernels.optimizer.module import assembled
from sr_kernels.optimizer.region import Region, Rewritten, Settings
from tests.closeness import assert_as_close_together

# (batch, height, width); the first two are those that the graph is made with
SIZES = ((1, 9, 12), (2, 7, 5), (1, 23, 17), (3, 4, 4), (1, 1, 1))
_LAYOUT = ("channels_last", "formatted")


class Of(nn.Module):
    """A module whose forward is a function of its children: Of(f, a=conv, b=norm), f(m, x)."""

    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        for name, child in children.items():
            if isinstance(child, torch.Tensor) and not isinstance(child, nn.Parameter):
                self.register_buffer(name, child)
            else:
                setattr(self, name, child)

    def forward(self, x):
        return self.function(self, x)


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with parameters and statistics of which none is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.rand(p.shape, generator=generator).sub_(0.4).mul_(0.3))
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d) and m.running_var is not None:
                m.running_mean.uniform_(-0.5, 0.5, generator=generator)
                m.running_var.uniform_(0.4, 2.0, generator=generator)
    return module.eval()


def picture(channels: int, size: tuple[int, int, int], dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    n, h, w = size
    return torch.randn((n, channels, h, w), generator=generator).to(dtype)


def rewritten(module: nn.Module, channels: int, sizes=SIZES, dtype=torch.float32) -> Rewritten:
    found = capture(module)
    assert found.graph is not None, found.reason
    inputs = [[picture(channels, size, dtype)] for size in sizes[:2]]
    return Rewritten(found.graph, module, inputs)


def names(found: Rewritten) -> list[str]:
    """What the graph calls, constants and conversions of the layout left out."""
    calls = [n for n in found.graph.nodes if n.op.startswith("call") and not graphs.constant(n)]
    targets = [n.target if isinstance(n.target, str) else n.target.__name__ for n in calls]
    return [target for target in targets if target not in _LAYOUT]


def calls(found: Rewritten, target) -> list:
    return [n for n in found.graph.nodes if n.op == "call_function" and n.target is target]


def check(
    module: nn.Module,
    channels: int,
    rewrite: str,
    count: int,
    expected: list[str],
    *,
    sizes=SIZES,
    dtype=torch.float32,
    gradients: bool = True,
) -> Rewritten:
    """The rewrite applied that often and left these calls, in any order; the result is the module's, for
    every size, after a change of its parameters too, and so are its gradients."""
    module = module.to(dtype)
    found = rewritten(module, channels, sizes, dtype)
    assert found.counts.get(rewrite, 0) == count, found.counts
    assert Counter(names(found)) == Counter(expected)
    fast = assembled(module, {"": Region(found, Settings(), {})})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the region falls back on the module with one
        compare(fast, module, channels, sizes, dtype)
        if gradients:
            _compare_gradients(fast, module, channels, (2, 23, 17), dtype)
        shaken(module, seed=1)
        compare(fast, module, channels, sizes, dtype)
    return found


def compare(fast, module, channels, sizes=SIZES, dtype=torch.float32) -> None:
    """Of all sizes together: the errors of the smallest alone are too few."""
    exact = _doubled(module, picture(channels, sizes[0], dtype))
    found = []
    for i, size in enumerate(sizes):
        x = picture(channels, size, dtype)
        last = torch.channels_last if i % 2 else torch.contiguous_format
        x = x.contiguous(memory_format=last)
        with torch.no_grad():
            found.append((fast(x), module(x), exact(x.double())))
        assert found[-1][0].is_contiguous(memory_format=last)
    assert_as_close_together(*zip(*found, strict=True), "pictures")


def _doubled(module, x):
    with torch.no_grad():  # a weight that a hook has made without gradients can be copied
        module(x)
    return copy.deepcopy(module).double()


def _compare_gradients(fast, module, channels, size, dtype) -> None:
    exact = _doubled(module, picture(channels, size, dtype))
    found = []
    for m in (fast, module, exact):
        x = picture(channels, size, dtype).to(next(m.parameters()).dtype).requires_grad_()
        parameters = [p for p in m.parameters() if p.requires_grad]
        y = m(x)
        # of one sign mostly, so that no bias's gradient cancels
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).add_(1.0).to(y.dtype)
        grads = torch.autograd.grad((y * weight).sum(), [x, *parameters], allow_unused=True)
        found.append([g for g in grads if g is not None])
    assert_as_close_together(*found)


__all__ = ["F", "Of", "calls", "check", "compare", "names", "operator", "picture", "rewritten", "shaken"]
