# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The tolerance rule: our error against float64 is at most a multiple of eager's, and half a rounding.

The multiple is the contract of the precision in force: 2 for "highest", 4 for "high" (docs/design.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sr_kernels import config

MULTIPLE = {"highest": 2, "high": 4}


def assert_as_close(ours: Tensor, eager: Tensor, exact: Tensor, what: str = "output") -> None:
    """ours and eager have one dtype, exact is float64; compares largest and root-mean-square errors."""
    assert exact.dtype == torch.float64
    assert ours.dtype == eager.dtype, f"{what}: dtype {ours.dtype}, eager has {eager.dtype}"
    assert ours.shape == eager.shape == exact.shape, f"{what}: shape {ours.shape}, eager has {eager.shape}"
    assert torch.isfinite(exact).all(), f"{what}: the exact result is not finite"
    assert exact.abs().max() > 0, f"{what}: the exact result is zero, nothing is compared"
    _compare(ours.double(), eager.double(), exact, torch.finfo(ours.dtype).eps, what)


def assert_as_close_together(
    ours: Sequence[Tensor], eager: Sequence[Tensor], exact: Sequence[Tensor], what: str = "gradients"
) -> None:
    """As assert_as_close over tensors of different magnitudes, each divided by its exact RMS: the errors of a
    few biases alone are too few to compare."""
    assert [t.dtype for t in ours] == [t.dtype for t in eager]
    assert [t.shape for t in ours] == [t.shape for t in eager] == [t.shape for t in exact]
    sizes = [t.square().mean().sqrt() for t in exact]
    assert all(size > 0 for size in sizes), f"{what}: an exact tensor is zero, nothing is compared"
    joined = [
        torch.cat([(t.double() / size).flatten() for t, size in zip(tensors, sizes, strict=True)])
        for tensors in (ours, eager, exact)
    ]
    _compare(*joined, torch.finfo(ours[0].dtype).eps, what)


def _compare(ours: Tensor, eager: Tensor, exact: Tensor, eps: float, what: str) -> None:
    mine, theirs = (ours - exact).abs(), (eager - exact).abs()
    for name, measure in (("largest", torch.max), ("rms", lambda t: t.square().mean().sqrt())):
        limit = MULTIPLE[config.get_precision()] * measure(theirs) + eps / 2 * measure(exact.abs())
        assert measure(mine) <= limit, f"{what}: {name} error {measure(mine):.3e}, limit {limit:.3e}"
