# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Times this package beside what a user could run instead, and checks what everybody computes."""
