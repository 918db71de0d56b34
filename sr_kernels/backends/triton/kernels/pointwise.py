# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The memory-bound ops in Triton: each byte is read once and written once, in the order of the result."""

import triton
import triton.language as tl

_RUN_TIME = ["length", "height", "xn", "xc", "xy", "xx", "yn", "yc", "yy"]


@triton.jit(do_not_specialize=_RUN_TIME)
def shuffle_kernel(
    x,
    y,
    length,  # elements of a run of the result: W*C of a row where channels come last, else W
    height,  # rows of the result
    xn,
    xc,
    xy,
    xx,
    yn,
    yc,
    yy,
    C: tl.constexpr,  # channels of the result
    R: tl.constexpr,
    INVERSE: tl.constexpr,
    LAST: tl.constexpr,  # the result's channels come last
    BLOCK: tl.constexpr,
):
    """y (N, C, H*R, W*R) = pixel_shuffle(x), or its inverse, y (N, C, H, W) with C a multiple of R*R."""
    blocks = tl.cdiv(length, BLOCK)  # of a row, on one axis: the others end at 65,535
    row = tl.program_id(0) // blocks
    i = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    mask = i < length
    if LAST:
        c = i % C
        column = i // C
        line = row % height
        n = row // height
        to = n.to(tl.int64) * yn + line.to(tl.int64) * yy
    else:
        c = row // height % C
        column = i
        line = row % height
        n = row // height // C
        to = n.to(tl.int64) * yn + c.to(tl.int64) * yc + line.to(tl.int64) * yy
    if INVERSE:
        source_c = c // (R * R)
        source_y = line * R + c // R % R
        source_x = column * R + c % R
    else:
        source_c = c * (R * R) + line % R * R + column % R
        source_y = line // R
        source_x = column // R
    at = n.to(tl.int64) * xn + source_y.to(tl.int64) * xy + source_c.to(tl.int64) * xc + source_x * xx
    tl.store(y + to + i, tl.load(x + at, mask=mask), mask=mask)


@triton.jit(do_not_specialize=["w", "h", "cn", "cy", "fn", "fy"])
def shuffle_pixels_kernel(
    coarse,
    fine,
    w,
    h,  # of the coarse side, whose rows are w*C*R*R elements long, those of the fine one w*R*C
    cn,
    cy,
    fn,
    fy,
    V: tl.constexpr,  # divides the strides, which come divided by it
    C: tl.constexpr,  # channels of the fine side; C and R are powers of two
    R: tl.constexpr,
    INVERSE: tl.constexpr,
    BX: tl.constexpr,
):
    """fine = pixel_shuffle(coarse), or coarse = pixel_unshuffle(fine), channels last: BX coarse pixels of a
    row and the R rows that they become, read and written in runs."""
    blocks = tl.cdiv(w, BX)
    row = tl.program_id(0) // blocks
    n = (row // h).to(tl.int64)
    line = (row % h).to(tl.int64)
    x0 = tl.program_id(0) % blocks * BX
    K: tl.constexpr = C * R * R
    RUN: tl.constexpr = BX * R * C
    i = tl.arange(0, BX * K)
    whole = coarse + (n * cn + line * cy) * V + x0 * K + i
    inside = x0 * K + i < w * K
    r = tl.arange(0, R)[:, None]
    j = tl.arange(0, RUN)[None, :]
    rows = fine + (n * fn + line * R * fy) * V + r * (fy * V) + x0 * (R * C) + j
    within = x0 * (R * C) + j < w * (R * C)
    if INVERSE:
        t = tl.load(rows, mask=within, other=0).reshape(R, BX, R, C)
        tl.store(whole, tl.permute(t, (1, 3, 0, 2)).reshape(BX * K), mask=inside)
    else:
        t = tl.load(whole, mask=inside, other=0).reshape(BX, C, R, R)
        tl.store(rows, tl.permute(t, (2, 0, 3, 1)).reshape(R, RUN), mask=within)


@triton.jit(do_not_specialize=["scale", "b1", "b2"])
def add_kernel(x, r1, r2, y, count, scale, b1, b2, TWO: tl.constexpr, BLOCK: tl.constexpr):
    """y = scale*x + b1*r1 + b2*r2 over `count` elements of one layout, in float32, rounded once."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    z = scale * tl.load(x + i, mask=mask).to(tl.float32) + b1 * tl.load(r1 + i, mask=mask).to(tl.float32)
    if TWO:
        z += b2 * tl.load(r2 + i, mask=mask).to(tl.float32)
    tl.store(y + i, z.to(y.dtype.element_ty), mask=mask)


@triton.jit
def image_to_float_kernel(x, y, count, FULL: tl.constexpr, BLOCK: tl.constexpr):
    """x: unsigned, given as signed integers of the same size; y = x / FULL, rounded as IEEE division does."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    z = (tl.load(x + i, mask=mask).to(tl.int32) & FULL).to(tl.float32)
    tl.store(y + i, tl.div_rn(z, tl.full((BLOCK,), FULL, tl.float32)), mask=mask)


@triton.jit
def float_to_image_kernel(x, y, count, FULL: tl.constexpr, BLOCK: tl.constexpr):
    """y = x * FULL, x clamped to [0, 1], halves to even, NaN as 0."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    z = tl.load(x + i, mask=mask)
    z = tl.where(z > 0, z, 0.0)  # NaN too
    z = tl.where(z < 1, z, 1.0) * FULL
    z = (z + 8388608.0) - 8388608.0  # 2^23: no bits are left behind the point
    tl.store(y + i, z.to(tl.int32).to(y.dtype.element_ty), mask=mask)
