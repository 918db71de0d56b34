# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Fast convolutional super-resolution for PyTorch. Importing it is light: torch loads at first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sr_kernels._version import __version__
from sr_kernels.config import set_precision

if TYPE_CHECKING:
    from sr_kernels import models, nn, ops
    from sr_kernels.backends.registry import available_backends, record_kernels, use_backend
    from sr_kernels.models import create, load
    from sr_kernels.optimizer import empty_cache, optimize
    from sr_kernels.pipeline import upscale

# name -> module, or module:attribute
_LAZY = {
    "ops": "sr_kernels.ops",
    "nn": "sr_kernels.nn",
    "models": "sr_kernels.models",
    "create": "sr_kernels.models:create",
    "load": "sr_kernels.models:load",
    "upscale": "sr_kernels.pipeline:upscale",
    "optimize": "sr_kernels.optimizer:optimize",
    "empty_cache": "sr_kernels.optimizer:empty_cache",
    "available_backends": "sr_kernels.backends.registry:available_backends",
    "record_kernels": "sr_kernels.backends.registry:record_kernels",
    "use_backend": "sr_kernels.backends.registry:use_backend",
}

__all__ = [
    "__version__",
    "available_backends",
    "create",
    "empty_cache",
    "load",
    "models",
    "nn",
    "ops",
    "optimize",
    "record_kernels",
    "set_precision",
    "upscale",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    value = importlib.import_module(module)
    value = getattr(value, attribute) if attribute else value
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
