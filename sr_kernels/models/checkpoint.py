# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Safe reading of checkpoints: tensors only, never code, checked before any model is built."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_kernels.models.layouts import CheckpointError, State

MAX_FILE_BYTES = 4 << 30
MAX_HEADER_BYTES = 16 << 20  # safetensors' JSON header; a thousand tensors need about 0.1 MiB
PICKLED = (".pth", ".pt", ".ckpt")
SUFFIXES = (".safetensors", *PICKLED)

_WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
_WHOLE_PREFIX = "module."  # torch's DataParallel, AveragedModel
_COUNTERS = ("n_averaged",)  # beside torch's AveragedModel
_PART_PREFIXES = ("netG.", "generator.")  # beside them lie a discriminator's tensors
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@contextlib.contextmanager
def errors_naming(source: object) -> Iterator[None]:
    """Puts the path, where `source` is one, before the message of every CheckpointError."""
    try:
        yield
    except CheckpointError as error:
        if not isinstance(source, (str, os.PathLike)):
            raise
        raise CheckpointError(f"{os.fspath(source)}: {error}") from error


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[State, dict[str, str]]:
    """The unwrapped state dict of a .safetensors, .pth, .pt or .ckpt file, and safetensors' metadata.

    Pickled files go through torch.load(weights_only=True) only; TorchScript archives are refused. Raises
    FileNotFoundError, OSError, or CheckpointError (a ValueError) that names the file and says what was found.
    """
    with errors_naming(path):
        return read_unnamed(Path(path))


def read_unnamed(path: Path) -> tuple[State, dict[str, str]]:
    """read_checkpoint, whose CheckpointErrors do not name the file yet."""
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"checkpoint {str(path)!r} {what}; give a file ({', '.join(SUFFIXES)})")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CheckpointError(f"the name ends in {suffix!r}; readable are {', '.join(SUFFIXES)}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"the file has {size} bytes; the limit is {MAX_FILE_BYTES}")
    if suffix == ".safetensors":
        raw, metadata = _read_safetensors(path, size)
        return unwrap(raw), metadata
    return unwrap(_read_pickled(path)), {}


def _read_safetensors(path: Path, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as raw:
        start = raw.read(8)
    header = int.from_bytes(start, "little")
    if len(start) < 8 or header > min(size - 8, MAX_HEADER_BYTES):
        raise CheckpointError(
            f"this is not a safetensors file: it has {size} bytes, its header would have {header} "
            f"(limit {MAX_HEADER_BYTES})"
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            keys = file.keys()
            return {key: file.get_tensor(key) for key in keys}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"this is not a readable safetensors file: {error}") from error


def _read_pickled(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except zipfile.BadZipFile as error:
            raise CheckpointError(f"this is a damaged archive: {error}") from error
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > MAX_FILE_BYTES:
            raise CheckpointError(f"the archive unpacks to {unpacked} bytes; the limit is {MAX_FILE_BYTES}")
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise CheckpointError(
                "this is a TorchScript program, not weights; it was not run. Save its state_dict() "
                "with torch.save or safetensors where you trust it"
            )
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except MemoryError:
        raise
    except Exception as error:  # a malformed pickle can raise anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # torch seeks before a short file
            raise
        raise CheckpointError(_explain(path, error)) from error


def _explain(path: Path, error: Exception) -> str:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and (match := re.search(r"GLOBAL (\S+)", text)):
        return (
            f"the file holds more than weights: it asks for {match[1]}; it was not executed (only plain "
            "tensors are read). Save its state_dict() with torch.save or safetensors where you trust it"
        )
    with path.open("rb") as file:
        start = file.read(24)
    first = text.strip().partition("\n")[0]
    return f"this is not a checkpoint: it begins with {start!r} ({type(error).__name__}: {first})"


def unwrap(value: Any) -> State:
    """The state dict inside a checkpoint's wrappers, without the prefixes of training frameworks."""
    for _ in range(8):
        if not isinstance(value, Mapping):
            raise CheckpointError(f"a checkpoint holds named tensors, this is {_kind(value)}")
        named = (value.get(key) for key in _WRAPPERS)
        inner = next((item for item in named if isinstance(item, Mapping) and item), None)
        if inner is None:
            nested = [item for item in value.values() if isinstance(item, Mapping) and item]
            tensors = any(isinstance(item, Tensor) for item in value.values())
            inner = nested[0] if len(nested) == 1 and not tensors else None
        if inner is None:
            break
        value = inner
    state = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, Tensor)}
    if not state:
        raise CheckpointError(f"the checkpoint holds no tensors; its entries are {_entries(value)}")
    return _strip(state)


def _strip(state: State) -> State:
    whole = {key: item for key, item in state.items() if key not in _COUNTERS}
    if whole and all(key.startswith(_WHOLE_PREFIX) for key in whole):
        state = whole
    for _ in range(8):
        part = next((p for p in _PART_PREFIXES if any(key.startswith(p) for key in state)), None)
        if part is None and all(key.startswith(_WHOLE_PREFIX) for key in state):
            part = _WHOLE_PREFIX
        if part is None:
            break
        state = {key.removeprefix(part): item for key, item in state.items() if key.startswith(part)}
    return state


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _entries(value: Mapping[Any, Any]) -> str:
    return ", ".join(f"{key!r}: {_kind(item)}" for key, item in list(value.items())[:5]) or "none"


def validate(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], architecture: str) -> None:
    """Raises CheckpointError unless `state` has exactly the keys and shapes of `expected`, and every tensor
    is dense, floating, inside its storage, memory of its own, and finite."""
    check_memory(state)
    missing = [key for key in expected if key not in state]
    if missing:
        raise CheckpointError(f"the checkpoint lacks {_listed(missing)} of {architecture}")
    extra = [key for key in state if key not in expected]
    if extra:
        raise CheckpointError(f"the checkpoint has {_listed(extra)}, which {architecture} has not")
    for key, tensor in state.items():
        if reason := _fault(tensor, expected[key]):
            raise CheckpointError(f"{key!r} of the checkpoint {reason}")


