// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// What one instruction set offers: filled by isa/*.cpp, chosen at run time by cpuid.
#pragma once
#include "../params.h"

namespace srk {

enum KernelKind : int32_t { kDirect, kThin, kDepthwise, kWinograd, kBf16 };

// A convolution kernel: `channels` outputs by `pixels` of one row at a time. The rounding of an output depends on all
// inputs of the `edge` x `edge` outputs that are computed as one; 1: on its own window alone. Weights are packed for
// inputs padded to a multiple of `depth`.
struct ConvKernel {
    const char* name;
    const char* unit;  // the instruction set that it needs
    KernelKind kind;
    int32_t channels, pixels, edge, depth;
    bool (*run)(const ConvParams&);  // false: no memory for scratch, nothing is promised about y
};

// Convolutions of stride, dilation and step 1 and of one dtype, each but the last without a base, the last one's base
// not enlarged bilinearly. Layer i + 1 reads what layer i gives: x of all but the first, y of all but
// the last and the threads of all stand for nothing. The last layer's pixels are cut into strips, height x columns
// each, which are walked down `rows` at a time; all three are rounded up to what the kernels need.
constexpr int32_t kMaxChain = 32;
struct ChainParams {
    const ConvKernel* kernels;  // that the layers' numbers count
    const ConvParams* layers;
    int32_t count;  // 1 to kMaxChain
    int64_t rows, height, columns;
    int32_t threads;
};

// What an instruction set adds to the kernels of the one below it.
struct ConvKernels {
    const char* name;
    const ConvKernel* kernels;
    int32_t count;
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
    bool fast_bf16;  // its kernels of bfloat16 products multiply faster than those of float32
};

// The instruction sets that are built in and that this CPU and its system support, best last.
int supported_isas(const Isa* const** list);

}  // namespace srk
