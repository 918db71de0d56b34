// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The one epilogue, on the sums of `Run` adjacent packed channels of a conv pixel, as one thread holds them.
#pragma once
#include "cuda/index.h"
#include "cuda/ptx.cuh"
#include "params.h"

namespace srk::cuda {

// What the epilogue divides by, and which views take whole runs at once.
struct EpilogueArgs {
    Divisor colours, shuffle, base_factor;
    int32_t y_whole, res1_whole, res2_whole, base_whole;
};

template <int Run>
struct Word;
template <>
struct Word<2> {
    using type = uint32_t;
};
template <>
struct Word<4> {
    using type = uint2;
};
template <>
struct Word<8> {
    using type = uint4;
};

template <class T, int Run>
__device__ __forceinline__ void load_run(const T* from, bool whole, int count, float (&v)[Run]) {
    if (whole && count == Run) {
        union {
            typename Word<Run>::type all;
            uint32_t words[Run / 2];
        } held;
        held.all = *reinterpret_cast<const typename Word<Run>::type*>(from);
        SRK_UNROLL
        for (int i = 0; i < Run / 2; ++i) unpack<T>(held.words[i], v[2 * i], v[2 * i + 1]);
    } else {
        SRK_UNROLL
        for (int i = 0; i < Run; ++i) v[i] = i < count ? value(from[i]) : 0.0f;
    }
}

template <class T>
__device__ __forceinline__ T* at(const View& v, int64_t n, int64_t y, int64_t x) {
    return static_cast<T*>(v.data) + n * v.sn + y * v.sy + x * v.sx;
}

// silu, gelu, tanh and sigmoid.
__device__ __forceinline__ float curve(int act, float z) {
    switch (act) {
        case kGelu:
            return 0.5f * z * (1.0f + erff(z * 0.70710678f));
        case kTanh:
            return tanhf(z);
        case kSilu:
            return z / (1.0f + expf(-z));
        default:
            return 1.0f / (1.0f + expf(-z));
    }
}

// Bilinear taps of torch's interpolate(align_corners=False) along one axis.
struct Taps {
    int32_t i0, i1;
    float w1;
};
__device__ __forceinline__ Taps taps(int32_t position, const Divisor& factor, int32_t size) {
    const int32_t f = static_cast<int32_t>(factor.d), twice = 2 * position + 1 - f;
    if (twice <= 0) return {0, size > 1 ? 1 : 0, 0.0f};
    const int32_t i0 = static_cast<int32_t>(factor.over(twice / 2)), rest = twice - i0 * 2 * f;
    return {i0, i0 + 1 < size ? i0 + 1 : i0, static_cast<float>(rest) / static_cast<float>(2 * f)};
}

template <class T>
__device__ __forceinline__ float base_at(const ConvParams& p, const EpilogueArgs& e, int64_t n, int y, int x,
                                         int c) {
    if (p.base_mode == kBaseSame) return value(at<T>(p.base, n, y, x)[c]);
    if (p.base_mode == kBaseNearest)
        return value(at<T>(p.base, n, e.base_factor.over(y), e.base_factor.over(x))[c]);
    const Taps v = taps(y, e.base_factor, static_cast<int32_t>(p.base_h));
    const Taps h = taps(x, e.base_factor, static_cast<int32_t>(p.base_w));
    const float b00 = value(at<T>(p.base, n, v.i0, h.i0)[c]), b01 = value(at<T>(p.base, n, v.i0, h.i1)[c]);
    const float b10 = value(at<T>(p.base, n, v.i1, h.i0)[c]), b11 = value(at<T>(p.base, n, v.i1, h.i1)[c]);
    return (1.0f - v.w1) * ((1.0f - h.w1) * b00 + h.w1 * b01) + v.w1 * ((1.0f - h.w1) * b10 + h.w1 * b11);
}

// What is the same for every pixel: packed channels [q, q + count), count <= Run, and their bias and slopes.
// A slope stands for each activation that is no curve: 1 for none, 0 for relu.
template <class T, int Run, bool Full>
class Epilogue {
  public:
    __device__ __forceinline__ Epilogue(const ConvParams& p, const EpilogueArgs& e, int q)
        : p_(p), e_(e), q_(q), count_(static_cast<int>(p.co) - q < Run ? static_cast<int>(p.co) - q : Run) {
        SRK_UNROLL
        for (int i = 0; i < Run; ++i) {
            bias_[i] = p.bias[q + i];
            slope_[i] = p.act == kPrelu       ? p.prelu[q + i]
                        : p.act == kLeakyRelu ? p.slope
                        : p.act == kNone      ? 1.0f
                                              : 0.0f;
        }
    }

