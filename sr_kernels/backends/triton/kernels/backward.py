# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The gradient of bias and activation in one pass over the pixels: eager takes two to six."""

import triton
import triton.language as tl

from sr_kernels.backends.triton.kernels.epilogue import hyperbolic_tangent


@triton.jit
def _derivative(z, ACT: tl.constexpr, FROM_OUTPUT: tl.constexpr, slope, slopes):
    """act'(z), z being act's result where FROM_OUTPUT says so."""
    if ACT == "relu":
        d = tl.where(z <= 0, 0.0, 1.0)
    elif ACT == "leaky_relu":
        d = tl.where(z > 0, 1.0, slope)
    elif ACT == "prelu":
        d = tl.where(z > 0, 1.0, slopes)
    elif ACT == "tanh":
        t = z if FROM_OUTPUT else hyperbolic_tangent(z)
        d = 1 - t * t
    elif ACT == "sigmoid":
        s = z if FROM_OUTPUT else 1 / (1 + tl.exp(-z))
        d = s * (1 - s)
    elif ACT == "silu":
        s = 1 / (1 + tl.exp(-z))
        d = s * (1 + z * (1 - s))
    else:
        d = 0.5 * (1 + tl.erf(z * 0.7071067811865476)) + z * tl.exp(-0.5 * z * z) * 0.3989422804014327
    return d


@triton.jit(do_not_specialize=["rows", "slope", "scale"])
def activation_backward_kernel(
    grad,  # (rows, C), pixels by channels
    saved,
    slopes,  # (C,) float32, of PReLU
    dz,
    bias_parts,  # (programs, C) float32: each program's share of the sum of dz
    slope_parts,  # the same of the slopes' gradient
    rows,
    slope,
    scale,
    C: tl.constexpr,
    ACT: tl.constexpr,
    FROM_OUTPUT: tl.constexpr,
    STEPS: tl.constexpr,  # of BR rows, in a program
    BR: tl.constexpr,
    BC: tl.constexpr,  # C rounded up to a power of two
):
    """dz = scale * grad * act', what is read and written once; sums in float32."""
    program = tl.program_id(0)
    c = tl.arange(0, BC)
    own = c < C
    s = 0.0
    if ACT == "prelu":
        s = tl.load(slopes + c, mask=own, other=0.0)[None, :]
    bias_sum = tl.zeros((BC,), tl.float32)
    slope_sum = tl.zeros((BC,), tl.float32)
    first = program.to(tl.int64) * (STEPS * BR)
    for i in range(STEPS):
        row = first + i * BR + tl.arange(0, BR)
        mask = (row < rows)[:, None] & own[None, :]
        at = row[:, None] * C + c[None, :]
        g = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32) * scale
        z = tl.load(saved + at, mask=mask, other=0.0).to(tl.float32)
        d = g * _derivative(z, ACT, FROM_OUTPUT, slope, s)
        tl.store(dz + at, d.to(dz.dtype.element_ty), mask=mask)
        bias_sum += tl.sum(d, 0)
        if ACT == "prelu":
            slope_sum += tl.sum(tl.where(z > 0, 0.0, g * z), 0)
    tl.store(bias_parts + program * C + c, bias_sum, mask=own)
    if ACT == "prelu":
        tl.store(slope_parts + program * C + c, slope_sum, mask=own)
