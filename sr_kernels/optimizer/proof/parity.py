# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether an optimised module computes what the original does, held against float64."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from sr_kernels import config
from sr_kernels.optimizer.copies import copied
from sr_kernels.optimizer.report import Parity
from sr_kernels.optimizer.samples import Sample

# How many times eager's error ours may be, see docs/design.md; for "medium" the error of eager in bfloat16.
_MULTIPLE = {"highest": 2.0, "high": 4.0, "medium": 4.0}
# Where nothing is known in float64 eager's error is guessed from below, see _Unknown.
_GUESSED = 4.0
# A picture of many more pixels has a larger largest error: of normal ones about 5 sigma instead of 3.5.
_TAIL = 1.5

_MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": torch.max,
    "rms": lambda t: t.square().mean().sqrt(),
}


class Reference:
    """What a module gives for samples: in its own dtype, and in float64 where it can run in that.

    An "output" is also what a call leaves in its arguments.
    """

    def __init__(self, module: nn.Module, samples: Sequence[Sample], larger: Sequence[Sample] = ()) -> None:
        """larger: samples that are run in the module's own dtype alone."""
        self.samples = [*samples, *larger]
        with torch.no_grad():
            self.eager = [outputs(sample, module) for sample in self.samples]
            self.random = not all(map(_same, outputs(self.samples[0], module, seed=1), self.eager[0]))
            self.exact = self._exact(module, samples)
            self.near = [[] if self.exact else self._near(i, module) for i in range(len(self.samples))]
            if config.get_precision() == "medium":
                self._lower(module)
        self.known = self._known()

    def _exact(self, module: nn.Module, samples: Sequence[Sample]) -> list[Outputs]:
        """Outputs in float64, of the first samples; none where it does not run in it, is in it already, or
        draws random numbers."""
        found: list[Outputs] = []
        if any(y.dtype == torch.float64 for y in self.eager[0]) or self.random:
            return found
        try:
            double = copied(module).double()
            for sample, eager in zip(samples, self.eager, strict=False):
                exact = outputs(sample.to(torch.float64), double)
                if [(y.shape, y.is_floating_point()) for y in exact] != [
                    (y.shape, y.is_floating_point()) for y in eager
                ]:
                    return []
                found.append(exact)
        except Exception:  # a module that names a dtype has no double
            return []
        return found

    def _near(self, i: int, module: nn.Module) -> list[Outputs]:
        """What eager gives by other ways of computing the same: another memory format, an input that is off
        by half a rounding. Random numbers follow the order of memory."""
        found = []
        for other in (_nudged,) if self.random else (_nudged, _reformatted):
            try:
                found.append(outputs(other(self.samples[i]), module))
            except Exception:
                continue
        return found

    def _lower(self, module: nn.Module) -> None:
        """Under "medium" eager's error is that in bfloat16."""
        try:
            lower = copied(module).bfloat16()
            found = [outputs(sample.to(torch.bfloat16), lower) for sample in self.samples]
            for lowered, eager in zip(found, self.eager, strict=True):
                lowered[:] = [y.to(was.dtype) for y, was in zip(lowered, eager, strict=True)]
                lowered.form = eager.form
            self.eager = found
        except Exception:  # the error of the module's own dtype is the stricter one
            return

    def _known(self) -> list[dict[str, float]]:
        """Eager's errors, relative to each output's RMS, where float64 told them."""
        found: list[dict[str, float]] = []
        for exact, eager in zip(self.exact, self.eager, strict=False):
            for k, (truth, e) in enumerate(zip(exact, eager, strict=True)):
                if k == len(found):
                    found.append(dict.fromkeys(_MEASURES, 0.0))
                if not e.is_floating_point() or not e.numel():
                    continue
                truth = truth.double()
                finite = torch.isfinite(truth)
                error, size = (e.double() - truth)[finite].abs(), truth[finite].abs()
                for name, measure in _MEASURES.items():
                    if size.numel() and float(_rms(size)):
                        found[k][name] = max(found[k][name], float(measure(error)) / float(_rms(size)))
        return found

    def compare(self, fast: nn.Module) -> Parity:
        """Runs fast on the samples."""
        worst: Parity | None = None
        with torch.no_grad():
            for i, sample in enumerate(self.samples):
                for found in self._one(i, outputs(sample, fast)):
                    if worst is None or _rank(found) > _rank(worst):
                        worst = found
        return worst or Parity(0.0, 0.0, 0.0, bool(self.exact), True, "")

    def _one(self, i: int, ours: Outputs) -> Iterator[Parity]:
        eager = self.eager[i]
        if ours.form != eager.form:
            yield _wrong("the result stands in another structure, or what is no tensor in it differs")
            return
        if [(y.shape, y.dtype) for y in ours] != [(y.shape, y.dtype) for y in eager]:
            yield _wrong("shapes or dtypes of the results differ")
            return
        multiple = _MULTIPLE[config.get_precision()]
        for k, (y, e) in enumerate(zip(ours, eager, strict=True)):
            if not e.is_floating_point():
                if not torch.equal(y, e):
                    yield _wrong("results that are no floating numbers differ")
            elif not torch.equal(torch.isfinite(y), torch.isfinite(e)):
                yield _wrong("values are finite in one and not in the other")
            elif i < len(self.exact):
                truth = self.exact[i][k].double()
                yield _compared(y, [e.double() - truth], truth, multiple)
            else:
                near = [y[k].double() - e.double() for y in self.near[i] if y[k].shape == e.shape]
                known = self.known[k] if k < len(self.known) else {}
                more = multiple + 1 if known else multiple * _GUESSED
                yield _compared(y, near, e.double(), more, known, exact=False)


