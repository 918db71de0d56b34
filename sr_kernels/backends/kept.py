# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What is made from a tensor of weights once and kept while the tensor is unchanged."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(slots=True)
class _Entry:
    """What was made from a tensor."""

    reference: weakref.ref[Tensor]
    stamp: tuple[Any, ...]  # the tensor's address, version and layout
    storage: Tensor
    value: Any
    ready: torch.cuda.Event | None = None  # on a GPU, until it is known to have passed
    captured: list[Any] = field(default_factory=list)  # what CUDA graphs read, for the tensor's life


_cache: dict[Hashable, _Entry] = {}


def _forget(cache: dict[Hashable, Any], slot: Hashable, _: object) -> None:
    """Bound to the cache itself: at the interpreter's end the module has lost its names."""
    cache.pop(slot, None)


def stamp_of(tensor: Tensor) -> tuple[Any, ...]:
    """Differs where a tensor was written to, moved, or is of another layout or dtype. An inference tensor
    counts no versions."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.shape, tensor.stride(), tensor.dtype


def cached(tensor: Tensor, key: Hashable, make: Callable[[], T]) -> T:
    """make(), kept under key for as long as tensor lives with the same storage and version.

    The entry holds the storage: `.data = ...` leaves the version alone, and a freed address may be given out
    again, so that an address alone would prove nothing. An inference tensor counts no versions, so nothing
    made from one is kept. Of a tensor that has changed since, as in training, a second use is waited for:
    what is made once can take the memory of the layer before, while it is in the caches.

    On a GPU other streams wait for what was made on one. What a CUDA graph is captured with stays for the
    tensor's life, since the graph reads it at every replay; what is made during a capture is not kept.
    """
    if tensor.is_inference():
        return make()
    slot = (id(tensor), key)
    entry = _cache.get(slot)
    stamp = stamp_of(tensor)
    same = entry is not None and entry.reference() is tensor
    if entry is not None and same and entry.stamp == stamp and entry.value is not _USED_ONCE:
        if tensor.is_cuda:
            _await(entry)
        value: T = entry.value
        return value
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        return make()
    captured = entry.captured if entry is not None and same else []
    changed = entry is not None and same and entry.stamp != stamp
    del entry  # and with it the memory of what was made before
    reference = weakref.ref(tensor, functools.partial(_forget, _cache, slot))
    if changed:
        _cache[slot] = _Entry(reference, stamp, tensor.detach(), _USED_ONCE, None, captured)
        return make()
    value = make()
    ready = None
    if tensor.is_cuda:
        ready = torch.cuda.Event()
        ready.record(torch.cuda.current_stream(tensor.device))
    _cache[slot] = _Entry(reference, stamp, tensor.detach(), value, ready, captured)
    return value


def _await(entry: _Entry) -> None:
    """Lets the current stream read an entry's value."""
    capturing = torch.cuda.is_current_stream_capturing()
    if capturing and not any(entry.value is value for value in entry.captured):
        entry.captured.append(entry.value)
    if entry.ready is not None:
        if capturing:
            entry.ready = None  # torch.cuda.graph has waited for the whole device
        elif entry.ready.query():
            entry.ready = None
        else:
            torch.cuda.current_stream(entry.storage.device).wait_event(entry.ready)


_USED_ONCE = object()
_zeros: dict[tuple[int, torch.device], Tensor] = {}


def zeros(count: int, device: torch.device) -> Tensor:
    """float32 zeros (count,), kept as `cached` keeps."""
    found = _zeros.get((count, device))
    if found is None:
        with torch.inference_mode(False):
            found = torch.zeros(count, device=device)
        if device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
            _zeros[count, device] = found
    return found
