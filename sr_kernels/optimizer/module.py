# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Optimised modules: copies that share every parameter with the original, of classes derived from its own."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils._pytree import tree_leaves, tree_map

from sr_kernels.optimizer.region import Region
from sr_kernels.optimizer.report import Report


class Optimized(nn.Module):
    """What optimised modules have beside all that the original's class has.

    An optimised module shares parameters and buffers with the original, under the same names, so that a
    change of one is a change of both; modes, hooks, settings and the modules inside are its own. In training
    mode it runs the original's forward.
    """

    _sr_kind: type[nn.Module]
    _sr_region: Region | None
    _sr_report: Report | None
    _sr_original: nn.Module | None
    _sr_dtype: torch.dtype | None
    _sr_forward: Any  # the original's, where it is an attribute of its own

    def _sr_run(self, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """forward: the original's, for calls outside a region's reach."""
        region, dtype = self._sr_region, self._sr_dtype
        if self._sr_forward is not None:
            forward = self._sr_forward
        if dtype is None:
            return forward(*args, **kwargs) if region is None else region.run(self, forward, args, kwargs)
        asked = next((x.dtype for x in tree_leaves((args, kwargs)) if _is_floating(x)), dtype)
        args, kwargs = tree_map(lambda x: _cast(x, dtype), (args, kwargs))
        result = forward(*args, **kwargs) if region is None else region.run(self, forward, args, kwargs)
        return tree_map(lambda x: _cast(x, asked), result)

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        if len(reduced) > 1 and reduced[1] and reduced[1][0] is type(self):
            return _new, (self._sr_kind, isinstance(self, Outermost)), *reduced[2:]
        return reduced


class Outermost(Optimized):
    """What optimize returns; its two names stand back behind those of the original's class."""

    def report(self) -> Report:
        """What was fused, what was not and why, parity and time, as measured when it was optimised."""
        assert self._sr_report is not None
        return self._sr_report

    @property
    def original(self) -> nn.Module:
        """The module that was optimised."""
        assert self._sr_original is not None
        return self._sr_original


def _cast(x: Any, dtype: torch.dtype) -> Any:
    return x.to(dtype) if _is_floating(x) else x


def _is_floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


_derived: dict[tuple[type[nn.Module], bool], type[nn.Module]] = {}


def derived(kind: type[nn.Module], outermost: bool = False) -> type[nn.Module]:
    """The class of optimised modules of that class."""
    key = kind, outermost
    if key not in _derived:

        @functools.wraps(kind.forward)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            return self._sr_run(super(made, self).forward, args, kwargs)

        made: Any = type(
            f"Optimized{kind.__name__}",
            (Outermost if outermost else Optimized, kind),
            {"__module__": kind.__module__, "__doc__": kind.__doc__, "_sr_kind": kind, "forward": forward},
        )
        _derived[key] = made
    return _derived[key]


def _new(kind: type[nn.Module], outermost: bool) -> nn.Module:
    made = derived(kind, outermost)
    return made.__new__(made)


def _shallow(module: nn.Module) -> nn.Module:
    """A copy that shares parameters and buffers; what hangs below and what hooks into it are its own."""
    twin = module.__class__.__new__(module.__class__)
    own = twin.__dict__
    own.update(module.__dict__)
    own.update({name: copy.copy(own[name]) for name in _TABLES if name in own})
    return twin


# What register_... writes to, parameters and buffers apart.
_TABLES = tuple(
    name
    for name, table in vars(nn.Module()).items()
    if isinstance(table, dict) and name not in ("_parameters", "_buffers")
)


def _runs_elsewhere(module: nn.Module) -> bool:
    """Whether what a call runs is bound to this very object, as compiled code is, or changes it: a lazy layer
    becomes another."""
    forward = vars(module).get("forward")
    return (
        isinstance(module, (torch.jit.ScriptModule, LazyModuleMixin))
        or getattr(module, "_compiled_call_impl", None) is not None
        or (forward is not None and getattr(forward, "__self__", None) is not module)
    )


def assembled(module: nn.Module, regions: Mapping[str, Region], *, outermost: bool = False) -> nn.Module:
    """A copy of module in which the modules at these dotted paths run as regions; "" is the module itself.

    Modules inside are copies too, so that modes, hooks and settings are its own; one that stands in several
    places stands in them still. outermost: with what `finished` needs.
    """
    twins: dict[int, nn.Module] = {}
    chosen = {id(module.get_submodule(path)): region for path, region in regions.items()}
    above: dict[int, bool] = {}

    def touched(m: nn.Module) -> bool:
        if id(m) not in above:
            above[id(m)] = False  # a cycle of modules has no region that matters
            above[id(m)] = id(m) in chosen or any(touched(child) for child in m.children())
        return above[id(m)]

    def twin_of(m: nn.Module) -> nn.Module:
        if m is not module and not touched(m) and _runs_elsewhere(m):
            return m
        if id(m) in twins:
            return twins[id(m)]
        twin = twins[id(m)] = _shallow(m)
        region = chosen.get(id(m))
        if region is not None or m is module:
            # names that the module itself uses stay its own
            named = any(hasattr(m, name) for name in ("report", "original"))
            twin.__class__ = derived(type(m), outermost and m is module and not named)
            twin.__dict__.update(
                _sr_region=region, _sr_report=None, _sr_original=None, _sr_dtype=None, _sr_forward=None
            )
        twin._modules.update(
            {name: None if child is None else twin_of(child) for name, child in m._modules.items()}
        )
        return twin

    made = twin_of(module)
    for twin in twins.values():
        for name, value in vars(twin).items():
            if name not in _OWN and not name.startswith("_sr_"):
                twin.__dict__[name] = _moved(value, twins)
    return made


_OWN = frozenset(vars(nn.Module()))


def _moved(value: Any, twins: Mapping[int, nn.Module]) -> Any:
    """An attribute that names modules (one, a list of them, a method of one), of their twins instead."""
    if isinstance(value, nn.Module):
        return twins.get(id(value), value)
    if isinstance(value, MethodType) and id(value.__self__) in twins:
        return MethodType(value.__func__, twins[id(value.__self__)])
    if type(value) in (list, tuple):
        items = [_moved(item, twins) for item in value]
        return value if all(map(operator.is_, items, value)) else type(value)(items)
    if type(value) is dict:
        entries = {key: _moved(item, twins) for key, item in value.items()}
        return value if all(entries[key] is item for key, item in value.items()) else entries
    return value


def finished(
    subject: nn.Module,
    regions: Mapping[str, Region],
    original: nn.Module,
    report: Report,
    dtype: torch.dtype | None,
) -> nn.Module:
    """The module that optimize returns: subject with its regions, which knows what it was made of."""
    try:
        # regions that remember nothing of the modules that they were tried in
        fast = assembled(subject, copy.deepcopy(dict(regions)), outermost=True)
    except Exception as error:  # a class that none can be derived from
        report.regions, report.fused = [], {}
        report.notes.append(f"it runs as it is: no class can be derived from its own ({error})")
        return _labelled(original, report)
    fast.__dict__.update(_sr_original=original, _sr_report=report, _sr_dtype=dtype)
    if dtype is not None and "forward" in vars(fast):
        fast.__dict__["_sr_forward"] = vars(fast).pop("forward")
    return fast


def _labelled(original: nn.Module, report: Report) -> nn.Module:
    """A copy of a module of any class, which tells what became of it."""
    twin: nn.Module = copy.copy(original)
    twin.__dict__.update(report=_Teller(report), original=original)
    return twin


class _Teller:
    """The method `report` of a module whose class is not ours; one that pickle writes."""

    def __init__(self, report: Report) -> None:
        self.found = report

    def __call__(self) -> Report:
        return self.found
