# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Activations between torch's modules and the arguments of the fused op."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from sr_kernels.reference import ACTIVATIONS

_SIMPLE: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}
_SEQUENTIAL_KEY = re.compile(r"\d+\.(weight|bias)")


def arguments_of(module: nn.Module) -> dict[str, Any] | None:
    """The op's keyword arguments for an activation module; None when the op has no such activation."""
    kind = type(module)
    if kind is nn.Identity:
        return {}
    if kind in _SIMPLE:
        return {"activation": _SIMPLE[kind]}
    if isinstance(module, nn.LeakyReLU) and kind is nn.LeakyReLU:
        return {"activation": "leaky_relu", "negative_slope": module.negative_slope}
    if isinstance(module, nn.PReLU) and kind is nn.PReLU:
        return {"activation": "prelu", "prelu_weight": module.weight}
    if isinstance(module, nn.GELU) and kind is nn.GELU and module.approximate == "none":
        return {"activation": "gelu"}
    return None


class Activated(nn.Module):
    """What the fused layers share: the activation's arguments, and its place in state dicts.

    A PReLU's slopes are the parameter `prelu_weight`, (1,) or (channels,). A state dict of the nn.Sequential
    that the layer replaces ("0.weight", "0.bias", "1.weight") loads too.
    """

    activation: str | None
    negative_slope: float
    prelu_weight: nn.Parameter | None

    def set_activation(
        self,
        activation: str | None,
        negative_slope: float,
        num_parameters: int,
        prelu_init: float,
        channels: int,
        device: Any,
        dtype: Any,
    ) -> None:
        """Checks and stores; `channels` is what a PReLU with a slope for each channel must have."""
        name = type(self).__name__
        if activation is not None and activation not in ACTIVATIONS:
            raise ValueError(f"{name}: activation is {activation!r}; give None or one of {ACTIVATIONS[1:]}")
        if num_parameters not in (1, channels):
            raise ValueError(f"{name}: num_parameters is {num_parameters!r}; give 1 or {channels} (channels)")
        self.activation = None if activation == "none" else activation
        self.negative_slope = float(negative_slope)
        if activation == "prelu":
            slopes = torch.full((num_parameters,), float(prelu_init), device=device, dtype=dtype)
            self.prelu_weight = nn.Parameter(slopes)
        else:
            self.register_parameter("prelu_weight", None)

    def activation_arguments(self) -> dict[str, Any]:
        return {
            "activation": self.activation,
            "negative_slope": self.negative_slope,
            "prelu_weight": self.prelu_weight,
        }

    def adopt_activation(self, module: nn.Module | None) -> None:
        """Takes an activation module's arguments; a PReLU's parameter is shared."""
        arguments = {} if module is None else arguments_of(module)
        if arguments is None:
            raise TypeError(
                f"{type(self).__name__}: activation {module} has no fused form; known are Identity, ReLU, "
                "LeakyReLU, PReLU, SiLU, GELU(approximate='none'), Tanh and Sigmoid"
            )
        self.activation = arguments.get("activation")
        self.negative_slope = arguments.get("negative_slope", 0.01)
        self.prelu_weight = arguments.get("prelu_weight")

    def activation_module(self) -> nn.Module | None:
        """torch's own module for the activation, sharing the PReLU's parameter; None for no activation."""
        if self.activation == "leaky_relu":
            return nn.LeakyReLU(self.negative_slope)
        if self.activation == "gelu":
            return nn.GELU()
        if self.prelu_weight is not None:
            prelu = nn.PReLU(self.prelu_weight.numel(), device="meta")
            prelu.weight = self.prelu_weight
            return prelu
        for kind, name in _SIMPLE.items():
            if name == self.activation:
                return kind()
        return None

    def activation_repr(self) -> str:
        if self.activation is None:
            return ""
        text = f", activation={self.activation!r}"
        if self.activation == "leaky_relu":
            text += f", negative_slope={self.negative_slope}"
        if self.prelu_weight is not None:
            text += f", num_parameters={self.prelu_weight.numel()}"
        return text

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if prefix + "weight" not in state_dict:
            self._rename_sequential_keys(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _rename_sequential_keys(self, state_dict: dict[str, Any], prefix: str) -> None:
        # "<i>.weight" of rank 4 is the convolution's, of rank 1 the PReLU's; any other key stays, and is
        # reported as unexpected.
        keys = [k for k in state_dict if k.startswith(prefix) and _SEQUENTIAL_KEY.fullmatch(k[len(prefix) :])]
        kernels = [k for k in keys if k.endswith("weight") and _rank(state_dict[k]) == 4]
        slopes = [k for k in keys if k.endswith("weight") and _rank(state_dict[k]) == 1]
        if len(kernels) != 1:
            return
        bias = kernels[0].removesuffix("weight") + "bias"
        state_dict[prefix + "weight"] = state_dict.pop(kernels[0])
        if bias in keys:
            state_dict[prefix + "bias"] = state_dict.pop(bias)
        if self.prelu_weight is not None and len(slopes) == 1:
            state_dict[prefix + "prelu_weight"] = state_dict.pop(slopes[0])


def _rank(value: Any) -> int:
    return value.dim() if isinstance(value, Tensor) else -1