    // Finishes and stores the sums z of conv pixel (oy, ox) of image n.
    __device__ __forceinline__ void operator()(int64_t n, int oy, int ox, float (&z)[Run]) const {
        const int py = oy * p_.step + p_.phase_y, px = ox * p_.step + p_.phase_x;
        SRK_UNROLL
        for (int i = 0; i < Run; ++i) z[i] += bias_[i];
        if (!p_.act_after_add) activate(z);
        if (p_.scale != 1.0f) {
            SRK_UNROLL
            for (int i = 0; i < Run; ++i) z[i] *= p_.scale;
        }
        if (p_.res1.data) add(p_.res1, p_.b1, e_.res1_whole, n, py, px, z);
        if (p_.res2.data) add(p_.res2, p_.b2, e_.res2_whole, n, py, px, z);
        if (p_.act_after_add) activate(z);
        store(n, py, px, z);
    }

  private:
    __device__ __forceinline__ void activate(float (&z)[Run]) const {
        if (Full && p_.act >= kSilu) {
            SRK_UNROLL
            for (int i = 0; i < Run; ++i) z[i] = curve(p_.act, z[i]);
        } else if (p_.act != kNone) {
            SRK_UNROLL
            for (int i = 0; i < Run; ++i)
                z[i] = z[i] < 0.0f ? (p_.act == kRelu ? 0.0f : z[i] * slope_[i]) : z[i];
        }
    }

    __device__ __forceinline__ void add(const View& view, float weight, bool whole, int64_t n, int py, int px,
                                        float (&z)[Run]) const {
        float r[Run];
        const T* pixel = at<T>(view, n, py, px);
        if (!Full || p_.shuffle == 1) {
            load_run<T, Run>(pixel + q_, whole, count_, r);
        } else {  // the op's channels of packed ones lie shuffle^2 apart
            SRK_UNROLL
            for (int i = 0; i < Run; ++i) {
                const uint32_t q = q_ + i, sub = e_.colours.over(q), c = q - sub * e_.colours.d;
                r[i] = i < count_ ? value(pixel[c * p_.shuffle * p_.shuffle + sub]) : 0.0f;
            }
        }
        SRK_UNROLL
        for (int i = 0; i < Run; ++i) z[i] += weight * r[i];
    }

    __device__ __forceinline__ void store(int64_t n, int py, int px, float (&z)[Run]) const {
        const int s = p_.shuffle, y0 = py * s, x0 = px * s;
        if (Full && p_.base_mode != kBaseNone) {
            if (e_.base_whole && count_ == Run) {
                const uint32_t sub = e_.colours.over(q_), c = q_ - sub * e_.colours.d,
                               dy = e_.shuffle.over(sub);
                float b[Run];
                load_run<T, Run>(at<T>(p_.base, n, y0 + dy, x0 + sub - dy * s) + c, true, Run, b);
                SRK_UNROLL
                for (int i = 0; i < Run; ++i) z[i] += b[i];
            } else {
                SRK_UNROLL
                for (int i = 0; i < Run; ++i) {
                    if (i >= count_) break;
                    const uint32_t q = q_ + i, sub = e_.colours.over(q), c = q - sub * e_.colours.d;
                    const uint32_t dy = e_.shuffle.over(sub);
                    z[i] += base_at<T>(p_, e_, n, y0 + dy, x0 + sub - dy * s, c);
                }
            }
        }
        if (e_.y_whole && count_ == Run) {
            const uint32_t sub = e_.colours.over(q_), c = q_ - sub * e_.colours.d, dy = e_.shuffle.over(sub);
            union {
                typename Word<Run>::type all;
                uint32_t words[Run / 2];
            } held;
            SRK_UNROLL
            for (int i = 0; i < Run / 2; ++i) held.words[i] = packed<T>(z[2 * i], z[2 * i + 1]);
            T* to = at<T>(p_.y, n, y0 + dy, x0 + sub - dy * s) + c;
            *reinterpret_cast<typename Word<Run>::type*>(to) = held.all;
            return;
        }
        SRK_UNROLL
        for (int i = 0; i < Run; ++i) {
            if (i >= count_) break;
            const uint32_t q = q_ + i, sub = e_.colours.over(q), c = q - sub * e_.colours.d;
            const uint32_t dy = e_.shuffle.over(sub);
            at<T>(p_.y, n, y0 + dy, x0 + sub - dy * s)[c] = rounded<T>(z[i]);
        }
    }

    const ConvParams& p_;
    const EpilogueArgs& e_;
    int q_, count_;
    float bias_[Run], slope_[Run];
};

// Whether runs of `run` packed channels that start at multiples of it lie side by side in a shuffled view
// (shuffle 1: in any view) and at multiples of their size.
inline bool takes_runs(const View& v, int64_t colours, int64_t shuffle, int run, int64_t n, int64_t h,
                       int64_t w) {
    const auto whole = [&](int64_t stride, int64_t extent) { return extent == 1 || stride % run == 0; };
    const int64_t length = shuffle > 1 && v.sx == colours ? shuffle * colours : colours;
    // In a dense sub-row only the conv pixels' stride, of a whole sub-row, has to fit.
    const bool dense = length != colours;
    return (shuffle == 1 || length % run == 0) && reinterpret_cast<uintptr_t>(v.data) % (2 * run) == 0 &&
           whole(v.sn, n) && whole(v.sy, h) && (dense || whole(v.sx, w));
}

}  // namespace srk::cuda
