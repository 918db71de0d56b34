# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Group norms while gradients are recorded: in channels_last PyTorch's backward of one ends the process where
its input needs no gradient, so that what may end it runs in one of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_kernels import optimize
from tests.closeness import assert_as_close
from tests.optimizer.networks import conv, kernels_of, picture


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = conv(3, 8), conv(8, 3), nn.GroupNorm(2, 8)

    def normed(self, x):
        return self.norm(x)

    def forward(self, x):
        return self.b(F.relu(self.normed(self.a(x))))


class ByFunction(Grouped):
    def normed(self, x):
        return F.group_norm(x, 2, self.norm.weight, self.norm.bias)


class Native(Grouped):
    def normed(self, x):
        n, c, h, w = x.shape
        return torch.native_group_norm(x, self.norm.weight, self.norm.bias, n, c, h * w, 2, 1e-5)[0]


def look(module, args, y):
    """A hook."""


class Hooked(Grouped):
    """Inside a module that is called as it is."""

    def __init__(self):
        super().__init__()
        self.norm = nn.Sequential(self.norm)
        self.norm.register_forward_hook(look)


class Opaque(Grouped):
    """Inside one that cannot be captured."""

    def __init__(self):
        super().__init__()
        self.norm = Deciding()


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x):
        y = F.group_norm(x, 2, self.weight)
        return y if x.sum() > 0 else y * 2


KINDS = [Grouped, ByFunction, Native, Hooked, Opaque]


def made(kind):
    torch.manual_seed(0)
    return kind().eval()


def learn(path):
    """The norms of modules behind frozen layers, those saved there; run alone."""
    for name, fast in torch.load(path, weights_only=False).items():
        fast.requires_grad_(False).norm.requires_grad_(True)
        fast(picture()).sin().sum().backward()
        if all(p.grad.abs().max() > 0 for p in fast.norm.parameters()):
            print(name)


def test_behind_what_is_frozen(tmp_path):
    modules = {
        f"{kind.__name__} {backend}": optimize(made(kind), backend=backend)
        for kind in KINDS
        for backend in (None, "cpu")
    }
    for fast in modules.values():
        assert kernels_of(fast, picture())
    torch.save(modules, tmp_path / "modules.pt")
    script = f"from {__name__} import learn; learn({str(tmp_path / 'modules.pt')!r})"
    done = subprocess.run([sys.executable, "-uc", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == list(modules), done.stderr[-2000:]
    assert done.returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_without_gradients(kind):
    model = made(kind)
    fast = optimize(model)
    for frozen in (False, True):
        if frozen:
            fast.requires_grad_(False)
        with torch.set_grad_enabled(frozen):
            assert kernels_of(fast, picture())
            exact = kind().double().eval()
            exact.load_state_dict(model.state_dict())
            with torch.no_grad():
                assert_as_close(fast(picture()), model(picture()), exact(picture().double()))


@pytest.mark.parametrize("grad", [True, False])
def test_compiled_whole(grad):
    torch.compiler.reset()  # what other tests have compiled counts too
    model = made(Grouped)
    compiled = torch.compile(optimize(model), backend="eager", fullgraph=True)
    with torch.set_grad_enabled(grad):
        y = compiled(picture())
    assert y.requires_grad == grad
    if grad:
        y.sin().sum().backward()
        assert model.norm.weight.grad.abs().max() > 0


def test_what_fails_is_told_by_the_original():
    fast = optimize(made(Grouped))
    fast(picture())
    del fast.a.bias
    with pytest.raises(AttributeError, match="no attribute 'bias'"):
        fast(picture())
