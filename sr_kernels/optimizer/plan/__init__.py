# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""How a graph runs on a machine: steps, buffers and native programs for inputs of many sizes; CUDA graphs."""
