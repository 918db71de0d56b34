# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""ITU-R BT.601 in studio range, as MATLAB's rgb2ycbcr: rows of Y, Cb and Cr for R, G and B in [0, 1]."""

TO_YCBCR = (
    (65.481, 128.553, 24.966),
    (-37.797, -74.203, 112.0),
    (112.0, -93.786, -18.214),
)
OFFSET = (16.0, 128.0, 128.0)