def _listed(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(repr(key) for key in keys[:5]) + more


def _fault(tensor: Tensor, expected: Tensor) -> str | None:
    if tensor.dtype not in _DTYPES:
        return f"has dtype {tensor.dtype}; weights are floating"
    if tensor.shape != expected.shape:
        return f"has shape {tuple(tensor.shape)}; {tuple(expected.shape)} was expected"
    if not torch.isfinite(tensor).all():
        return "holds NaN or infinite values: the weights are damaged"
    return None


def check_memory(state: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError unless every tensor is dense, inside its storage, and none repeats memory: what
    a state dict makes anyone allocate is then no more than what was read. Touches no value."""
    held: dict[int, int] = {}
    total = 0
    for key, tensor in state.items():
        if reason := _memory_fault(tensor):
            raise CheckpointError(f"{key!r} of the checkpoint {reason}")
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        total += tensor.numel() * tensor.element_size()
    if total > sum(held.values()):
        raise CheckpointError(
            f"the checkpoint's tensors have {total} bytes on {sum(held.values())} bytes of memory: "
            "several are the same memory; save them apart"
        )


def _memory_fault(tensor: Tensor) -> str | None:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        return f"is not a dense tensor in memory (layout {tensor.layout}, device {tensor.device})"
    if tensor.numel() == 0:
        return None
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    held = tensor.untyped_storage().nbytes()
    if (tensor.storage_offset() + 1 + last) * tensor.element_size() > held:
        return "reaches beyond its storage: the file is damaged"
    if last + 1 < tensor.numel():
        return f"repeats its memory: shape {tuple(tensor.shape)} with strides {tensor.stride()}"
    return None


def blend(first: State, second: State, weight: float) -> State:
    """weight * first + (1 - weight) * second, key by key: Real-ESRGAN's denoising strength blends two files.

    Raises CheckpointError where keys or shapes differ, ValueError for a weight outside [0, 1].
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight!r}; give a number in [0, 1]")
    validate(second, first, "the first checkpoint")
    return {key: weight * tensor + (1 - weight) * second[key] for key, tensor in first.items()}
