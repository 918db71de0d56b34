# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether an optimised module computes what the original does, held against float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from sr_kernels import config
from sr_kernels.optimizer.samples import Sample

# How many times eager's error ours may be, see docs/design.md; for "medium" the error of eager in bfloat16.
_MULTIPLE = {"highest": 2.0, "high": 4.0, "medium": 4.0}
# Without a reference in float64 eager's error is that by which its two memory formats differ, a part of it.
_WITHOUT_REFERENCE = 4.0


@dataclass(frozen=True)
class Parity:
    """Errors of one output over all samples, relative to its root mean square."""

    ours: float  # largest error, or difference from eager where there is no reference
    eager: float
    limit: float  # what the largest error may be
    exact: bool  # held against float64
    holds: bool  # largest and root-mean-square errors within their limits
    text: str  # the first thing that does not hold


class Reference:
    """What a module gives for samples: in its own dtype, and in float64 where it can run in that."""

    def __init__(self, module: nn.Module, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)
        with torch.no_grad():
            self.eager = [_outputs(sample, module) for sample in samples]
            self.exact: list[list[Tensor]] | None = None
            self.other: list[list[Tensor]] = []
            try:
                double = copy.deepcopy(module).double()
                self.exact = [_outputs(sample.to(torch.float64), double) for sample in samples]
            except Exception:  # a module that names a dtype has no double
                self.other = [_outputs(_reformatted(sample), module) for sample in samples]
            if config.get_precision() == "medium":
                self._lower(module)

    def _lower(self, module: nn.Module) -> None:
        """Under "medium" eager's error is that in bfloat16."""
        try:
            lower = copy.deepcopy(module).bfloat16()
            self.eager = [
                [
                    y.to(was.dtype)
                    for y, was in zip(_outputs(sample.to(torch.bfloat16), lower), outputs, strict=True)
                ]
                for sample, outputs in zip(self.samples, self.eager, strict=True)
            ]
        except Exception:  # the error of the module's own dtype is the stricter one
            return

    def compare(self, fast: nn.Module) -> Parity:
        """Runs fast on the samples."""
        worst: Parity | None = None
        with torch.no_grad():
            for i, sample in enumerate(self.samples):
                found = self._one(i, _outputs(sample, fast))
                if worst is None or (found.holds, -found.ours) < (worst.holds, -worst.ours):
                    worst = found
        assert worst is not None
        return worst

    def _one(self, i: int, ours: Sequence[Tensor]) -> Parity:
        eager = self.eager[i]
        if [(y.shape, y.dtype) for y in ours] != [(y.shape, y.dtype) for y in eager]:
            return Parity(math.inf, 0.0, 0.0, False, False, "shapes or dtypes of the results differ")
        multiple = _MULTIPLE[config.get_precision()]
        worst = Parity(0.0, 0.0, 0.0, self.exact is not None, True, "")
        for k, (y, e) in enumerate(zip(ours, eager, strict=True)):
            if not e.is_floating_point():
                if not torch.equal(y, e):
                    return Parity(
                        math.inf, 0.0, 0.0, True, False, "results that are no floating numbers differ"
                    )
                continue
            if self.exact is not None:
                truth, theirs = self.exact[i][k].double(), e.double()
            else:
                truth, theirs = e.double(), self.other[i][k].double()
                multiple *= _WITHOUT_REFERENCE
            found = _compared(
                y.double(), theirs, truth, multiple, torch.finfo(y.dtype).eps, self.exact is not None
            )
            if (found.holds, -found.ours) < (worst.holds, -worst.ours):
                worst = found
        return worst


def _compared(
    ours: Tensor, eager: Tensor, exact: Tensor, multiple: float, eps: float, referenced: bool
) -> Parity:
    finite = torch.isfinite(exact)
    if not torch.equal(torch.isfinite(ours), torch.isfinite(eager)):
        return Parity(math.inf, 0.0, 0.0, referenced, False, "values are finite in one and not in the other")
    mine, theirs = (ours - exact)[finite].abs(), (eager - exact)[finite].abs()
    size = exact[finite].abs()
    if not mine.numel():
        return Parity(0.0, 0.0, 0.0, referenced, True, "")
    scale = float(size.square().mean().sqrt()) or 1.0
    text = ""
    limits = []
    for name, measure in (("largest", torch.max), ("rms", lambda t: t.square().mean().sqrt())):
        limit = multiple * float(measure(theirs)) + eps / 2 * float(measure(size))
        limits.append(limit)
        error = float(measure(mine))
        if not text and not error <= limit:
            text = f"{name} error {error / scale:.1e} of the output, {limit / scale:.1e} is allowed"
    return Parity(
        float(mine.max()) / scale, float(theirs.max()) / scale, limits[0] / scale, referenced, not text, text
    )


def _outputs(sample: Sample, module: nn.Module) -> list[Tensor]:
    copied = sample.to_copy()
    return [y.detach() for y in tree_flatten(copied.run(module))[0] if isinstance(y, Tensor)]


def _reformatted(sample: Sample) -> Sample:
    """The pictures of a sample in the other memory format."""

    def other(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dim() != 4:
            return x
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        return x.contiguous(memory_format=torch.contiguous_format if last else torch.channels_last)

    return Sample([other(x) for x in sample.args], {name: other(x) for name, x in sample.kwargs.items()})
