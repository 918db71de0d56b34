# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What follows a convolution's sums, as Triton functions: one epilogue for every kernel of this backend.

Sums lie in tiles (P pixels, BN packed channels) of float32. Packed channel q is the op's channel
(q % (Co/s^2))*s^2 + q // (Co/s^2), s the factor of the pixel shuffle, as in csrc/params.h: a sub-row of the
result is then contiguous. Strides come divided by a constant V that all of them share: multiplied again in
the kernel they tell the compiler how far accesses are aligned, whatever the size of the picture.
"""

import triton
import triton.language as tl


@triton.jit
def hyperbolic_tangent(z):
    """tanh of float32; near zero, where 1 - 2/(e^2z + 1) cancels, z + z^3 P(z^2): a least-squares fit of
    tanh(z)/z at Chebyshev's points of [0, 0.625], which errs by less than a unit in the last place."""
    u = z * z
    p = u * -0.00570404252483129 + 0.020637861489151883
    p = p * u - 0.05373915650362846
    p = p * u + 0.13331431753509176
    p = p * u - 0.333332812841131
    return tl.where(tl.abs(z) < 0.625, z + z * (u * p), 1 - 2 / (tl.exp(2 * z) + 1))


@triton.jit
def activate(z, ACT: tl.constexpr, slope, prelu):
    """act(z); a NaN stays one. prelu: slopes that broadcast against z."""
    if ACT == "relu":
        z = tl.where(z <= 0, 0.0, z)
    elif ACT == "leaky_relu":
        z = tl.where(z > 0, z, z * slope)
    elif ACT == "prelu":
        z = tl.where(z > 0, z, z * prelu)
    elif ACT == "silu":
        z = z / (1 + tl.exp(-z))
    elif ACT == "gelu":
        z = 0.5 * z * (1 + tl.erf(z * 0.7071067811865476))
    elif ACT == "tanh":
        z = hyperbolic_tangent(z)
    elif ACT == "sigmoid":
        z = 1 / (1 + tl.exp(-z))
    return z


@triton.jit
def tile_origin(ptr, n, y, x, sn, sy, sx, V: tl.constexpr):
    """ptr at pixel (y, x) of sample n; 64-bit, so that only offsets within a tile have to fit in 32 bits."""
    return ptr + (n.to(tl.int64) * sn + y.to(tl.int64) * sy + x.to(tl.int64) * sx) * V


