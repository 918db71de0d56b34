# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""python -m sr_kernels: the command line."""

import sys

from sr_kernels.cli import main

if __name__ == "__main__":
    sys.exit(main())
