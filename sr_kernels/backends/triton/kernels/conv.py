# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The fused convolution in Triton: an implicit matrix product over taps and channels, then the epilogue.

A program computes TH x TW pixels by BN packed channels of one sample. How it reads its input:
- "boxes": tensor descriptors, one box of TH x TW pixels by BK channels per tap; what lies outside the
  picture arrives as zeros, so that the loop has no masks (stride 1; 16-byte strides; NVIDIA from sm_90 on);
- "pointers": the same boxes by masked loads, for any stride and alignment;
- "window": taps and channels together are the inner dimension (im2col), for inputs of few channels;
- "taps": boxes or masked loads of whole rows, one per row of the window; each pixel is multiplied by all taps
  of that row at once, and a result gathers what its neighbours have for it. For few outputs: the products of
  the other ways would mostly be padding, and every pixel would be read once per tap.
"""

import triton
import triton.language as tl

from sr_kernels.backends.triton.kernels.epilogue import finish, tile_origin


@triton.jit
def _sums(P: tl.constexpr, BN: tl.constexpr, SWAP: tl.constexpr):
    """Zeros for the sums: (P, BN), or (BN, P) where weights are the left operand."""
    ROWS: tl.constexpr = BN if SWAP else P
    COLUMNS: tl.constexpr = P if SWAP else BN
    return tl.zeros((ROWS, COLUMNS), dtype=tl.float32)


@triton.jit
def _product(pixels, weights, acc, SWAP: tl.constexpr, PRECISION: tl.constexpr):
    """acc + pixels (P, BK) by weights (BN, BK) transposed."""
    if PRECISION == "widened":
        pixels = pixels.to(tl.float32)
        weights = weights.to(tl.float32)
    ARITHMETIC: tl.constexpr = "tf32" if PRECISION == "tf32" else "ieee"
    if SWAP:
        acc = tl.dot(weights, tl.trans(pixels), acc, input_precision=ARITHMETIC)
    else:
        acc = tl.dot(pixels, tl.trans(weights), acc, input_precision=ARITHMETIC)
    return acc


@triton.jit
def _from_boxes(
    acc, x, w, n, iy, ix, q0, first, COP: tl.constexpr, KB: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    DY: tl.constexpr, DX: tl.constexpr, P: tl.constexpr, BK: tl.constexpr, SWAP: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """acc + the products of KB blocks of channels of x, weights from block `first` on."""
    for i in tl.range(KH * KW * KB, num_stages=STAGES):
        tap = i // KB
        block = i % KB
        pixels = x.load([n, iy + tap // KW * DY, ix + tap % KW * DX, block * BK])
        weights = w.load([tap * COP + q0, (first + block) * BK])
        acc = _product(pixels.reshape(P, BK), weights, acc, SWAP, PRECISION)
    return acc


@triton.jit
def _from_pointers(
    acc, x, sy, sx, w, iy, ix, h, w_in, q0, CI: tl.constexpr, CIP: tl.constexpr, COP: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr, DY: tl.constexpr,
    DX: tl.constexpr, VX: tl.constexpr, P: tl.constexpr, TW: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    SWAP: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """x: pointer to the sample; (iy, ix): where the first pixel's window begins, perhaps outside."""
    KB: tl.constexpr = CIP // BK
    p = tl.arange(0, P)
    y = iy + p // TW * SY
    xs = ix + p % TW * SX
    k = tl.arange(0, BK)
    row = q0 + tl.arange(0, BN)
    for i in tl.range(KH * KW * KB, num_stages=STAGES):
        tap = i // KB
        c = i % KB * BK + k
        ty = y + tap // KW * DY
        tx = xs + tap % KW * DX
        inside = (ty >= 0) & (ty < h) & (tx >= 0) & (tx < w_in)
        at = x + (ty.to(tl.int64) * sy + tx * sx)[:, None] * VX + c[None, :]
        mask = inside[:, None]
        if CI % BK != 0:
            mask = mask & (c < CI)[None, :]
        pixels = tl.load(at, mask=mask, other=0.0)
        weights = tl.load(w + ((tap * COP + row) * CIP)[:, None] + c[None, :])
        acc = _product(pixels, weights, acc, SWAP, PRECISION)
    return acc


