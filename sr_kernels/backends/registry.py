# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Which backend runs an op: an ordered list per device, the first without reasons against it wins.

An explicit choice (`backend=` on a call, `use_backend`, SR_KERNELS_BACKEND, in this order) raises with the
reasons; only "auto" falls back.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch

from sr_kernels import config
from sr_kernels.backends.base import Backend, BackendError

# Where each backend is found; None: `register` has put it in place.
_TARGETS: dict[str, str | None] = {
    "cpu": "sr_kernels.backends.cpu:CpuBackend",
    "cuda": "sr_kernels.backends.cuda:CudaBackend",
    "triton": "sr_kernels.backends.triton:TritonBackend",
    "torch": "sr_kernels.backends.torch:TorchBackend",
}
_ORDER: dict[str, tuple[str, ...]] = {"cpu": ("cpu", "torch"), "cuda": ("cuda", "triton", "torch")}
_ANYWHERE = ("torch",)

_lock = threading.RLock()
_backends: dict[str, Backend] = {}
_unavailable: dict[str, list[str]] = {}
_candidates: dict[str, list[Backend]] = {}
_prepared: dict[Hashable, Callable[[Any], Any]] = {}
_MOST_PREPARED = 1024
_warned = False
_chosen: contextvars.ContextVar[str] = contextvars.ContextVar("sr_kernels_backend", default="")
_recorders: list[list[str]] = []


class Absent(Backend):
    """Stands for a backend that could not be loaded, and says why."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason

    def unavailable(self) -> list[str]:
        return [self.reason]

    def reasons(self, op: str, args: object) -> list[str]:
        return [self.reason]


def _load(name: str) -> Backend:
    target = _TARGETS[name]
    if target is None:
        return Absent(name, "not in this build")
    module, _, attribute = target.partition(":")
    try:
        backend: Backend = getattr(importlib.import_module(module), attribute)()
    except ImportError as error:
        return Absent(name, f"cannot be loaded: {error}")
    except Exception as error:  # an extension of another version fails in whatever way it differs
        return Absent(
            name,
            f"does not fit this version of sr_kernels ({type(error).__name__}: {error}); rebuild the package",
        )
    return backend


def find(name: str) -> Backend:
    """The backend of that name, loaded on first use. Raises ValueError for an unknown name."""
    backend = _backends.get(name)
    if backend is None:
        if name not in _TARGETS:
            raise ValueError(f"backend must be auto, {', '.join(_TARGETS)}, got {name!r}")
        with _lock:
            backend = _backends.get(name) or _load(name)
            _backends[name] = backend
    return backend


def register(backend: Backend, devices: Sequence[str] = ()) -> None:
    """Puts a backend in place under its name, before all others on the devices where it has no place yet."""
    with _lock:
        _TARGETS.setdefault(backend.name, None)
        for device in devices:
            order = _ORDER.get(device, _ANYWHERE)
            if backend.name not in order:
                _ORDER[device] = (backend.name, *order)
        _backends[backend.name] = backend
        _unavailable.pop(backend.name, None)
        _candidates.clear()
        _prepared.clear()


def unavailable(name: str) -> list[str]:
    """Why that backend cannot run on this machine at all; asked once and kept."""
    reasons = _unavailable.get(name)
    if reasons is None:
        reasons = _unavailable[name] = find(name).unavailable()
    return reasons


def available_backends() -> dict[str, list[str]]:
    """Every backend's name with the reasons why it cannot run on this machine; no reasons: it can."""
    return {name: list(unavailable(name)) for name in _TARGETS}


def order(device: str) -> tuple[str, ...]:
    """The names asked for a device type, first to last."""
    return _ORDER.get(device, _ANYWHERE)


def _able(device: str) -> list[Backend]:
    with _lock:
        able = [find(name) for name in order(device) if not unavailable(name)]
        if device == "cpu" and unavailable("cpu"):
            _warn_of_missing_extension(unavailable("cpu"))
        _candidates[device] = able
    return able


