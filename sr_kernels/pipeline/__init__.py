# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The one call that enlarges a picture, tile by tile, whatever kind of object it is."""

from sr_kernels.pipeline.enlarge import check_scale, embedded_names, resolve_model, upscale

__all__ = ["check_scale", "embedded_names", "resolve_model", "upscale"]
