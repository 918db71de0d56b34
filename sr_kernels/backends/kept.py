# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What is made from a tensor of weights once and kept while the tensor is unchanged."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# (tensor, its address, version and layout, its storage, what was made)
_cache: dict[Hashable, tuple[weakref.ref[Tensor], tuple[Any, ...], Tensor, Any]] = {}


def _forget(cache: dict[Hashable, Any], slot: Hashable, _: object) -> None:
    """Bound to the cache itself: at the interpreter's end the module has lost its names."""
    cache.pop(slot, None)


def cached(tensor: Tensor, key: Hashable, make: Callable[[], T]) -> T:
    """make(), kept under key for as long as tensor lives with the same storage and version.

    The entry holds the storage: `.data = ...` leaves the version alone, and a freed address may be given out
    again, so that an address alone would prove nothing. An inference tensor counts no versions, so nothing
    made from one is kept. Of a tensor that has changed since, as in training, a second use is waited for:
    what is made once can take the memory of the layer before, while it is in the caches. On a GPU what is
    kept is ready for every stream; what is made while a graph is captured holds nothing yet, and is not kept.
    """
    if tensor.is_inference():
        return make()
    slot = (id(tensor), key)
    entry = _cache.get(slot)
    stamp = tensor.data_ptr(), tensor._version, tensor.shape, tensor.stride(), tensor.dtype
    same = entry is not None and entry[0]() is tensor
    if entry is not None and same and entry[1] == stamp and entry[3] is not _USED_ONCE:
        value: T = entry[3]
        return value
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        return make()
    reference = weakref.ref(tensor, functools.partial(_forget, _cache, slot))
    if entry is not None and same and entry[1] != stamp:
        _cache[slot] = (reference, stamp, tensor.detach(), _USED_ONCE)
        del entry
        return make()
    value = make()
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()
    _cache[slot] = (reference, stamp, tensor.detach(), value)
    return value


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