def _rank(found: Parity) -> tuple[bool, float]:
    """Larger for what is worse."""
    return not found.holds, found.ours / found.limit if found.limit else 0.0


def _wrong(text: str) -> Parity:
    return Parity(math.inf, 0.0, 0.0, False, False, text)


def _compared(
    ours: Tensor,
    errors: Sequence[Tensor],
    truth: Tensor,
    multiple: float,
    known: dict[str, float] | None = None,
    *,
    exact: bool = True,
) -> Parity:
    """Ours against the truth, allowed a multiple of the largest of eager's errors; known: such errors from
    smaller samples, relative to the output's RMS."""
    finite = torch.isfinite(truth)
    mine, size = (ours.double() - truth)[finite].abs(), truth[finite].abs()
    if not mine.numel():
        return Parity(0.0, 0.0, 0.0, exact, True, "")
    scale = float(_rms(size)) or 1.0
    text, found = "", {}
    for name, measure in _MEASURES.items():
        theirs = max([float(measure(error[finite].abs())) for error in errors], default=0.0)
        theirs = max(theirs, (known or {}).get(name, 0.0) * scale * (_TAIL if name == "largest" else 1.0))
        limit = multiple * theirs + torch.finfo(ours.dtype).eps / 2 * float(measure(size))
        error = float(measure(mine))
        found[name] = (error / scale, theirs / scale, limit / scale)
        if not text and not error <= limit:
            text = f"{name} error {error / scale:.1e} of the output, {limit / scale:.1e} is allowed"
    return Parity(*found["largest"], exact, not text, text)


def _rms(t: Tensor) -> Tensor:
    return _MEASURES["rms"](t)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.all((a == b) | ((a != a) & (b != b))))


class Outputs(list[Tensor]):
    """Tensors, and what they stood in."""

    form: Any = None


def outputs(sample: Sample, module: nn.Module, seed: int = 0) -> Outputs:
    """The tensors that a call returns and those that it was given, as it has left them; random numbers are
    the same in every call."""
    copied = sample.to_copy()
    with seeded(seed, sample):
        result = copied.run(module)
    leaves, spec = tree_flatten((result, copied.args, copied.kwargs))
    found = Outputs(y.detach() for y in leaves if isinstance(y, Tensor))
    found.form = spec, [(type(y), y if isinstance(y, (int, str)) else None) for y in leaves]
    return found


@contextmanager
def seeded(seed: int, sample: Sample) -> Iterator[None]:
    """Random numbers from a seed that nobody else uses within, and afterwards as if none had been drawn."""
    seed += 20260731
    devices = sorted({x.device.index or 0 for x in sample.tensors() if x.is_cuda})
    numpy = sys.modules.get("numpy")
    before = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng(devices=devices):
            for generator in (torch.default_generator, *(torch.cuda.default_generators[i] for i in devices)):
                generator.manual_seed(seed)
            random.seed(seed)
            if numpy:
                numpy.random.seed(seed)
            yield
    finally:
        random.setstate(before[0])
        if numpy:
            numpy.random.set_state(before[1])


def _changed_pictures(sample: Sample, change: Callable[[Tensor], Tensor]) -> Sample:
    def one(x: Any) -> Any:
        return change(x) if isinstance(x, Tensor) and x.is_floating_point() else x

    return Sample([one(x) for x in sample.args], {name: one(x) for name, x in sample.kwargs.items()})


def _reformatted(sample: Sample) -> Sample:
    """The pictures of a sample in the other memory format."""

    def other(x: Tensor) -> Tensor:
        if x.dim() != 4:
            return x
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        return x.contiguous(memory_format=torch.contiguous_format if last else torch.channels_last)

    return _changed_pictures(sample, other)


def _nudged(sample: Sample) -> Sample:
    """A sample whose values are off by up to half a rounding."""

    def nudged(x: Tensor) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(0)
        noise = torch.rand(x.shape, generator=generator, dtype=torch.float64, device="cpu") - 0.5
        wide = x.double()
        return (wide + wide * noise.to(x.device) * torch.finfo(x.dtype).eps).to(x.dtype)

    return _changed_pictures(sample, nudged)
