# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""nn.Graphed where there is nothing to capture: the module as it is. tests/gpu has the rest."""

import copy
import pickle

import pytest
import torch
from torch import nn as plain

from sr_kernels import nn


def test_without_a_gpu_the_module_runs():
    module = plain.Conv2d(3, 4, 3).eval()
    graphed = nn.Graphed(module)
    x = torch.randn(1, 3, 8, 9)
    assert torch.equal(graphed(x), module(x))
    assert graphed(x).requires_grad
    for other in (copy.deepcopy(graphed), pickle.loads(pickle.dumps(graphed))):
        assert torch.equal(other(x), module(x))
    assert graphed.state_dict().keys() == {f"module.{name}" for name in module.state_dict()}


@pytest.mark.parametrize("name", ["most_graphs", "most_pixels", "most_bytes"])
def test_bounds_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        nn.Graphed(plain.Identity(), **{name: 0})