def _warn_of_missing_extension(reasons: list[str]) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"the native CPU kernels are not used ({'; '.join(reasons)}); PyTorch's own run instead. To "
            "build them, install a C++ compiler and reinstall sr_kernels; SR_KERNELS_BACKEND=torch silences "
            "this.",
            RuntimeWarning,
            stacklevel=4,
        )


def chosen(requested: str = "") -> str:
    """The name in force: of the call, else of use_backend, else of SR_KERNELS_BACKEND; "auto" if of none."""
    name: str = requested or _chosen.get() or config.get("SR_KERNELS_BACKEND")
    return name


def select(op: str, device: str, args: object, requested: str = "") -> Backend:
    """The backend to run op with these arguments on a device type ("cpu", "cuda", ...).

    Raises BackendError with all reasons where the requested one cannot, ValueError for an unknown name.
    """
    name = chosen(requested)
    if name != "auto":
        return _explicit(name, op, device, args)
    refusals = []
    for backend in _candidates.get(device) or _able(device):
        reasons = backend.reasons(op, args) or backend.slower(op, args)
        if not reasons:
            return backend
        refusals.append(f"{backend.name}: {'; '.join(reasons)}")
    raise BackendError(f"{op}: no backend can run this on {device}. " + " | ".join(refusals))


def may_gain(device: str) -> bool:
    """Whether any backend that is able on a device type has kernels for gradients of convolutions."""
    candidates = _candidates.get(device) or _able(device)
    return any(type(backend).gains is not Backend.gains for backend in candidates)


def willing(op: str, device: str, args: object, requested: str = "") -> Backend | None:
    """The backend that runs op as a whole with these arguments and gains by it, among those in force; None if
    none does. Raises ValueError for an unknown name."""
    name = chosen(requested)
    if name == "auto":
        candidates = _candidates.get(device) or _able(device)
    else:
        candidates = [find(name)] if name in order(device) and not unavailable(name) else []
    for backend in candidates:
        offered = getattr(type(backend), op) is not getattr(Backend, op)
        if offered and not backend.reasons(op, args) and not backend.slower(op, args):
            return backend
    return None


def prepared(key: Hashable) -> Callable[[Any], Any] | None:
    """What `prepare` has kept under key."""
    return _prepared.get(key)


def prepare(key: Hashable, op: str, device: str, args: object, requested: str = "") -> Callable[[Any], Any]:
    """What runs op on arguments like these, kept under a key that tells all such calls from others."""
    precision = config.get_precision()
    run = select(op, device, args, requested).prepare(op, args)
    if len(_prepared) >= _MOST_PREPARED:
        _prepared.clear()
    # A capture may have kept a backend from its self-check; another thread may have changed the precision.
    capturing = device == "cuda" and torch.cuda.is_current_stream_capturing()
    if precision == config.get_precision() and not capturing:
        _prepared[key] = run
    return run


def _explicit(name: str, op: str, device: str, args: object) -> Backend:
    backend = find(name)
    reasons = list(unavailable(name))
    if not reasons and name not in order(device):
        reasons = [f"it does not run tensors on {device}"]
    reasons = reasons or backend.reasons(op, args)
    if reasons:
        raise BackendError(
            f"{op}: backend {name!r} was asked for and cannot run this: {'; '.join(reasons)}. "
            "Ask for 'auto' to let another backend run it."
        )
    return backend


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within it, in this thread, every op runs on that backend or raises BackendError; "auto" lets any run.

    Raises ValueError for an unknown name.
    """
    if name != "auto":
        find(name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


@contextlib.contextmanager
def record_kernels() -> Iterator[list[str]]:
    """Yields a list to which every op that runs meanwhile, in any thread, appends its kernel's name,
    such as "cpu/direct_4x6/avx512" or "torch/conv2d"."""
    names: list[str] = []
    _recorders.append(names)
    try:
        yield names
    finally:
        _recorders[:] = [other for other in _recorders if other is not names]


def record(name: str) -> None:
    """A backend's note of the kernel that it runs; costs nothing to speak of while nobody records."""
    if _recorders:
        for names in _recorders:
            names.append(name)


def record_all(names: Sequence[str]) -> None:
    """The same of several kernels, in their order."""
    for recorder in _recorders:
        recorder.extend(names)
