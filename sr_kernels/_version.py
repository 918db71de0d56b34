# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The version, once: pyproject.toml reads it from here."""

__version__ = "0.1.0"
