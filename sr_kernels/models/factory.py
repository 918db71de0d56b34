# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Models by name, by checkpoint, or with the weights that the package carries."""

from __future__ import annotations

import contextlib
import importlib.resources
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_kernels.models.base import SRModel
from sr_kernels.models.checkpoint import check_memory, errors_naming, read_unnamed, unwrap, validate
from sr_kernels.models.detect import Detected, detect
from sr_kernels.models.edsr import EDSR
from sr_kernels.models.layouts import CheckpointError, State
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
    FSRCNN, activation of an SRVGG without PReLU, res_scale, rgb_mean and image_range of EDSR), as values or
    as text ("0.1", "0.45,0.44,0.40"); any other must agree with the weights. A safetensors file's metadata
    tells them too, by the same names, where no override does. Raises FileNotFoundError, CheckpointError (a
    ValueError; it names the file), or TypeError for an unknown override.
    """
    if not isinstance(source, (str, os.PathLike, Mapping)):
        raise TypeError(f"source is {type(source).__name__}; give a path or a state dict")
    with errors_naming(source):
        if isinstance(source, Mapping):
            return _build(unwrap(source), {}, overrides)
        return _build(*read_unnamed(Path(source)), overrides)


def _build(state: State, metadata: Mapping[str, str], overrides: Mapping[str, Any]) -> SRModel:
    check_memory(state)  # before anything looks at a value
    found = detect({key: tensor.detach() for key, tensor in state.items()})
    sizes = _resolve(found, metadata, overrides)
    kind = MODELS[found.architecture]
    try:
        with torch.device("meta"):
            expected: dict[str, Tensor] = kind(**sizes).state_dict()
    except (TypeError, ValueError) as error:  # an override or metadata that is no value of the argument
        raise CheckpointError(str(error)) from error
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
    for key, given in overrides.items():
        if key not in sizes_of(name):
            raise TypeError(f"{name} has no argument {key!r}; it has {', '.join(sizes_of(name))}")
        value = _parsed(given)
        if key in sizes and sizes[key] != value:
            raise CheckpointError(f"{key}={value!r} was asked, the weights have {key}={sizes[key]!r}")
        sizes[key] = value
    for key, why in found.open.items():
        if key in sizes:
            continue
        if key in metadata:
            sizes[key] = _parsed(metadata[key])
        elif why is not None:
            raise CheckpointError(f"{name}: {key} is open: {why}")
    return sizes


def _parsed(value: Any) -> Any:
    """A number, a tuple of numbers, or the text as it is; what is no text already is one of them."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, str):
        return value
    if "," in value:
        return tuple(_parsed(part) for part in value.strip("()[] ").rstrip(",").split(","))
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(value)
    return value.strip()


def embedded_files() -> dict[int, Path]:
    """The files of weights that the package carries, by scale, ascending."""
    folder = Path(str(importlib.resources.files("sr_kernels"))) / "weights"
    files = {int(path.stem.removeprefix("compact_x")): path for path in folder.glob("compact_x*.safetensors")}
    return dict(sorted(files.items()))


def embedded(scale: int = 2) -> SRModel:
    """The compact model that the package carries. Raises ValueError for a scale it does not carry."""
    files = embedded_files()
    if scale not in files:
        listed = ", ".join(map(str, files)) or "none"
        raise ValueError(f"scale is {scale!r}; the package carries weights for: {listed}")
    return load(files[scale])
