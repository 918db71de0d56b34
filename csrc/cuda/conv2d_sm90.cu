// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Which convolutions the Hopper kernel takes, and by which unit.
#include "cuda/conv2d_sm90_launch.cuh"

namespace srk {
namespace sm90 {
namespace {

bool is_rare(const ConvParams& p) { return p.act == kGelu || p.act == kTanh || p.base_mode == kBaseBilinear; }

// Whether the copy engine takes a view of h x w pixels.
bool copyable(const View& v, const ConvParams& p, int64_t h, int64_t w) {
    return reinterpret_cast<uintptr_t>(v.data) % 16 == 0 && (w == 1 || v.sx % 8 == 0) &&
           (h == 1 || v.sy % 8 == 0) && (p.n == 1 || v.sn % 8 == 0);
}

// Whether each four packed channels lie in eight aligned bytes of a view.
bool vector_access(const View& v, const ConvParams& p, int step, int shuffle) {
    const int64_t group = p.co / (shuffle * shuffle);
    const bool runs = group % 4 == 0 || (v.sx == group && group * shuffle % 4 == 0);
    return runs && p.co % 4 == 0 && reinterpret_cast<uintptr_t>(v.data) % 8 == 0 && v.sx * step % 4 == 0 &&
           v.sy % 4 == 0 && (v.sn % 4 == 0 || p.n == 1) && (shuffle == 1 || v.sx % 4 == 0 || v.sx == group);
}

Access access(const ConvParams& p) {
    const bool vector = vector_access(p.y, p, p.step * p.shuffle, p.shuffle) &&
                        (!p.res1.data || vector_access(p.res1, p, p.step, 1)) &&
                        (!p.res2.data || vector_access(p.res2, p, p.step, 1)) &&
                        (p.base_mode != kBaseSame || vector_access(p.base, p, p.step * p.shuffle, p.shuffle));
    return vector ? kVector : kScalar;
}

}  // namespace
}  // namespace sm90

// Why the Hopper kernel doesn't take a convolution; null if it does. Holds for any device of compute
// capability 9.0.
const char* conv2d_sm90_reason(const ConvParams& p) {
    using namespace sm90;
    if (p.dtype == kFloat32) return "dtype is not float16 or bfloat16";
    if (p.kh != 3 || p.kw != 3) return "kernel is not 3x3";
    if (p.stride_y != 1 || p.stride_x != 1 || p.dilation_y != 1 || p.dilation_x != 1)
        return "stride or dilation is not 1";
    if (p.ci % 8) return "input channels are not a multiple of 8";
    if (!copyable(p.x, p, p.h, p.w) || (p.ci1 && !copyable(p.x2, p, p.h, p.w)))
        return "input's address or strides are not multiples of 16 bytes";
    if (p.ci1 % kChannels) return "the first of two inputs is no multiple of 64 channels";
    if (stacked_rows(p) == 2 && p.ci > 3 * kChannels)
        return "more than 192 input channels for at most 32 outputs: their weights leave no room for tiles";
    if (p.base_mode > kBaseSame && (p.base_factor != p.shuffle || p.step != 1))
        return "base is not enlarged by the factor of the shuffle";
    if (p.base_mode == kBaseNearest && p.co > 4 * p.shuffle * p.shuffle)
        return "enlarged base has more than four channels";
    if (p.shuffle != 1 && (p.res1.data || p.res2.data)) return "residual under a shuffle";
    if (p.co % (p.shuffle * p.shuffle)) return "output channels are not a multiple of the shuffle's square";
    const int64_t limit = int64_t(1) << 31;
    const int64_t tiles = (p.oh / 28 + 1) * (p.ow / 8 + 1) * p.n;
    if (tiles >= limit || p.co * (p.step * p.shuffle) >= limit || p.h >= limit || p.w >= limit ||
        p.shuffle * (p.y.sy + p.y.sx) >= limit || p.shuffle * (p.base.sy + p.base.sx) >= limit)
        return "too large for 32-bit tile and row indices";
    if (p.base_mode == kBaseBilinear && (p.ow + 1) * p.base.sx >= limit)
        return "a row of the base is too long";
    return nullptr;
}

cudaError_t conv2d_sm90(const ConvParams& p, cudaStream_t stream) {
    if (conv2d_sm90_reason(p)) return cudaErrorInvalidValue;
    if (p.n == 0 || p.oh == 0 || p.ow == 0 || p.co == 0) return cudaSuccess;
    return sm90::is_rare(p) ? sm90::launch_rare(p, sm90::access(p), stream)
                            : sm90::launch_straight(p, sm90::access(p), stream);
}

// The same with results staged, rows of its weights in the order of channels.
const char* conv2d_sm90_staged_reason(const ConvParams& p) {
    using namespace sm90;
    if (const char* reason = conv2d_sm90_reason(p)) return reason;
    if (stacked_rows(p) == 2) return "at most 32 output channels";
    if (p.base_mode != kBaseNone || is_rare(p)) return "there is a base, gelu or tanh";
    const int64_t s = p.shuffle, positions = p.step * s;
    if (s > 1 && (p.y.sx * s * s != p.co || p.co / s % kChannels))
        return "a row of sub-pixels is not adjacent or no multiple of 64 channels";
    const auto take = [&](const View& v, int64_t scale) {
        return !v.data || copyable(v, p, p.oh * scale, p.ow * scale);
    };
    if (!take(p.y, positions) || !take(p.res1, p.step) || !take(p.res2, p.step))
        return "output's or a residual's address or strides are not multiples of 16 bytes";
    return nullptr;
}

cudaError_t conv2d_sm90_staged(const ConvParams& p, cudaStream_t stream) {
    if (conv2d_sm90_staged_reason(p)) return cudaErrorInvalidValue;
    if (p.n == 0 || p.oh == 0 || p.ow == 0 || p.co == 0) return cudaSuccess;
    return sm90::launch_staged(p, stream);
}

}  // namespace srk
