# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Training: photographs, losses, a resumable trainer and the held-out evaluation."""
