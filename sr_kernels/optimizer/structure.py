# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a graph has taken of its module beside tensors, and whether that is still so: the layers inside, their
plain attributes, that nobody hooks into them, and, where it matters, that they are in eval mode."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

_OWN = frozenset(vars(nn.Module()))  # attributes that every module has
_PLAIN = (int, float, bool, str, type(None))


@dataclass(frozen=True)
class _Fact:
    path: str
    kind: type[nn.Module]
    children: int
    attributes: tuple[tuple[str, Any], ...]
    trained: bool  # its forward asks for the training flag
    hooks: tuple[int, ...]  # how many of each kind: those of a weight norm are part of the graph


# One module as found: itself, class, attributes, where it hangs, under which name, its hooks, the fact.
_Bound = list[tuple[nn.Module, type, dict[str, Any], dict[str, Any], str, tuple[Any, ...], _Fact]]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Structure:
    """Of one module as it was captured; free of tensors and of modules."""

    def __init__(self, module: nn.Module, apart: Collection[str]) -> None:
        """apart: dotted paths of modules that are called as the modules that they are."""
        self.facts = [
            _Fact(path, type(m), len(m._modules), _attributes(m), reads_training(type(m)), _hooks(m))
            for path, m in module.named_modules(remove_duplicate=False)
            if not any(path == other or path.startswith(f"{other}.") for other in apart)
        ]
        self.trained = [fact.path for fact in self.facts if fact.path and fact.trained]

    def bind(self, module: nn.Module) -> _Bound:
        """The modules that the facts are about. Raises AttributeError where one is gone."""
        bound: _Bound = []
        for fact in self.facts:
            parent, _, name = fact.path.rpartition(".")
            above = module.get_submodule(parent)
            found = module.get_submodule(fact.path)
            hooks = tuple(vars(found)[kind] for kind in _HOOKS) if name else ()
            # one that runs as a region in another place too is of a class derived from its own
            kind = type(found) if getattr(found, "_sr_kind", None) is fact.kind else fact.kind
            bound.append((found, kind, vars(found), above._modules if name else {}, name, hooks, fact))
        return bound

    def altered(self, bound: _Bound) -> str:
        """What is not as it was, in words; "" where everything is. It runs at every call."""
        for m, kind, own, siblings, name, hooks, fact in bound:
            if name:
                if siblings.get(name) is not m or type(m) is not kind:
                    return f"{fact.path} is another module"
                if tuple(map(len, hooks)) != fact.hooks:
                    return f"{fact.path} has other hooks"
            if "forward" in own:
                return f"{fact.path or 'the module'} has a forward of its own"
            if fact.children != len(own["_modules"]):
                return f"{fact.path or 'the module'} has other modules inside"
            for attribute, value in fact.attributes:
                if own.get(attribute, m) != value:
                    return f"{f'{fact.path}.{attribute}'.lstrip('.')} has changed"
        return ""

    def trains(self, bound: _Bound) -> bool:
        """Whether a module inside that asks for the training flag is in training mode."""
        return any(own["training"] for _, _, own, _, name, _, fact in bound if name and fact.trained)


def _hooks(module: nn.Module) -> tuple[int, ...]:
    return tuple(len(vars(module)[kind]) for kind in _HOOKS)


def _attributes(module: nn.Module) -> tuple[tuple[str, Any], ...]:
    """Those that a forward may have read: of torch's own layers numbers such as a slope, the rest being
    checked with the tensors' shapes."""
    kinds = (float,) if type(module).__module__.startswith("torch.nn") else _PLAIN
    return tuple(
        (name, value) for name, value in vars(module).items() if name not in _OWN and type(value) in kinds
    )


_known: dict[type[nn.Module], bool] = {}


def reads_training(kind: type[nn.Module]) -> bool:
    """Whether the code of a class names the training flag."""
    if kind not in _known:
        functions = [f for base in kind.__mro__ if base not in nn.Module.__mro__ for f in vars(base).values()]
        codes = [f.__code__ for f in functions if hasattr(f, "__code__")]
        _known[kind] = any("training" in code.co_names for code in codes)
    return _known[kind]
