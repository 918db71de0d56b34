# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Inputs that a module is tried on: made here where none are given, and seen by every module inside."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
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
    """What optimize's `example_inputs` stands for: a tensor, a tuple of arguments, or a list of such tuples.

    Raises TypeError for anything else.
    """
    if isinstance(example_inputs, Tensor):
        return [Sample((example_inputs,))]
    if isinstance(example_inputs, tuple):
        return [Sample(example_inputs)]
    if isinstance(example_inputs, list) and example_inputs:
        return [sample for item in example_inputs for sample in given(item)]
    raise TypeError(
        f"example_inputs is {type(example_inputs).__name__}; give a tensor, a tuple of forward's arguments, "
        "or a list of such tuples"
    )


def guessed(module: nn.Module) -> tuple[list[Sample], str]:
    """Two pictures of different sizes that the module takes, and, where there are none, why."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    needed = [
        p
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) != 1:
        return [], f"forward takes {len(needed)} arguments; give example_inputs"
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    if like is not None and like.is_meta:
        return [], "its parameters are on the meta device"
    dtype = torch.get_default_dtype() if like is None else like.dtype
    device = torch.device("cpu") if like is None else like.device
    generator = torch.Generator().manual_seed(0)
    error: Exception | None = None
    for sizes in _SIZES:
        for channels in _channels(module):
            samples = []
            for n, h, w in sizes:
                x = torch.rand((n, channels, h, w), generator=generator).to(device, dtype)
                sample = Sample((x,))
                try:
                    with torch.no_grad():
                        sample.run(module)
                except Exception as found:
                    error = error or found
                    continue
                samples.append(sample)
            if samples:
                return samples, ""
    return [], f"no picture was found that it takes ({type(error).__name__}: {error}); give example_inputs"


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
    """The arguments that the modules at these paths get while `module` runs the samples, first calls."""
    found: dict[str, list[Sample]] = {path: [] for path in paths}
    handles = []
    for path in paths:
        calls = found[path]

        def record(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], calls: list[Sample] = calls
        ) -> None:
            if len(calls) < len(samples) * 2:
                calls.append(Sample(args, kwargs).to_copy())

        inner = module.get_submodule(path)
        handles.append(inner.register_forward_pre_hook(record, with_kwargs=True))
    try:
        with torch.no_grad():
            for sample in samples:
                sample.run(module)
    finally:
        for handle in handles:
            handle.remove()
    return found
