# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A super-resolution module made ready to run on tiles: what it takes, how far it sees, what it costs."""

from __future__ import annotations

import contextlib
import copy
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from sr_kernels.image.colour import BICUBIC_RADIUS, bicubic_enlarge, rgb_to_ycbcr, ycbcr_to_rgb

_PROBE = 32  # pixels a side: a multiple of what windowed networks ask for
_HALF = (torch.float16, torch.bfloat16)
_LIVE = 3  # layers' worth of activations that are held at once, about
_DESCRIPTION = ("scale", "in_channels", "out_channels", "input_multiple")
_UNKNOWN_BYTES = 4096  # a pixel, where no op can be watched


# Modules that are being used in evaluation mode but are in training mode otherwise, and by how many.
_evaluated: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
_evaluated_lock = threading.Lock()


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Several threads may use one module, or modules with parts in common: the last one to leave restores."""
    with _evaluated_lock:
        used = [m for m in module.modules() if m.training or m in _evaluated]
        for m in used:
            _evaluated[m] = _evaluated.get(m, 0) + 1
            m.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        with _evaluated_lock:
            for m in used:
                _evaluated[m] -= 1
                if not _evaluated[m]:
                    del _evaluated[m]
                    m.training = True


class _WidestOp(TorchDispatchMode):
    """The most bytes that an op of this thread reads and writes, parameters aside."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        held = {id(t): t for t in tree_iter((args, kwargs, output)) if isinstance(t, Tensor)}
        size = sum(t.numel() * t.element_size() for t in held.values() if not isinstance(t, nn.Parameter))
        self.bytes = max(self.bytes, size)
        return output


