# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Optimised modules: copies that share every parameter with the original, of classes derived from its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sr_kernels.optimizer.region import Region

if TYPE_CHECKING:
    from sr_kernels.optimizer.report import Report


class Optimized(nn.Module):
    """What optimised modules have beside all that the original's class has.

    An optimised module is a shallow copy: it shares parameters and buffers with the original, under the same
    names, so that a change of one is a change of both. In training mode it runs the original's forward.
    """

    _sr_kind: type[nn.Module]
    _sr_region: Region | None
    _sr_report: Report | None
    _sr_original: nn.Module | None
    _sr_dtype: torch.dtype | None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        region, dtype = self._sr_region, self._sr_dtype
        if dtype is None:
            return (
                super().forward(*args, **kwargs)
                if region is None
                else region.run(self, super().forward, args, kwargs)
            )
        asked = next((x.dtype for x in args if isinstance(x, Tensor) and x.is_floating_point()), dtype)
        args, kwargs = tree_map(lambda x: _cast(x, dtype), (args, kwargs))
        result = (
            super().forward(*args, **kwargs)
            if region is None
            else region.run(self, super().forward, args, kwargs)
        )
        return tree_map(lambda x: _cast(x, asked), result)

    def report(self) -> Report:
        """What was fused, what was not and why, parity and time, as measured when it was optimised."""
        if self._sr_report is None:
            raise AttributeError(
                "a module inside an optimised one has no report of its own; ask the outermost one"
            )
        return self._sr_report

    @property
    def original(self) -> nn.Module:
        """The module that was optimised."""
        if self._sr_original is None:
            raise AttributeError(
                "a module inside an optimised one has no original of its own; ask the outermost one"
            )
        return self._sr_original

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        if len(reduced) > 1 and reduced[1] and reduced[1][0] is type(self):
            return _new, (self._sr_kind,), *reduced[2:]
        return reduced


def _cast(x: Any, dtype: torch.dtype) -> Any:
    return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


_derived: dict[type[nn.Module], type[nn.Module]] = {}


def derived(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of optimised modules of that class."""
    if kind not in _derived:
        members = {"__module__": kind.__module__, "__doc__": kind.__doc__, "_sr_kind": kind}
        _derived[kind] = type(f"Optimized{kind.__name__}", (Optimized, kind), members)
    return _derived[kind]


def _new(kind: type[nn.Module]) -> nn.Module:
    made = derived(kind)
    return made.__new__(made)


def _shallow(module: nn.Module) -> nn.Module:
    """A copy with children of its own choice, everything else shared."""
    twin = module.__class__.__new__(module.__class__)
    twin.__dict__ = dict(module.__dict__)
    twin.__dict__["_modules"] = dict(module._modules)
    return twin


def assembled(module: nn.Module, regions: Mapping[str, Region]) -> nn.Module:
    """A copy of module in which the modules at these dotted paths run as regions; "" is the module itself.

    A module that stands in several places stands in them still.
    """
    twins: dict[int, nn.Module] = {}
    chosen = {id(module.get_submodule(path)): region for path, region in regions.items()}
    above: dict[int, bool] = {}

    def touched(m: nn.Module) -> bool:
        if id(m) not in above:
            above[id(m)] = False  # a cycle of modules has no region that matters
            above[id(m)] = id(m) in chosen or any(touched(child) for child in m.children())
        return above[id(m)]

    def twin_of(m: nn.Module, outermost: bool = False) -> nn.Module:
        if not outermost and not touched(m):
            return m
        if id(m) in twins:
            return twins[id(m)]
        twin = twins[id(m)] = _shallow(m)
        region = chosen.get(id(m))
        if region is not None or outermost:
            twin.__class__ = derived(type(m))
            twin.__dict__.update(_sr_region=region, _sr_report=None, _sr_original=None, _sr_dtype=None)
        twin._modules.update(
            {name: None if child is None else twin_of(child) for name, child in m._modules.items()}
        )
        return twin

    return twin_of(module, outermost=True)


def finished(fast: nn.Module, original: nn.Module, report: Report, dtype: torch.dtype | None) -> nn.Module:
    """fast, which knows what it was made of and with what result."""
    fast.__dict__.update(_sr_original=original, _sr_report=report, _sr_dtype=dtype)
    return fast
