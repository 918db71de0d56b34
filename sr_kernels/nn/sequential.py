# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""nn.Sequential that runs a convolution with the activation and pixel shuffle after it as one op."""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import Tensor, nn

from sr_kernels.nn.activation import arguments_of
from sr_kernels.nn.conv import ConvAct2d, fused_conv2d, is_hooked, is_plain


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
