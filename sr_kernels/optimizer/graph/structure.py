# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a graph has taken of its module beside tensors, and whether that is still so: the layers inside, their
plain attributes, that nobody hooks into them, and, where it matters, that they are in eval mode."""

from __future__ import annotations

import copy
import enum
import functools
import importlib
import numbers
from collections.abc import Collection
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from sr_kernels.backends import registry

# Attributes that every module has, or may get by its method compile() or by torch.compile.
_OWN = frozenset((*vars(nn.Module()), "_compiled_call_impl", "_is_torch_compile"))
# Compared by ==, functions and classes among them.
_PLAIN = (
    numbers.Number,
    str,
    bytes,
    type(None),
    type(Ellipsis),
    enum.Enum,
    type,
    FunctionType,
    BuiltinFunctionType,
    torch.dtype,
    torch.device,
    torch.memory_format,
    torch.layout,
)


@dataclass(frozen=True)
class _Fact:
    path: str
    kind: type[nn.Module]
    children: int
    attributes: tuple[tuple[str, Any], ...]
    names: frozenset[str]  # of all attributes
    trained: bool  # its forward asks for the training flag
    hooks: tuple[Any, ...]  # classes of each kind: those of a weight norm are part of the graph


@dataclass(frozen=True)
class _Thing:
    """What is known of an object that == cannot be trusted with: its class and what is inside."""

    kind: type
    inside: tuple[Any, ...] = ()


# One module as found: itself, class, attributes, where it hangs, under which name, its hooks, the values that
# its attributes must have, how many attributes it has, the fact.
_Values = list[tuple[str, Any, bool]]  # name, value, whether it must be that very object
_Row = tuple[nn.Module, type, dict[str, Any], dict[str, Any], str, tuple[Any, ...], _Values, int, _Fact]
_Entry = tuple[dict[str, Any], str, Any]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Structure:
    """Of one module as it was captured; free of tensors and of modules."""

    def __init__(self, module: nn.Module, apart: Collection[str]) -> None:
        """apart: dotted paths of modules that are called as the modules that they are."""
        self.facts = [
            _Fact(
                path,
                type(m),
                len(m._modules),
                _attributes(m),
                frozenset(vars(m)),
                reads_training(type(m)),
                _hooks(m) if path else (),
            )
            for path, m in module.named_modules(remove_duplicate=False)
            if not any(path == other or path.startswith(f"{other}.") for other in apart)
        ]
        self.trained = [fact.path for fact in self.facts if fact.path and fact.trained]

    def bind(self, module: nn.Module) -> Bound:
        """The modules that the facts are about. Raises AttributeError where one is gone, or has an attribute
        more, which its forward may read in the place of its class's."""
        rows: list[_Row] = []
        for fact in self.facts:
            parent, _, name = fact.path.rpartition(".")
            above = module.get_submodule(parent)
            found = module.get_submodule(fact.path)
            hooks = tuple(vars(found)[kind] for kind in _HOOKS) if name else ()
            # one that runs as a region in another place too is of a class derived from its own
            kind = type(found) if getattr(found, "_sr_kind", None) is fact.kind else fact.kind
            own = vars(found)
            for new in () if "_is_replica" in own else own:  # DataParallel's have their weights as attributes
                if new not in fact.names and new not in _OWN and not new.startswith("_sr_"):
                    raise AttributeError(f"{fact.path or 'the module'} has a new attribute, {new},")
            values = [_expected(attribute, value, own) for attribute, value in fact.attributes]
            table = above._modules if name else {}
            rows.append((found, kind, own, table, name, hooks, values, len(own), fact))
        return Bound(module, rows)


class Bound:
    """The modules that a structure is about, and what must be so of them. What can be asked of tables alone
    the extension is asked, where it is built."""

    def __init__(self, module: nn.Module, rows: list[_Row]) -> None:
        self.module, self._rows = module, rows
        self._asked = [row[2] for row in rows if row[4] and row[8].trained]
        self._native = _native()
        self._hooked = [row for row in rows if row[8].hooks]
        self._tables = [row[2] for row in rows]
        same: list[_Entry] = []
        equal: list[_Entry] = []
        sizes: list[tuple[dict[str, Any], int]] = []
        kinds: list[tuple[nn.Module, type]] = []
        for m, kind, own, siblings, name, hooks, values, count, fact in rows:
            if name:
                same.append((siblings, name, m))
                kinds.append((m, kind))
            same.append((own, "_modules", m._modules))
            sizes += [(m._modules, fact.children), (own, count)]
            if not fact.hooks:
                sizes += [(table, 0) for table in hooks]
            same += [(own, attribute, value) for attribute, value, very in values if very]
            equal += [(own, attribute, value) for attribute, value, very in values if not very]
        self._same, self._equal = tuple(same), tuple(equal)
        self._sizes, self._kinds = tuple(sizes), tuple(kinds)

    def altered(self) -> str:
        """What is not as it was, in words; "" where everything is. It runs at every call."""
        return "" if self._holds() else _altered(self._rows)

    def _holds(self) -> bool:
        """Whether it is known at once that nothing was altered."""
        native = self._native
        return (
            native is not None
            and native.are_same(self._same)
            and native.are_equal(self._equal)
            and native.are_of_size(self._sizes)
            and native.are_instances(self._kinds)
            and not any("forward" in own for own in self._tables)
            and not _altered(self._hooked)
        )

    def trains(self) -> bool:
        """Whether a module inside that asks for the training flag is in training mode."""
        return any(own["training"] for own in self._asked)


