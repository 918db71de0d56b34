# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a module computes, written down: capture, the graphs and their vocabulary, what must not change."""
