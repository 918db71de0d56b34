# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments that layers, models and the pipeline share."""

from __future__ import annotations

import torch
from torch import Tensor


def check_integer(name: str, value: object, least: int = 1) -> None:
    """Raises TypeError or ValueError, beginning with `name`, unless value is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; give an integer")
    if value < least:
        wanted = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{name} is {value}; give {wanted}")


def check_positive(owner: str, **values: object) -> None:
    """Raises TypeError or ValueError that names the first argument of `owner` (a layer, a model) which is no
    positive integer, nor a tuple or list of them."""
    for name, value in values.items():
        if isinstance(value, (tuple, list)):
            for i, number in enumerate(value):
                check_integer(f"{owner}: {name}[{i}]", number)
        else:
            check_integer(f"{owner}: {name}", value)


def check_picture(name: str, input: object, channels: int, weight: Tensor) -> None:
    """Raises TypeError or ValueError, beginning with `name`, unless input is a picture (N, channels, H, W) of
    at least one pixel in the dtype and on the device of weight."""
    if not isinstance(input, Tensor):
        raise TypeError(f"{name}: input is {type(input).__name__}; give a tensor (N, C, H, W)")
    if input.dim() != 4 or input.shape[1] != channels:
        raise ValueError(f"{name}: input has shape {tuple(input.shape)}; give (N, {channels}, H, W)")
    if input.shape[2] < 1 or input.shape[3] < 1:
        raise ValueError(f"{name}: input has shape {tuple(input.shape)}; H and W must be at least 1")
    if not input.is_floating_point():
        raise TypeError(f"{name}: input has dtype {input.dtype}; give {weight.dtype} in [0, 1]")
    if input.dtype != weight.dtype and not torch.is_autocast_enabled(input.device.type):
        raise TypeError(
            f"{name}: input has dtype {input.dtype}, the weights {weight.dtype}; use .to(dtype) on one"
        )
    if input.device != weight.device:
        raise TypeError(
            f"{name}: input is on {input.device}, the weights on {weight.device}; use .to(device) on one"
        )