@triton.jit
def _enlarged(base, n, y, x, c, sn, sy, sx, h, w, V: tl.constexpr, MODE: tl.constexpr, F: tl.constexpr, mask):
    """The base at pixels (y, x), both (P, BN), of the result, F times enlarged (align_corners=False)."""
    origin = base + n.to(tl.int64) * sn * V
    if MODE == "nearest":
        offset = ((y // F).to(tl.int64) * sy + (x // F) * sx) * V + c
        value = tl.load(origin + offset, mask=mask, other=0.0).to(tl.float32)
    else:
        fy = tl.maximum((y.to(tl.float32) + 0.5) / F - 0.5, 0.0)
        fx = tl.maximum((x.to(tl.float32) + 0.5) / F - 0.5, 0.0)
        y0 = fy.to(tl.int32)
        x0 = fx.to(tl.int32)
        y1 = tl.minimum(y0 + 1, h - 1)
        x1 = tl.minimum(x0 + 1, w - 1)
        fy = fy - y0
        fx = fx - x0
        above = y0.to(tl.int64) * sy
        below = y1.to(tl.int64) * sy
        v00 = tl.load(origin + (above + x0 * sx) * V + c, mask=mask, other=0.0).to(tl.float32)
        v01 = tl.load(origin + (above + x1 * sx) * V + c, mask=mask, other=0.0).to(tl.float32)
        v10 = tl.load(origin + (below + x0 * sx) * V + c, mask=mask, other=0.0).to(tl.float32)
        v11 = tl.load(origin + (below + x1 * sx) * V + c, mask=mask, other=0.0).to(tl.float32)
        value = (v00 * (1 - fx) + v01 * fx) * (1 - fy) + (v10 * (1 - fx) + v11 * fx) * fy
    return value


@triton.jit
def finish(
    acc,  # (P, BN) float32: the convolution of P pixels, rows of TW, the first at (oy, ox)
    n,
    oy,
    ox,
    q0,  # the first packed channel
    oh,
    ow,
    bias,
    prelu,
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
    CO: tl.constexpr,
    ACT: tl.constexpr,
    AFTER: tl.constexpr,  # the activation follows the residuals
    RESIDUALS: tl.constexpr,
    S: tl.constexpr,  # pixel shuffle
    BASE: tl.constexpr,
    FACTOR: tl.constexpr,
    STEP: tl.constexpr,  # phases of a nearest upsample: pixel (oy, ox) is (oy*STEP + PY, ox*STEP + PX)
    PY: tl.constexpr,
    PX: tl.constexpr,
    VY: tl.constexpr,
    VR1: tl.constexpr,
    VR2: tl.constexpr,
    VB: tl.constexpr,
    DENSE: tl.constexpr,  # y's pixels lie side by side, so a sub-row of a shuffled pixel is one run
    P: tl.constexpr,
    TW: tl.constexpr,
    BN: tl.constexpr,
):
    """Bias, activation, scale, residuals, pixel shuffle, base, and the store."""
    p = tl.arange(0, P)
    py = (p // TW)[:, None]
    px = (p % TW)[:, None]
    q = q0 + tl.arange(0, BN)
    mask = (oy + py < oh) & (ox + px < ow) & (q < CO)[None, :]
    CS: tl.constexpr = CO // (S * S)

    z = acc + tl.load(bias + q)[None, :]
    slopes = 0.0
    if ACT == "prelu":
        slopes = tl.load(prelu + q)[None, :]
    if not AFTER:
        z = activate(z, ACT, slope, slopes)
    z = z * scale
    if RESIDUALS > 0:
        channel = q if S == 1 else (q % CS) * (S * S) + q // CS
        at = tile_origin(res1, n, oy * STEP + PY, ox * STEP + PX, r1n, r1y, r1x, VR1)
        offset = (py * (STEP * r1y) + px * (STEP * r1x)) * VR1 + channel[None, :]
        z += b1 * tl.load(at + offset, mask=mask, other=0.0).to(tl.float32)
        if RESIDUALS > 1:
            at = tile_origin(res2, n, oy * STEP + PY, ox * STEP + PX, r2n, r2y, r2x, VR2)
            offset = (py * (STEP * r2y) + px * (STEP * r2x)) * VR2 + channel[None, :]
            z += b2 * tl.load(at + offset, mask=mask, other=0.0).to(tl.float32)
    if AFTER:
        z = activate(z, ACT, slope, slopes)

    top = (oy * STEP + PY) * S
    left = (ox * STEP + PX) * S
    if S == 1:
        dy = tl.zeros_like(q)
        dx = dy
        c = q
    else:
        dy = q // (CS * S)
        dx = q // CS % S
        c = q % CS
    if BASE == "same":
        at = tile_origin(base, n, top, left, bn, by, bx, VB)
        offset = ((py * (STEP * S) + dy[None, :]) * by + (px * (STEP * S) + dx[None, :]) * bx) * VB + c[
            None, :
        ]
        z += tl.load(at + offset, mask=mask, other=0.0).to(tl.float32)
    elif BASE != "none":
        yy_at = top + py * (STEP * S) + dy[None, :]
        xx_at = left + px * (STEP * S) + dx[None, :]
        z += _enlarged(base, n, yy_at, xx_at, c[None, :], bn, by, bx, base_h, base_w, VB, BASE, FACTOR, mask)
    at = tile_origin(y, n, top, left, yn, yy, yx, VY)
    if S == 1:
        run = c
    elif DENSE:
        run = (dy * yy) * VY + q % (CS * S)
    else:
        run = (dy * yy + dx * yx) * VY + c
    offset = (py * (STEP * S * yy) + px * (STEP * S * yx)) * VY + run[None, :]
    tl.store(at + offset, z.to(y.dtype.element_ty), mask=mask)
