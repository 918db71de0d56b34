# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Where training begins."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn


def start_from_nearest(model: nn.Module) -> None:
    """Zero the last convolution, so that training begins at the enlarged input itself."""
    with torch.no_grad():
        for parameter in list(model.parameters())[-2:]:
            parameter.zero_()


def start_from(model: nn.Module, weights: Path) -> list[str]:
    """Copy from a safetensors file the tensors whose names and shapes agree; their names.

    Raises FileNotFoundError without the file, ValueError where it is no safetensors file or none agrees.
    """
    try:
        given = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is not a safetensors file: {error}") from error
    own = model.state_dict()
    agreeing = [k for k in own if k in given and given[k].shape == own[k].shape]
    if not agreeing:
        raise ValueError(f"{weights} has no tensor with a name and shape of this network's")
    with torch.no_grad():
        for name in agreeing:
            own[name].copy_(given[name])
    return agreeing
