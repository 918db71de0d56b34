# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Inputs that a module is tried on: made here where none are given, and seen by every module inside."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

# (batch, height, width): one that needs no padding to windows, one that does; smallest first.
_SIZES = (
    ((1, 16, 16), (2, 13, 18)),
    ((1, 32, 32), (2, 27, 22)),
    ((1, 64, 64), (2, 72, 56)),
    ((1, 128, 128), (1, 96, 160)),
)

_LARGE = 128  # pixels of a side of the picture that times are taken on
_LONGEST = 0.5  # seconds that it may take
_NOISE = 0.02  # seconds that say nothing of how time grows


class Sample:
    """Arguments of one call."""

    __slots__ = ("args", "kwargs")

    def __init__(self, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> None:
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})

    def tensors(self) -> Iterator[Tensor]:
        yield from (x for x in (*self.args, *self.kwargs.values()) if isinstance(x, Tensor))

    def to(self, dtype: torch.dtype) -> Sample:
        """With every floating tensor in that dtype, in memory of its own."""

        def cast(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            x = x.detach()
            return x.to(dtype, copy=True) if x.is_floating_point() else x.clone()

        return Sample(tree_map(cast, self.args), tree_map(cast, self.kwargs))

    def to_copy(self) -> Sample:
        """With every tensor in memory of its own."""
        copies = tree_map(
            lambda x: x.detach().clone() if isinstance(x, Tensor) else x, (self.args, self.kwargs)
        )
        return Sample(*copies)

    def run(self, module: Any) -> Any:
        return module(*self.args, **self.kwargs)


def given(example_inputs: Any) -> list[Sample]:
    """What optimize's `example_inputs` stands for: a tensor, a tuple of arguments, a dict of them by name, or
    a list of these.

    Raises TypeError for anything else.
    """
    if isinstance(example_inputs, Tensor):
        return [Sample((example_inputs,))]
    if isinstance(example_inputs, tuple):
        return [Sample(example_inputs)]
    if isinstance(example_inputs, dict):
        return [Sample((), example_inputs)]
    if isinstance(example_inputs, list) and example_inputs:
        return [sample for item in example_inputs for sample in given(item)]
    raise TypeError(
        f"example_inputs is {type(example_inputs).__name__}; give a tensor, a tuple of forward's arguments, "
        "a dict of such by name, or a list of these"
    )


def guessed(module: nn.Module) -> tuple[list[Sample], str]:
    """Two pictures of different sizes that the module takes, and, where there are none, why."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    needed = [
        p
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) != 1 and not (not needed and any(p.kind is p.VAR_POSITIONAL for p in parameters)):
        return [], f"forward takes {len(needed)} arguments; give example_inputs"
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    if like is not None and like.is_meta:
        return [], "its parameters are on the meta device"
    dtype = torch.get_default_dtype() if like is None else like.dtype
    device = torch.device("cpu") if like is None else like.device
    generator = torch.Generator("cpu").manual_seed(0)
    error: Exception | None = None
    for sizes in _SIZES:
        for channels in _channels(module):
            samples = []
            for n, h, w in sizes:
                x = torch.rand((n, channels, h, w), generator=generator, device="cpu").to(device, dtype)
                sample = Sample((x,))
                try:
                    with torch.no_grad():
                        sample.to_copy().run(module)
                except Exception as found:
                    error = error or found
                    continue
                samples.append(sample)
            if samples:
                return samples, ""
    return [], f"no picture was found that it takes ({type(error).__name__}: {error}); give example_inputs"


def optional(module: nn.Module, tried: Sequence[Sample]) -> dict[str, Any]:
    """What the first sample gives for arguments of forward that have a default."""
    signature = inspect.signature(module.forward)
    bound = signature.bind(*tried[0].args, **tried[0].kwargs).arguments
    return {
        name: value
        for name, value in bound.items()
        if signature.parameters[name].default is not inspect.Parameter.empty
    }


def larger(module: nn.Module, sample: Sample) -> Sample:
    """A sample of pictures of the size that a tile has, or as near to it as takes no longer than a time."""
    sides = [x.shape[-2:] for x in sample.tensors() if x.dim() == 4]
    found, side = sample, max((max(s) for s in sides), default=_LARGE)
    taken, growth = _seconds(module, sample), 4.0
    # attention over the whole picture takes 16 times as long, and as much memory, for a side twice as long
    while side < _LARGE and max(4.0, growth) * taken < _LONGEST and (growth < 8.0 or taken < _NOISE):
        side = min(2 * side, _LARGE)
        grown = _square(sample, side)
        try:
            before, taken = taken, _seconds(module, grown)
        except Exception:  # a model of one size
            break
        found, growth = grown, taken / before
    return found


def _seconds(module: nn.Module, sample: Sample) -> float:
    found = []
    for _ in range(2):
        copied = sample.to_copy()
        start = time.perf_counter()
        with torch.no_grad():
            copied.run(module)
        if any(x.is_cuda for x in copied.tensors()):
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found)


def _square(sample: Sample, side: int) -> Sample:
    """One picture of that size for each that a sample has."""
    generator = torch.Generator("cpu").manual_seed(1)

    def grown(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dim() != 4:
            return x
        shape = (1, x.shape[1], side, side)
        return torch.rand(shape, generator=generator, device="cpu").to(x.device, x.dtype)

    return Sample([grown(x) for x in sample.args], {name: grown(x) for name, x in sample.kwargs.items()})


def _channels(module: nn.Module) -> list[int]:
    """Channels to try: those of the first convolution, as they are or unshuffled, then what pictures have."""
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    found = []
    if first is not None:
        c = first.in_channels
        found = [c, *(c // (f * f) for f in (2, 4, 3, 8) if c % (f * f) == 0)]
    return list(dict.fromkeys([*found[:1], *(c for c in (3, 1, 4) if c in found), *found, 3, 1, 4]))


def seen_inside(
    module: nn.Module, paths: Sequence[str], samples: Sequence[Sample]
) -> dict[str, list[Sample]]:
    """The arguments that the modules at these paths ("" for the module itself) get while `module` runs the
    samples, first calls; also where a forward is called by that name."""
    found: dict[str, list[Sample]] = {path: [] for path in paths}

    def recorded(path: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if len(found[path]) < len(samples) * 2:
            found[path].append(Sample(args, kwargs).to_copy())
        return forward(*args, **kwargs)

    with ExitStack() as patches, torch.no_grad():
        for path in paths:
            inner = module.get_submodule(path)
            patches.enter_context(watched(inner, functools.partial(recorded, path)))
        for sample in samples:
            sample.to_copy().run(module)
    return found


@contextmanager
def watched(module: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """Within it `call(forward, *arguments)` runs in the place of the module's forward, however called."""
    own = vars(module)
    before = own.get("forward")
    own["forward"] = functools.partial(call, module.forward)
    try:
        yield
    finally:
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before