def _native() -> Any:
    """The extension; None where it is not built."""
    return None if registry.unavailable("cpu") else importlib.import_module("sr_kernels._C")


def _altered(rows: list[_Row]) -> str:
    for m, kind, own, siblings, name, hooks, values, count, fact in rows:
        if name:
            if siblings.get(name) is not m or type(m) is not kind:
                return f"{fact.path} is another module"
            if (_classes(hooks) if any(hooks) else ()) != fact.hooks:
                return f"{fact.path} has other hooks"
        if "forward" in own:
            return f"{fact.path or 'the module'} has a forward of its own"
        if fact.children != len(own["_modules"]):
            return f"{fact.path or 'the module'} has other modules inside"
        if len(own) != count:
            return f"{fact.path or 'the module'} has other attributes"
        for attribute, value, very in values:
            now = own.get(attribute, m)
            if now is not value and (very or type(now) is not type(value) or now != value):
                return f"{f'{fact.path}.{attribute}'.lstrip('.')} has changed"
    return ""


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    tables = tuple(vars(module)[kind] for kind in _HOOKS)
    return _classes(tables) if any(tables) else ()


def _classes(tables: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(tuple(map(type, table.values())) for table in tables)


def _attributes(module: nn.Module) -> tuple[tuple[str, Any], ...]:
    """Those that a forward may have read: all but tensors, which are read anew, and modules."""
    return tuple(
        (name, _frozen(value))
        for name, value in vars(module).items()
        if name not in _OWN and not name.startswith("_sr_") and not isinstance(value, (Tensor, nn.Module))
    )


def _is_plain(value: Any) -> bool:
    """Whether == tells all of a value."""
    if type(value) in (list, tuple, set, frozenset) or isinstance(value, torch.Size):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return isinstance(value, _PLAIN)


def _is_immutable(value: Any) -> bool:
    """Whether nothing of a plain value can be written to."""
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_immutable, value))
    return not isinstance(value, (list, set, dict))


def _frozen(value: Any, depth: int = 4) -> Any:
    """A copy of a plain value; of another object what can be told of it without holding it or its tensors."""
    if isinstance(value, (Tensor, nn.Module)) or depth == 0:
        return _Thing(type(value))
    if _is_plain(value):
        return copy.deepcopy(value)
    if isinstance(value, MethodType):  # whose object may be a copy
        return _Thing(MethodType, (value.__func__,))
    if isinstance(value, functools.partial):
        items: Any = (value.func, *value.args, *value.keywords.items())
    elif isinstance(value, (list, tuple)):
        items = value
    else:
        items = (value if isinstance(value, dict) else getattr(value, "__dict__", {})).items()
    return _Thing(type(value), tuple(_frozen(item, depth - 1) for item in items))


def _expected(name: str, known: Any, own: dict[str, Any]) -> tuple[str, Any, bool]:
    """What an attribute must be at every call: of objects, which a copied or loaded module has others of, the
    one found, if it is as the one that was captured."""
    if name not in own:
        return name, known, True
    found = own[name]
    if isinstance(known, _Thing):
        return name, found if _frozen(found) == known else known, True
    # the very object is compared faster; one that can be written to is compared with its copy
    same = type(found) is type(known) and _is_immutable(found) and found == known
    return name, found if same else known, False


def are_all_hooked() -> bool:
    """Whether hooks of all modules are registered, which are to see every layer."""
    return bool(_has_any_global_hook())


_named: dict[type[nn.Module], frozenset[str]] = {}


def names(kind: type[nn.Module], *words: str) -> bool:
    """Whether the code of a class names one of these functions or attributes."""
    if kind not in _named:
        functions = [f for base in kind.__mro__ if base not in nn.Module.__mro__ for f in vars(base).values()]
        codes = [f.__code__ for f in functions if hasattr(f, "__code__")]
        _named[kind] = frozenset(name for code in codes for name in code.co_names)
    return not _named[kind].isdisjoint(words)


def reads_training(kind: type[nn.Module]) -> bool:
    """Whether the code of a class names the training flag."""
    return names(kind, "training")
