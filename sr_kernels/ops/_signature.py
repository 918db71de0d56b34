# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What tells one call of an op from another, and whether anybody but its kernel wants to see it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

_Key, _KeySet = torch._C.DispatchKey, torch._C.DispatchKeySet


def _plain(backend: str) -> set[int]:
    """The dispatch keys of a backend's strided tensors that are what they seem: not fake, batched, negated,
    wrapped."""
    inference = _KeySet(getattr(_Key, backend)) | _KeySet(getattr(_Key, f"Autocast{backend}"))
    autograd = _KeySet(getattr(_Key, f"Autograd{backend}"))
    keys = inference, inference | autograd | _KeySet(_Key.ADInplaceOrView)
    return {key.raw_repr() for key in keys}


_PLAIN, _PLAIN_CUDA = _plain("CPU"), _plain("CUDA")


class Signature:
    """Tells calls of one op apart by everything about their arguments but what the tensors hold."""

    def __init__(self, tensors: Sequence[bool]) -> None:
        """tensors: for each argument of the op, whether it is a tensor, a list of such, or None."""
        self._tensors = _items([i for i, is_tensor in enumerate(tensors) if is_tensor])
        self._values = _items([i for i, is_tensor in enumerate(tensors) if not is_tensor])

    def of(self, args: Sequence[Any]) -> Hashable | None:
        """Equal for calls that differ in nothing else; None where a tensor is not a plain one."""
        found = [_tensor(arg) for arg in self._tensors(args)]
        return None if False in found else (self._values(args), *found)


def _items(positions: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """The items of a sequence at these positions, as a tuple."""
    if len(positions) == 1:
        return lambda args: (args[positions[0]],)
    return itemgetter(*positions)


def _tensor(x: Any) -> Hashable:
    """Everything about a tensor or a list of tensors but what they hold; False where that does not tell."""
    kind = type(x)
    if x is None:
        return None
    if kind is Tensor or kind is Parameter:
        keys = torch._C._dispatch_keys(x).raw_repr()
        if keys in _PLAIN:
            return x.shape, x.stride(), x.dtype
        return keys in _PLAIN_CUDA and (x.shape, x.stride(), x.dtype, x.device)
    if kind is list or kind is tuple:
        found = tuple(map(_tensor, x))
        return False not in found and found
    return False


def is_plain(x: Tensor) -> bool:
    """Whether x is a strided tensor that is what it seems: not fake, batched, negated, wrapped, traced."""
    return _tensor(x) is not False


def is_watched() -> bool:
    """Whether the dispatcher has more to do than to call the kernel: a mode, a transform, tracing, profiling,
    autocast."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_torch_function_mode_enabled()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or torch._C._autograd._profiler_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
        or forward_ad._current_level >= 0
    )
