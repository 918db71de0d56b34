# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A launch that is the same but for its tensors: Triton looks at the arguments of the first one alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

INTERPRETED = triton.knobs.runtime.interpret


_ready = threading.local()


def device_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device: makes it x's."""
    if not x.is_cuda:
        return contextlib.nullcontext()
    index = x.device.index
    if index not in _ready.__dict__.setdefault("devices", set()):
        # Descriptors need the context, which the runtime binds to a thread at its first call.
        torch.cuda.mem_get_info(index)
        _ready.devices.add(index)
    return contextlib.nullcontext() if index == torch.cuda.current_device() else torch.cuda.device(index)


class Launch:
    """A kernel with its grid, its numbers and the compiler's options; threads may share it."""

    def __init__(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        values: Mapping[str, Any],
        tensors: Sequence[str],
        **options: int,
    ) -> None:
        """values: the arguments by name, constants among them, all but `tensors`, which each call gives."""
        self.kernel, self.grid, self.options = kernel, (*grid, 1, 1)[:3], options
        names = kernel.arg_names
        self.template = [values.get(name) for name in names]
        self.places = [names.index(name) for name in tensors]
        self.compiled: dict[Any, Any] = {}

    def __call__(self, tensors: Sequence[Any]) -> None:
        """Launches on the current device and stream; tensors or descriptors, in the order of their names, the
        last one a tensor."""
        args = self.template.copy()
        key: Any = tensors[-1].device
        for place, tensor in zip(self.places, tensors, strict=True):
            args[place] = tensor
            # Triton compiles apart what is less aligned; descriptors are aligned always
            if type(tensor) is not TensorDescriptor and tensor.data_ptr() % 16:
                key = (key, place)
        compiled = self.compiled.get(key)
        if compiled is None:
            made = self.kernel[self.grid](*args, **self.options)
            if made is not None:  # not interpreted
                self.compiled[key] = made
        else:
            compiled[self.grid](*args)
