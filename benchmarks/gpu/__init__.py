# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers and networks on a GPU, beside eager PyTorch and torch.compile, and beside what the chip can do."""
