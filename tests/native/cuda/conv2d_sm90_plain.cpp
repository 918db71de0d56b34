// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Stands for csrc/cuda/conv2d_sm90.cu where nothing has its instructions: the same contract, the same packed
// weights, one output after the other.
#include <algorithm>
#include <cmath>

#include "cuda/launch.h"
#include "cuda/ptx.cuh"

namespace srk {
namespace {

using cuda::rounded;
using cuda::value;

int row_channel(int row, bool staged) {
    return staged ? row : (row & ~15) + 4 * ((row & 7) >> 1) + (row & 1) + ((row & 8) >> 2);
}

int weight_index(int stack, int dy, int dx, int row, int c) {
    const int tap = stack == 1 ? 3 * dy + dx : 3 * dx + 2 - dy;
    return (tap * (64 / stack) + row) * 64 + ((c >> 3 ^ (row & 7)) << 3 | (c & 7));
}

float activated(const ConvParams& p, float x, int q) {
    switch (p.act) {
        case kRelu:
            return x < 0 ? 0 : x;
        case kLeakyRelu:
            return x < 0 ? p.slope * x : x;
        case kPrelu:
            return x < 0 ? p.prelu[q] * x : x;
        case kSilu:
            return x / (1 + std::exp(-x));
        case kSigmoid:
            return 1 / (1 + std::exp(-x));
        default:
            return x;
    }
}

template <class T>
void convolve(const ConvParams& p, bool staged) {
    const int stack = p.co <= 32 ? 2 : 1, rows = 64 / stack, s = p.shuffle;
    const int64_t chunks = (p.ci + 63) / 64, colours = p.co / (s * s);
    const auto* weights = reinterpret_cast<const T*>(p.weight);
    const auto at = [](const View& v, int64_t n, int64_t y, int64_t x, int64_t c) {
        return static_cast<T*>(v.data) + n * v.sn + y * v.sy + x * v.sx + c;
    };
    for (int64_t i = 0; i < p.n * p.oh * p.ow * ((p.co + rows - 1) / rows) * rows; ++i) {
        const int row = static_cast<int>(i % rows);
        const int64_t blocks = (p.co + rows - 1) / rows, block = i / rows % blocks, pixel = i / rows / blocks;
        const int64_t x = pixel % p.ow, y = pixel / p.ow % p.oh, n = pixel / p.ow / p.oh;
        const int64_t q = block * rows + row_channel(row, staged);
        if (q >= p.co) continue;
        float sum = p.bias[q];
        for (int64_t c = 0; c < p.ci; ++c) {
            const T* packed = weights + (block * chunks + c / 64) * 9 * rows * 64;
            for (int dy = 0; dy < 3; ++dy)
                for (int dx = 0; dx < 3; ++dx) {
                    const int64_t v = y - p.pad_top + dy, u = x - p.pad_left + dx;
                    if (v < 0 || v >= p.h || u < 0 || u >= p.w) continue;
                    const bool own = p.ci1 == 0 || c < p.ci1;
                    sum += value(*at(own ? p.x : p.x2, n, v, u, own ? c : c - p.ci1)) *
                           value(packed[weight_index(stack, dy, dx, row, static_cast<int>(c % 64))]);
                }
        }
        if (!p.act_after_add) sum = activated(p, sum, static_cast<int>(q));
        sum *= p.scale;
        if (p.res1.data) sum += p.b1 * value(*at(p.res1, n, y, x, q));
        if (p.res2.data) sum += p.b2 * value(*at(p.res2, n, y, x, q));
        if (p.act_after_add) sum = activated(p, sum, static_cast<int>(q));
        const int64_t colour = q % colours, fy = y * s + q / colours / s, fx = x * s + q / colours % s;
        if (p.base_mode == kBaseSame) sum += value(*at(p.base, n, fy, fx, colour));
        if (p.base_mode == kBaseNearest) sum += value(*at(p.base, n, y, x, colour));
        *at(p.y, n, fy, fx, colour) = rounded<T>(sum);
    }
}

}  // namespace

const char* conv2d_sm90_reason(const ConvParams& p) {
    const int64_t one[] = {p.stride_y, p.stride_x, p.dilation_y, p.dilation_x, p.step};
    if (p.kh != 3 || p.kw != 3 ||
        std::any_of(std::begin(one), std::end(one), [](int64_t v) { return v != 1; }))
        return "kernel is not 3x3 of stride 1";
    if (p.ci % 8 || reinterpret_cast<uintptr_t>(p.x.data) % 16) return "input is not aligned to 16 bytes";
    if (p.ci1 % 64 || (p.ci1 && reinterpret_cast<uintptr_t>(p.x2.data) % 16))
        return "second input is not aligned";
    if ((p.w > 1 && p.x.sx % 8) || (p.h > 1 && p.x.sy % 8) || (p.n > 1 && p.x.sn % 8))
        return "input strides are not multiples of 16 bytes";
    if (p.act == kGelu || p.act == kTanh) return "activation is gelu or tanh";
    if (p.base_mode == kBaseBilinear || (p.base_mode == kBaseNearest && p.base_factor != p.shuffle))
        return "base is not enlarged by the factor of the shuffle";
    if (p.base_mode == kBaseNearest && p.co > 4 * p.shuffle * p.shuffle)
        return "enlarged base has more than four channels";
    if (p.shuffle != 1 && (p.res1.data || p.res2.data)) return "residual under a shuffle";
    if (p.co <= 32 && p.ci > 192) return "more than 192 input channels for at most 32 outputs";
    return nullptr;
}

cudaError_t conv2d_sm90(const ConvParams& p, cudaStream_t) {
    p.dtype == kFloat16 ? convolve<cuda::Float16>(p, false) : convolve<cuda::BFloat16>(p, false);
    return cudaSuccess;
}

const char* conv2d_sm90_staged_reason(const ConvParams& p) {
    if (const char* reason = conv2d_sm90_reason(p)) return reason;
    if (p.co <= 32) return "at most 32 output channels";
    if (p.base_mode != kBaseNone) return "there is a base";
    const int64_t s = p.shuffle;
    if (s > 1 && (p.y.sx * s * s != p.co || p.co / s % 64)) return "a row of sub-pixels is not adjacent";
    for (const View& v : {p.y, p.res1, p.res2})
        if (v.data && (reinterpret_cast<uintptr_t>(v.data) % 16 || (p.ow * s > 1 && v.sx % 8) ||
                       (p.oh * s > 1 && v.sy % 8) || (p.n > 1 && v.sn % 8)))
            return "output's or a residual's address or strides are not multiples of 16 bytes";
    return nullptr;
}

cudaError_t conv2d_sm90_staged(const ConvParams& p, cudaStream_t) {
    p.dtype == kFloat16 ? convolve<cuda::Float16>(p, true) : convolve<cuda::BFloat16>(p, true);
    return cudaSuccess;
}

}  // namespace srk
