# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Measurements: cases are data, peers run them, one runner times them together; see docs/performance.md."""
