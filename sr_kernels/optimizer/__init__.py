# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""`sr_kernels.optimize`: any super-resolution module faster in one line, with proof."""

from sr_kernels.optimizer.main import optimize as optimize
from sr_kernels.optimizer.plan.arena import empty_cache as empty_cache
from sr_kernels.optimizer.report import Report as Report
