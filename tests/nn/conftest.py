# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs without CUDA."""

from tests.nn.fake_cuda import fake_cuda as fake_cuda