class Network:
    """Calls a module with pictures of `channels` channels, whatever its own number is.

    - RGB through a module of one channel: luma (BT.601, studio range) through it, chroma bicubic; a gray
      picture counts as R = G = B, unless `plain` says that the module takes it as it is;
    - gray through a module of three: replicated, the outputs averaged.

    The module is never changed: another dtype or device works on a copy. Raises ValueError where the module
    does not take or give pictures.
    """

    scale: int
    in_channels: int
    out_channels: int
    multiple: int  # the window's sides are multiples of it
    radius: int | None  # input pixels that an output pixel depends on, where the module tells

    def __init__(
        self, module: nn.Module, channels: int, plain: bool, device: torch.device, dtype: torch.dtype | None
    ) -> None:
        parameter = next(module.parameters(), torch.empty(0, device=device))
        self.dtype = dtype or parameter.dtype
        self.device = device
        if self.dtype != parameter.dtype or not _same_device(parameter.device, device):
            module = copy.deepcopy(module).to(device, self.dtype)
        self.module = module
        self.channels, self.plain = channels, plain
        self._exact: nn.Module | None = None
        with self.evaluating():
            self._describe()
        if self.in_channels != self.out_channels or self.in_channels not in {channels, 1, 3}:
            raise ValueError(
                f"model takes {self.in_channels} channels and gives {self.out_channels}, "
                f"the image has {channels}: a model from 1 to 1 or from 3 to 3 is needed"
            )
        if channels not in {1, 3} and channels != self.in_channels:
            raise ValueError(f"image has {channels} channels, the model takes {self.in_channels}")
        if self.radius is not None and self._uses_luma:
            self.radius = max(self.radius, BICUBIC_RADIUS)

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Evaluation mode without gradients; every submodule's own mode is restored."""
        return _evaluating(self.module)

    def __call__(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) float -> (n, channels, h*scale, w*scale) float32, or float64 from float64.

        In half precision a picture whose output overflows is done again in float32. Raises
        FloatingPointError where a finite picture's output is not finite in float32 either.
        """
        y = self._adapted(self.module, x)
        if bool(torch.isfinite(y).all()):
            return y
        for i in range(len(x)):
            if torch.isfinite(y[i]).all() or not torch.isfinite(x[i]).all():
                continue
            if self.dtype in _HALF:
                if self._exact is None:
                    self._exact = copy.deepcopy(self.module).float()
                y[i : i + 1] = self._adapted(self._exact, x[i : i + 1])
            if not torch.isfinite(y[i]).all():
                raise FloatingPointError(
                    "the model gives NaN or infinity for a finite picture: its weights are damaged, "
                    "or it is no trained super-resolution model"
                )
        return y

    def bytes_per_pixel(self) -> float:
        """Working memory an input pixel, estimated from the widest op of a small run."""
        with _WidestOp() as widest:
            self._probe(self.in_channels)
        return _LIVE * widest.bytes / _PROBE**2 or _UNKNOWN_BYTES

    @property
    def _uses_luma(self) -> bool:
        return self.in_channels == 1 and (self.channels == 3 or not self.plain)

    def _adapted(self, module: nn.Module, x: Tensor) -> Tensor:
        if self._uses_luma:
            ycbcr = rgb_to_ycbcr(x.expand(-1, 3, -1, -1))
            chroma = bicubic_enlarge(ycbcr[:, 1:], self.scale)
            rgb = ycbcr_to_rgb(torch.cat([self._run(module, ycbcr[:, :1]), chroma.float()], dim=1))
            return rgb if self.channels == 3 else rgb[:, :1]
        if self.channels == 1 and self.in_channels == 3:
            return self._run(module, x.expand(-1, 3, -1, -1)).mean(dim=1, keepdim=True)
        return self._run(module, x)

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        parameter = next(module.parameters(), None)
        y = module(x if parameter is None else x.to(parameter.dtype))
        wanted = (x.shape[0], self.out_channels, x.shape[2] * self.scale, x.shape[3] * self.scale)
        if not isinstance(y, Tensor) or y.shape != wanted:
            found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"model gave {found} for an input of {tuple(x.shape)}; {wanted} was expected")
        return y if y.dtype == torch.float64 else y.float()

    def _describe(self) -> None:
        """Scale, channels and radius: the module's word where it has receptive_radius(), else a probe."""
        module: Any = self.module
        radius = getattr(module, "receptive_radius", None)
        if callable(radius):
            lacking = [name for name in _DESCRIPTION if not hasattr(module, name)]
            if lacking:
                raise ValueError(
                    f"model, a {type(module).__name__}, has receptive_radius() but not {', '.join(lacking)}: "
                    f"give it all of {', '.join(_DESCRIPTION)}, or no receptive_radius"
                )
            self.scale, self.in_channels = int(module.scale), int(module.in_channels)
            self.out_channels, self.multiple = int(module.out_channels), int(module.input_multiple)
            self.radius = int(radius())
            return
        self.multiple, self.radius = 1, None
        failure = ""
        for channels in dict.fromkeys((self.channels, 3, 1)):
            try:
                shape = self._probe(channels)
            except (RuntimeError, ValueError, TypeError) as error:
                failure = failure or str(error).splitlines()[0]
                continue
            scale, rest = divmod(shape[2], _PROBE) if len(shape) == 4 else (0, 1)
            if rest or scale < 1 or shape[3] != shape[2]:
                raise ValueError(
                    f"model gave {shape} for an input of {(1, channels, _PROBE, _PROBE)}: "
                    "no enlargement by an integer"
                )
            self.scale, self.in_channels, self.out_channels = scale, channels, shape[1]
            return
        raise ValueError(f"model takes neither {self.channels} nor 3 nor 1 channels: {failure}")

    def _probe(self, channels: int) -> tuple[int, ...]:
        x = torch.full((1, channels, _PROBE, _PROBE), 0.5, dtype=self.dtype, device=self.device)
        y = self.module(x)
        if not isinstance(y, Tensor):
            raise ValueError(f"model gave {type(y).__name__}; a tensor was expected")
        return tuple(y.shape)


def _same_device(a: torch.device, b: torch.device) -> bool:
    return a.type == b.type and (a.index or 0) == (b.index or 0)
