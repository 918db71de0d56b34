# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures: reading, writing, colour, tiling, resizing, fidelity. Imports no other part of the package."""

from sr_kernels.image.io import MAX_PIXELS, read, write
from sr_kernels.image.picture import Picture, PictureError

__all__ = ["MAX_PIXELS", "Picture", "PictureError", "read", "write"]
