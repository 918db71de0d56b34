# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Super-resolution networks from sr_kernels.nn, and the reading of their public checkpoints."""

from sr_kernels.models.base import SRModel
from sr_kernels.models.checkpoint import blend, read_checkpoint
from sr_kernels.models.edsr import EDSR
from sr_kernels.models.factory import create, embedded, embedded_files, list_models, load, sizes_of
from sr_kernels.models.layouts import CheckpointError
from sr_kernels.models.rrdbnet import RRDBNet
from sr_kernels.models.small import ESPCN, FSRCNN
from sr_kernels.models.srvgg import SRVGGNetCompact

__all__ = [
    "EDSR",
    "ESPCN",
    "FSRCNN",
    "CheckpointError",
    "RRDBNet",
    "SRModel",
    "SRVGGNetCompact",
    "blend",
    "create",
    "embedded",
    "embedded_files",
    "list_models",
    "load",
    "read_checkpoint",
    "sizes_of",
]
