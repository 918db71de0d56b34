// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// What one instruction set offers: filled by isa/*.cpp, chosen at run time by cpuid.
#pragma once
#include "../params.h"

namespace srk {

enum KernelKind : int32_t { kDirect, kThin, kDepthwise, kWinograd };

// A convolution kernel: `channels` outputs by `pixels` of one row at a time. The rounding of an output depends on all
// inputs of the `edge` x `edge` outputs that are computed as one; 1: on its own window alone.
struct ConvKernel {
    const char* name;
    KernelKind kind;
    int32_t channels, pixels, edge;
    bool (*run)(const ConvParams&);  // false: no memory for scratch, nothing is promised about y
};

struct Isa {
    const char* name;
    int32_t lanes;  // floats in a vector
    const ConvKernel* kernels;
    int32_t kernel_count;
    void (*pack_winograd)(const WinogradPack&);
    bool (*chain)(const ChainParams&);  // as ConvKernel::run
    void (*shuffle)(const ShuffleParams&);
    void (*add)(const AddParams&);
    void (*image_to_float)(const ImageParams&);
    void (*float_to_image)(const ImageParams&);
    // Multiply-adds in registers, so many pieces on so many threads; the floating-point operations done.
    int64_t (*probe)(int64_t pieces, int threads);
};

// The instruction sets that are built in and that this CPU and its system support, best last.
int supported_isas(const Isa* const** list);

}  // namespace srk