@triton.jit
def _from_window(
    acc, x, sy, sx, w, iy, ix, h, w_in, q0, CI: tl.constexpr, CIP: tl.constexpr, KH: tl.constexpr,
    KW: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr,
    VX: tl.constexpr, P: tl.constexpr, TW: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    SWAP: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """CIP: taps * CI rounded up to whole blocks; k = tap * CI + channel."""
    p = tl.arange(0, P)
    y = iy + p // TW * SY
    xs = ix + p % TW * SX
    row = q0 + tl.arange(0, BN)
    for i in tl.range(CIP // BK, num_stages=STAGES):
        k = i * BK + tl.arange(0, BK)
        tap = k // CI
        ty = y[:, None] + (tap // KW * DY)[None, :]
        tx = xs[:, None] + (tap % KW * DX)[None, :]
        mask = (ty >= 0) & (ty < h) & (tx >= 0) & (tx < w_in) & (k < KH * KW * CI)[None, :]
        at = x + (ty.to(tl.int64) * sy + tx * sx) * VX + (k % CI)[None, :]
        pixels = tl.load(at, mask=mask, other=0.0)
        weights = tl.load(w + (row * CIP)[:, None] + k[None, :])
        acc = _product(pixels, weights, acc, SWAP, PRECISION)
    return acc


@triton.jit
def _from_taps(
    x, sample, sy, sx, w, n, iy, ix, h, w_in, CI: tl.constexpr, CIP: tl.constexpr, COP: tl.constexpr,
    TAPS: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, VX: tl.constexpr, BOXED: tl.constexpr,
    P: tl.constexpr, TW: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """(P, COP): of rows of TW input pixels, those at which whole windows begin hold results. Column
    c*TAPS + t of the products is output c's share of tap t of a row; TAPS is KW rounded up."""
    N: tl.constexpr = COP * TAPS
    KB: tl.constexpr = CIP // BK
    p = tl.arange(0, P)
    ty = iy + p // TW
    tx = ix + p % TW
    column = tl.arange(0, N)
    acc = tl.zeros((P, N), dtype=tl.float32)
    for i in tl.range(KH * KB, num_stages=STAGES):
        ky = i // KB
        c = i % KB * BK + tl.arange(0, BK)
        if BOXED:
            pixels = x.load([n, iy + ky, ix, i % KB * BK]).reshape(P, BK)
        else:
            row = ty + ky
            inside = (row >= 0) & (row < h) & (tx >= 0) & (tx < w_in)
            at = sample + (row.to(tl.int64) * sy + tx * sx)[:, None] * VX + c[None, :]
            pixels = tl.load(at, mask=inside[:, None] & (c < CI)[None, :], other=0.0)
        weights = tl.load(w + ((ky * N + column) * CIP)[:, None] + c[None, :])
        acc = _product(pixels, weights, acc, False, PRECISION)
    # a tap's share lies as many pixels to the right; beyond the tile nothing is needed
    source = tl.minimum(p[:, None] + tl.minimum(column % TAPS, KW - 1)[None, :], P - 1)
    shares = tl.gather(acc, source, 0)
    if TAPS != KW:  # infinities by the zeros of a tap that is none are NaN
        shares = tl.where((column % TAPS < KW)[None, :], shares, 0.0)
    return tl.sum(shares.reshape(P, COP, TAPS), 2)


# What differs between pictures and layers of one kind must not make the compiler start anew.
_RUN_TIME = [
    *("xn", "xy", "xx", "h", "w_in", "pad_top", "pad_left", "oh", "ow", "tiles_y", "tiles_x"),
    *("slope", "scale", "r1n", "r1y", "r1x", "b1", "r2n", "r2y", "r2x", "b2", "bn", "by", "bx"),
    *("base_h", "base_w", "yn", "yy", "yx"),
]


@triton.jit(do_not_specialize=_RUN_TIME)
def conv2d_kernel(
    x,  # BOXED: descriptor (N, H, W, Ci) of boxes (1, TH, TW, BK); else pointer with strides xn, xy, xx
    x2,  # "boxes": the channels from CI1 on, as x
    xn,
    xy,
    xx,
    h,
    w_in,
    w,  # (KH*KW, COP, CIP), of "window" (COP, CIP), of "taps" (KH, COP, TAPS, CIP); "boxes": a descriptor
    pad_top,
    pad_left,
    oh,
    ow,
    tiles_y,
    tiles_x,
    bias,  # (COP,) float32, packed order
    prelu,  # as bias
    slope,
    scale,
    res1,
    r1n,
    r1y,
    r1x,
    b1,
    res2,
    r2n,
    r2y,
    r2x,
    b2,
    base,
    bn,
    by,
    bx,
    base_h,
    base_w,
    y,
    yn,
    yy,
    yx,
    CI: tl.constexpr,
    CI1: tl.constexpr,  # "boxes": channels of x, the others are x2's; CI where there is no x2
    CIP: tl.constexpr,
    CO: tl.constexpr,
    COP: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SY: tl.constexpr,
    SX: tl.constexpr,
    DY: tl.constexpr,
    DX: tl.constexpr,
    VX: tl.constexpr,
    ACT: tl.constexpr,
    AFTER: tl.constexpr,
    RESIDUALS: tl.constexpr,
    S: tl.constexpr,
    BASE: tl.constexpr,
    FACTOR: tl.constexpr,
    STEP: tl.constexpr,
    PY: tl.constexpr,
    PX: tl.constexpr,
    VY: tl.constexpr,
    VR1: tl.constexpr,
    VR2: tl.constexpr,
    VB: tl.constexpr,
    DENSE: tl.constexpr,
    LOAD: tl.constexpr,
    PRECISION: tl.constexpr,
    BOXED: tl.constexpr,
    TAPS: tl.constexpr,  # "taps" alone
    TH: tl.constexpr,
    TW: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SWAP: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One phase of the op; strides are in units of the constants V* (see epilogue.py)."""
    P: tl.constexpr = TH * TW
    pid = tl.program_id(0)
    blocks: tl.constexpr = COP // BN
    q0 = pid % blocks * BN
    tile = pid // blocks
    HALO: tl.constexpr = KW - 1 if LOAD == "taps" else 0  # a row's end, where no whole window begins
    ox = tile % tiles_x * (TW - HALO)
    oy = tile // tiles_x % tiles_y * TH
    n = tile // tiles_x // tiles_y
    iy = oy * SY - pad_top
    ix = ox * SX - pad_left
    if LOAD == "boxes":
        acc = _sums(P, BN, SWAP)
        KB1: tl.constexpr = (CI1 + BK - 1) // BK
        acc = _from_boxes(
            acc, x, w, n, iy, ix, q0, 0, COP, KB1, KH, KW, DY, DX, P, BK, SWAP, PRECISION, STAGES
        )
        if CI1 < CI:
            acc = _from_boxes(
                acc, x2, w, n, iy, ix, q0, KB1, COP, CIP // BK - KB1, KH, KW, DY, DX, P, BK, SWAP, PRECISION,
                STAGES,
            )  # fmt: skip
    elif LOAD == "taps":
        sample = x
        if not BOXED:
            sample = tile_origin(x, n, iy * 0, ix * 0, xn, xy, xx, VX)
        acc = _from_taps(
            x, sample, xy, xx, w, n, iy, ix, h, w_in, CI, CIP, COP, TAPS, KH, KW, VX, BOXED, P, TW, BK,
            PRECISION, STAGES,
        )  # fmt: skip
        ow = tl.minimum(ow, ox + TW - HALO)
    else:
        acc = _sums(P, BN, SWAP)
        sample = tile_origin(x, n, iy * 0, ix * 0, xn, xy, xx, VX)
        if LOAD == "window":
            acc = _from_window(
                acc, sample, xy, xx, w, iy, ix, h, w_in, q0, CI, CIP, KH, KW, SY, SX, DY, DX, VX, P, TW, BN,
                BK, SWAP, PRECISION, STAGES,
            )  # fmt: skip
        else:
            acc = _from_pointers(
                acc, sample, xy, xx, w, iy, ix, h, w_in, q0, CI, CIP, COP, KH, KW, SY, SX, DY, DX, VX, P, TW,
                BN, BK, SWAP, PRECISION, STAGES,
            )  # fmt: skip
    if SWAP:
        acc = tl.trans(acc)
    finish(
        acc, n, oy, ox, q0, oh, ow, bias, prelu, slope, scale, res1, r1n, r1y, r1x, b1, res2, r2n, r2y, r2x,
        b2, base, bn, by, bx, base_h, base_w, y, yn, yy, yx, CO, ACT, AFTER, RESIDUALS, S, BASE, FACTOR, STEP,
        PY, PX, VY, VR1, VR2, VB, DENSE, P, TW, BN,
    )  # fmt: skip
