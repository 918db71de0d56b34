// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// One plain struct per op: the contract between Python and every kernel. Strides are in elements.
#pragma once
#include <cstdint>

namespace srk {

enum Activation : int32_t { kNone, kRelu, kLeakyRelu, kPrelu, kSilu, kGelu, kTanh, kSigmoid };
enum BaseMode : int32_t { kBaseNone, kBaseSame, kBaseNearest, kBaseBilinear };

// A pixel-major (channels_last) view: element (n, y, x, c) lies at data + n*sn + y*sy + x*sx + c.
struct View {
    float* data;
    int64_t sn, sy, sx;
};

// y = shuffle(scale*act(conv(x) + bias) + b1*res1 + b2*res2) + base, see DESIGN in docs/design.md.
// One call computes one output phase: conv pixel (oy, ox) is written to conv-space position
// (oy*step + phase_y, ox*step + phase_x); step > 1 only for the phases of a collapsed nearest upsample.
struct ConvParams {
    View x, y, res1, res2, base;
    const float* w;      // packed, see pack.h
    const float* bias;   // [co] or null
    const float* prelu;  // [co] or null
    int64_t n, h, w_in, ci;  // input
    int64_t oh, ow, co;      // conv pixels of this phase
    int32_t kh, kw, stride_y, stride_x, dil_y, dil_x;
    int64_t pad_top, pad_left;  // may be negative: the window then starts inside
    int32_t groups;             // 1 or ci (depthwise, co == ci)
    int32_t step, phase_y, phase_x;
    int32_t act, act_after_add;
    float slope, scale, b1, b2;
    int32_t shuffle;
    int32_t base_mode, base_factor;
    int64_t base_h, base_w;
    int32_t kernel;   // index in the kernel table
    int32_t threads;
};

}  // namespace srk
