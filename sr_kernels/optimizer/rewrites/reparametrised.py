# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers whose weight is made of others at every call: weight norm and spectral norm, as a hook
(torch.nn.utils.weight_norm, spectral_norm) or as a parametrisation, in eval mode.

    weight norm (Salimans & Kingma 2016)     g * v / |v|, the norm over all but one axis, or over all
    spectral norm (Miyato et al. 2018)       w / sigma, sigma = u . (W v) with u and v as they are stored;
                                             W is w with one axis first, the others flattened

Other hooks and parametrisations are somebody else's code: such a layer stays the module that it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sr_kernels.nn.conv import is_hooked, is_plain
from sr_kernels.optimizer.rewrites.weights import rounded

Get = Callable[[str], fx.Node]  # the node of an attribute by its dotted path from the layer
Makers = dict[str, Callable[[fx.Graph, Get], fx.Node]]


def weight_normed(v: Tensor, g: Tensor, dim: int) -> Tensor:
    """g * v / |v| in float64, the norm over all axes but dim, or over all where it is -1."""
    return torch._weight_norm(v.double(), g.double(), dim)


def spectrally_normed(weight: Tensor, u: Tensor, v: Tensor, dim: int) -> Tensor:
    """weight / (u . (W v)) in float64."""
    weight = weight.double()
    matrix = weight.movedim(dim, 0).flatten(1)
    return weight / torch.dot(u.double(), torch.mv(matrix, v.double()))


def read(layer: nn.Module) -> tuple[type[nn.Module], Makers] | None:
    """The class that a layer has but for what makes its weight, and how to make it; None where calling it
    does something else beside."""
    if is_plain(layer, type(layer)) and not parametrize.is_parametrized(layer):
        return type(layer), {}
    if parametrize.is_parametrized(layer):
        return _parametrised(layer)
    return _hooked(layer)


def is_spectral(layer: nn.Module) -> bool:
    """Whether a layer's weight is normed spectrally, which in training mode changes what is stored."""
    hooks = layer._forward_pre_hooks.values()
    steps = [step for steps in getattr(layer, "parametrizations", {}).values() for step in steps]
    return any(type(hook) is SpectralNorm for hook in hooks) or any(_name(s) == _SPECTRAL for s in steps)


def _name(step: nn.Module) -> str:
    """The class of a parametrisation, which torch names as its own business."""
    return f"{type(step).__module__}.{type(step).__qualname__}"


_WEIGHT = "torch.nn.utils.parametrizations._WeightNorm"
_SPECTRAL = "torch.nn.utils.parametrizations._SpectralNorm"


def _hooked(layer: nn.Module) -> tuple[type[nn.Module], Makers] | None:
    hooks = list(layer._forward_pre_hooks.values())
    others = (layer._forward_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    if any(others) or len(hooks) != 1:
        return None
    hook = hooks[0]
    if type(hook) is WeightNorm:
        return type(layer), {hook.name: _weight_norm(f"{hook.name}_v", f"{hook.name}_g", hook.dim)}
    if type(hook) is SpectralNorm and not layer.training:
        names = (f"{hook.name}_orig", f"{hook.name}_u", f"{hook.name}_v")
        return type(layer), {hook.name: _spectral_norm(*names, hook.dim)}
    return None


def _parametrised(layer: nn.Module) -> tuple[type[nn.Module], Makers] | None:
    kind = parametrize.type_before_parametrizations(layer)
    if is_hooked(layer):
        return None
    makers: Makers = {}
    for name, steps in layer.parametrizations.items():  # type: ignore[union-attr,operator]
        where = f"parametrizations.{name}"
        if len(steps) != 1:
            return None
        step = steps[0]
        if _name(step) == _WEIGHT:
            dim = -1 if step.dim is None else step.dim
            makers[name] = _weight_norm(f"{where}.original1", f"{where}.original0", dim)
        elif _name(step) == _SPECTRAL and not step.training:
            names = (f"{where}.original", f"{where}.0._u", f"{where}.0._v")
            makers[name] = _spectral_norm(*names, step.dim)
        else:
            return None
    return kind, makers


def _weight_norm(v: str, g: str, dim: int) -> Callable[[fx.Graph, Get], fx.Node]:
    def make(graph: fx.Graph, get: Get) -> fx.Node:
        source = get(v)
        return graph.call_function(
            rounded, (graph.call_function(weight_normed, (source, get(g), dim)), source)
        )

    return make


def _spectral_norm(weight: str, u: str, v: str, dim: int) -> Callable[[fx.Graph, Get], fx.Node]:
    def make(graph: fx.Graph, get: Get) -> fx.Node:
        source = get(weight)
        made = graph.call_function(spectrally_normed, (source, get(u), get(v), dim))
        return graph.call_function(rounded, (made, source))

    return make
