# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The op family in Triton, for any GPU that Triton compiles for."""

from sr_kernels.backends.triton.backend import TritonBackend

__all__ = ["TritonBackend"]
