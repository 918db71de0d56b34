# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Implementations of the ops, and the choice among them."""

from sr_kernels.backends.base import Backend, BackendError, ConvArgs, DenseBlockArgs
from sr_kernels.backends.registry import (
    available_backends,
    record,
    record_kernels,
    register,
    select,
    use_backend,
)

__all__ = [
    "Backend",
    "BackendError",
    "ConvArgs",
    "DenseBlockArgs",
    "available_backends",
    "record",
    "record_kernels",
    "register",
    "select",
    "use_backend",
]
