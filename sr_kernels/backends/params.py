# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""csrc/params.h's ConvParams from a convolution's arguments, for every extension module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sr_kernels.backends.base import ConvArgs
from sr_kernels.backends.phases import Phase
from sr_kernels.reference import ACTIVATIONS, BASE_MODES

# In the order of csrc/params.h.
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ACTIVATION = {name: index for index, name in enumerate(ACTIVATIONS)}


def size_of(a: ConvArgs, phase: Phase) -> tuple[int, int]:
    """Convolution pixels of a phase: rows, and columns of each."""
    oh, ow = a.conv_size()
    return -((phase.y - oh) // a.upsample), -((phase.x - ow) // a.upsample)


def conv_params(native: Any, a: ConvArgs, y: Tensor, phase: Phase, view: Callable[[Tensor], Any]) -> Any:
    """The parameters of one phase of a into y, but for kernel and addresses. native: the module whose struct
    it is; view: a tensor's strides as that module takes them."""
    n, _, h, w = a.input.shape
    p = native.ConvParams()
    p.x, p.y = view(a.input), view(y)
    p.set_input(n, h, w, a.weight.shape[1] * a.groups)
    weights = [0.0, 0.0]
    for i, (residual, weight) in enumerate(a.residuals):
        setattr(p, "res2" if i else "res1", view(residual))
        weights[i] = weight
    if a.base is not None:
        p.base = view(a.base)
        bh, bw = a.base.shape[2:]
        p.set_base(1 + BASE_MODES.index(a.base_mode), y.shape[2] // bh, bh, bw)
    act = _ACTIVATION[a.activation]
    p.set_epilogue(act, a.activation_after_add, a.negative_slope, a.scale, *weights, a.pixel_shuffle)
    p.set_window(phase.kh, phase.kw, *a.stride, *a.dilation, phase.top, phase.left)
    p.set_phase(a.upsample, phase.y, phase.x)
    p.set_output(*size_of(a, phase), a.weight.shape[0])
    p.dtype = DTYPES[a.input.dtype]
    return p
