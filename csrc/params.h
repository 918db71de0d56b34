// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// One plain struct per op: the contract between Python and every kernel. Strides are in elements.
#pragma once
#include <cstdint>

namespace srk {

enum Activation : int32_t { kNone, kRelu, kLeakyRelu, kPrelu, kSilu, kGelu, kTanh, kSigmoid };
enum BaseMode : int32_t { kBaseNone, kBaseSame, kBaseNearest, kBaseBilinear };
enum Dtype : int32_t { kFloat32, kBFloat16, kFloat16 };

inline int64_t element_size(int32_t dtype) { return dtype == kFloat32 ? 4 : 2; }

// A pixel-major (channels_last) view: element (n, y, x, c) lies at data + n*sn + y*sy + x*sx + c.
// sx may exceed the channel count: the view is then a slice of a wider buffer.
struct View {
    void* data;
    int64_t sn, sy, sx;
};

// out = shuffle(scale*act(conv(x) + bias) + b1*res1 + b2*res2) + base; act_after_add moves act behind the sum.
// One call computes one phase: conv pixel (oy, ox) belongs to position (oy*step + phase_y, ox*step + phase_x)
// of the residuals and, times `shuffle`, of out and base; step > 1 only for the phases of a nearest upsample.
// All views are of type `dtype`; weights, bias and PReLU slopes are float32, and so is all arithmetic.
// Packed channel q is the op's channel (q % (co/s^2))*s^2 + q / (co/s^2), s = shuffle: one store per sub-row.
struct ConvParams {
    View x, y, res1, res2, base;
    View x2;                    // where ci1 is not 0: the inputs from ci1 on, of another tensor of x's size
    const float* weight;        // packed for `kernel`
    const float* bias;          // packed order, padded with zeros to whole blocks; never null
    const float* prelu;         // as bias; null unless act == kPrelu
    int64_t n, h, w, ci, ci1;   // x; ci counts x2's channels too
    int64_t oh, ow, co;         // conv pixels of this phase
    int64_t pad_top, pad_left;  // negative: the first window starts inside x
    int64_t base_h, base_w;     // size of base where it is enlarged on the fly
    int64_t kh, kw, stride_y, stride_x, dilation_y, dilation_x;
    int32_t step, phase_y, phase_x;
    int32_t act, act_after_add;
    int32_t shuffle;
    int32_t base_mode, base_factor;
    int32_t dtype;   // of x, y, res1, res2 and base
    int32_t kernel;  // index in the kernel table of the chosen ISA
    int32_t chain;   // additions after which a sum is set aside: bounds its rounding; not Winograd's
    int32_t stream;  // results go past the caches: they are larger than these
    int32_t threads;
    float slope, scale, b1, b2;
};

// Pixel shuffle (from a grid of (y, x) pixels of c*s*s channels to s-times finer ones of c) and its inverse.
// Strides are in elements of `size` bytes; the channel stride makes any dense layout welcome.
struct ShuffleParams {
    const void* x;
    void* y;
    int64_t n, h, w, c;  // of the coarse side: (n, c*s*s, h, w)
    int64_t xn, xc, xy, xx, yn, yc, yy, yx;
    int32_t s, size, inverse, threads;
};

// y = scale*x + b1*r1 + b2*r2 over `count` elements of equal, dense layout and type `dtype`; r2 may be null.
struct AddParams {
    const void *x, *r1, *r2;
    void* y;
    int64_t count;
    float scale, b1, b2;
    int32_t dtype, threads;
};

// Winograd weights u (as many as edge*edge*ci*co, co rounded up to channels) of w, whose strides may be negative; see
// kernels/winograd_pack.inl. `channels` is a multiple of the instruction set's lanes.
struct WinogradPack {
    const float* w;
    float* u;
    int64_t co, ci, so, si, sy, sx;  // w (co, ci, 3, 3) and its strides
    int64_t channels, edge;
    double g[8][3];  // G, `edge` rows of it
};

// Images: interleaved integers <-> floats in [0, 1], same element order.
struct ImageParams {
    const void* x;
    void* y;
    int64_t count;
    int32_t bits;  // 8 or 16
    int32_t threads;
};

}  // namespace srk
