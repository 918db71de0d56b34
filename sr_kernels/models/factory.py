# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Models by name, by checkpoint, or with the weights that the package carries."""

from __future__ import annotations

import importlib.resources
import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sr_kernels.models.base import SRModel
from sr_kernels.models.checkpoint import check_memory, read_checkpoint, unwrap, validate
from sr_kernels.models.detect import Detected, detect
from sr_kernels.models.edsr import EDSR
from sr_kernels.models.layouts import CheckpointError
from sr_kernels.models.rrdbnet import RRDBNet
from sr_kernels.models.small import ESPCN, FSRCNN
from sr_kernels.models.srvgg import SRVGGNetCompact

MODELS: dict[str, type[SRModel]] = {
    "srvgg": SRVGGNetCompact,
    "espcn": ESPCN,
    "fsrcnn": FSRCNN,
    "edsr": EDSR,
    "rrdbnet": RRDBNet,
}


def list_models() -> list[str]:
    """The names that `create` takes."""
    return list(MODELS)


def sizes_of(name: str) -> dict[str, Any]:
    """A model's arguments with their defaults. Raises ValueError for an unknown name."""
    if name not in MODELS:
        raise ValueError(f"model {name!r} is not known; known are {', '.join(MODELS)}")
    return {key: p.default for key, p in inspect.signature(MODELS[name]).parameters.items()}


def create(name: str, scale: int | None = None, **sizes: Any) -> SRModel:
    """A model with freshly initialised weights, in eval mode. scale: None means the architecture's default.

    sizes: the constructor's arguments, see `sizes_of(name)`. Raises ValueError for an unknown name or a bad
    value, TypeError for an unknown argument.
    """
    known = sizes_of(name)
    for key in sizes:
        if key not in known:
            raise TypeError(f"{name} has no argument {key!r}; it has {', '.join(known)}")
    if scale is not None:
        sizes["scale"] = scale
    return MODELS[name](**sizes).eval()


def load(source: str | os.PathLike[str] | Mapping[str, Any], **overrides: Any) -> SRModel:
    """The model of a checkpoint file or state dict, in eval mode, float32, on the CPU.

    Architecture and sizes come from the weights. overrides: arguments that the weights do not tell (scale of
    FSRCNN, activation of an SRVGG without PReLU, res_scale, rgb_mean and image_range of EDSR); any other
    must agree with the weights. Raises FileNotFoundError, CheckpointError (a ValueError), or TypeError for an
    unknown override.
    """
    metadata: dict[str, str] = {}
    if isinstance(source, Mapping):
        state = unwrap(source)
    elif isinstance(source, (str, os.PathLike)):
        state, metadata = read_checkpoint(source)
    else:
        raise TypeError(f"source is {type(source).__name__}; give a path or a state dict")
    check_memory(state)  # before anything looks at a value
    found = detect({key: tensor.detach() for key, tensor in state.items()})
    sizes = _resolve(found, metadata, overrides)
    kind = MODELS[found.architecture]
    with torch.device("meta"):
        expected: dict[str, Tensor] = kind(**sizes).state_dict()
    validate(found.state, expected, f"{found.architecture} ({found.layout})")
    with torch.random.fork_rng(devices=[]):
        model = kind(**sizes)
    model.load_state_dict(found.state)
    return model.eval()


def _resolve(found: Detected, metadata: Mapping[str, str], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The model's arguments from the weights, then from what the caller or the file's metadata add."""
    name, sizes = found.architecture, dict(found.sizes)
    if metadata.get("architecture", name) != name:
        raise CheckpointError(
            f"the file's metadata says architecture {metadata['architecture']!r}, its weights are {name}'s"
        )
    for key, value in overrides.items():
        if key not in sizes_of(name):
            raise TypeError(f"{name} has no argument {key!r}; it has {', '.join(sizes_of(name))}")
        if key in sizes and sizes[key] != value:
            raise CheckpointError(f"{key}={value!r} was asked, the weights have {key}={sizes[key]!r}")
        sizes[key] = value
    for key, why in found.open.items():
        if key in sizes or why is None:
            continue
        if key not in metadata:
            raise CheckpointError(f"{name}: {key} is open: {why}")
        sizes[key] = _number(metadata[key])
    return sizes


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def embedded(scale: int = 2) -> SRModel:
    """The compact model that the package carries. Raises ValueError for a scale it does not carry."""
    folder = importlib.resources.files("sr_kernels") / "weights"
    scales = sorted(
        int(item.name.removeprefix("compact_x").removesuffix(".safetensors"))
        for item in (folder.iterdir() if folder.is_dir() else ())
        if item.name.startswith("compact_x") and item.name.endswith(".safetensors")
    )
    if scale not in scales:
        listed = ", ".join(map(str, scales)) or "none"
        raise ValueError(f"scale is {scale!r}; the package carries weights for: {listed}")
    with importlib.resources.as_file(folder / f"compact_x{scale}.safetensors") as path:
        return load(path)
