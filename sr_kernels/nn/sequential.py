# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""nn.Sequential that runs a convolution with the activation and pixel shuffle after it as one op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from sr_kernels import ops
from sr_kernels.nn.activation import arguments_of
from sr_kernels.nn.conv import ConvAct2d, ConvTransposeAct2d, fused_conv2d, is_hooked, is_plain
from sr_kernels.ops._conv_transpose2d import chain_layer


class FusedSequential(nn.Sequential):
    """Equal to nn.Sequential of the same modules, state dict included; members are torch's own modules.

    Each convolution (nn.Conv2d, or ConvAct2d without activation) absorbs an activation and an
    nn.PixelShuffle that follow it. Members with hooks, and any other module, run as they are. Keyword
    arguments of the call go to the last member: seq(x, base=x). A convolution's input must have its N: where
    nn.Sequential takes (C, H, W), this does not.
    """

    def forward(self, input: Tensor, **last: Any) -> Tensor:
        modules = list(self)
        if last and not modules:
            raise TypeError(f"an empty FusedSequential takes no {', '.join(last)}")
        i = 0
        while i < len(modules):
            module = modules[i]
            i += 1
            if not _fusable(module):
                input = module(input, **last) if i == len(modules) else module(input)
                continue
            epilogue: dict[str, Any] = {}
            while i < len(modules) and (more := _absorbed(modules[i], epilogue)) is not None:
                epilogue.update(more)
                i += 1
            if i == len(modules):
                epilogue.update(last)
            input = fused_conv2d(module, input, **epilogue)
        return input


# Below, caches hold whatever passes between layers, and a chain would cost its 70 microseconds for nothing.
_FEW_PIXELS = 1 << 13


def run_chained(stages: Sequence[nn.Module], input: Tensor) -> Tensor:
    """Equal to calling the stages one after the other, by ops.conv2d_chain where they are nothing but plain
    convolutions, activations and, at the very end, a shuffle or a transposed convolution."""
    layers = None if _is_small(input) else _chain_of(stages, input)
    if layers is not None:
        return ops.conv2d_chain(input, layers)
    for stage in stages:
        input = stage(input)
    return input


def _is_small(input: object) -> bool:
    """Whether a chain would gain nothing. What stands for a tensor while torch.fx traces has no size: the
    layers are shown one by one."""
    if not isinstance(input, Tensor):
        return True
    return not torch.compiler.is_compiling() and input.shape[-2] * input.shape[-1] < _FEW_PIXELS


def _chain_of(stages: Sequence[nn.Module], input: Tensor) -> list[dict[str, Any]] | None:
    """The layers of conv2d_chain that are equal to the stages; None where something is no such layer."""
    modules: list[nn.Module] = []
    for stage in stages:
        if is_plain(stage, FusedSequential):
            modules += cast(FusedSequential, stage)
        else:
            modules.append(stage)
    layers: list[dict[str, Any]] = []
    for i, module in enumerate(modules):
        if _fusable(module) and _is_simple(module):
            layers.append({"weight": module.weight, "bias": module.bias, "padding": module.padding})
        elif i + 1 == len(modules) and is_plain(module, ConvTransposeAct2d):
            layer = _last_layer(cast(ConvTransposeAct2d, module), layers, input)
            if layer is None:
                return None
            layers.append(layer)
        else:
            more = _absorbed(module, layers[-1]) if layers else None
            if more is None or ("pixel_shuffle" in more and i + 1 < len(modules)):
                return None
            layers[-1].update(more)
    return layers


def _is_simple(conv: nn.Conv2d) -> bool:
    return (
        conv.padding_mode == "zeros"
        and conv.groups == 1
        and tuple(conv.stride) == (1, 1)
        and tuple(conv.dilation) == (1, 1)
    )


def _last_layer(
    conv: ConvTransposeAct2d, before: Sequence[dict[str, Any]], input: Tensor
) -> dict[str, Any] | None:
    """The layer of a transposed convolution behind those layers that keep the picture's size."""
    keep = all(
        layer["padding"] == "same"
        or tuple(2 * side + 1 for side in layer["padding"]) == tuple(layer["weight"].shape[2:])
        for layer in before
    )
    if not keep or conv.activation is not None or input.dim() != 4:
        return None
    return chain_layer(
        input.shape[2:],
        conv.weight,
        conv.bias,
        cast(tuple[int, int], conv.stride),
        cast(tuple[int, int], conv.padding),
        cast(tuple[int, int], conv.output_padding),
    )


def _fusable(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return is_plain(module) or (is_plain(module, ConvAct2d) and module.activation is None)


def _absorbed(module: nn.Module, epilogue: dict[str, Any]) -> dict[str, Any] | None:
    """What `module` adds to the epilogue so far; None when it must run by itself."""
    if is_hooked(module):
        return None
    if isinstance(module, nn.PixelShuffle):
        return None if "pixel_shuffle" in epilogue else {"pixel_shuffle": module.upscale_factor}
    arguments = arguments_of(module)
    if arguments is None or (arguments and "activation" in epilogue):
        return None
    # the op activates before it shuffles, where a slope for each shuffled channel has no place
    if "pixel_shuffle" in epilogue and isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return None
    return arguments
