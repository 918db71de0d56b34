// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The kernels of bfloat16 products (csrc/cpu/kernels/bf16*.inl) with their instructions in plain C++, for CPUs that have
// none of them. What the instructions forbid (tiles that were not configured) ends the process.
#include <cstdlib>
#include <cstring>

#define SRK_LANES 4
#define SRK_ISA plain
#include "cpu/kernels/unit.inl"

namespace {

constexpr int kRows = 16, kBytes = 64;
thread_local unsigned char tiles[8][kRows][kBytes];
thread_local bool configured = false;

float wide(uint16_t bits) {
    const uint32_t word = uint32_t{bits} << 16;
    float x;
    std::memcpy(&x, &word, 4);
    return x;
}

void need_tiles() {
    if (!configured) std::abort();
}
void _tile_loadconfig(const void* shapes) {
    unsigned char bytes[64];
    std::memcpy(bytes, shapes, sizeof bytes);
    if (bytes[0] != 1) std::abort();
    for (int i = 0; i < 8; ++i)
        if (bytes[16 + 2 * i] != kBytes || bytes[17 + 2 * i] != 0 || bytes[48 + i] != kRows) std::abort();
    std::memset(tiles, 0xff, sizeof tiles);  // not-a-numbers
    configured = true;
}
void _tile_release() { configured = false; }
void _tile_zero(int t) {
    need_tiles();
    std::memset(tiles[t], 0, sizeof tiles[t]);
}
void _tile_loadd(int t, const void* from, int64_t stride) {
    need_tiles();
    for (int i = 0; i < kRows; ++i)
        std::memcpy(tiles[t][i], static_cast<const char*>(from) + i * stride, kBytes);
}
void _tile_stored(int t, void* to, int64_t stride) {
    need_tiles();
    for (int i = 0; i < kRows; ++i) std::memcpy(static_cast<char*>(to) + i * stride, tiles[t][i], kBytes);
}
void _tile_dpbf16ps(int c, int a, int b) {
    need_tiles();
    float sums[kRows][16];
    uint16_t x[kRows][32], w[16][32];
    std::memcpy(sums, tiles[c], sizeof sums);
    std::memcpy(x, tiles[a], sizeof x);
    std::memcpy(w, tiles[b], sizeof w);
    for (int i = 0; i < kRows; ++i)
        for (int k = 0; k < 32; ++k)
            for (int j = 0; j < 16; ++j) sums[i][j] += wide(x[i][k]) * wide(w[k / 2][2 * j + k % 2]);
    std::memcpy(tiles[c], sums, sizeof sums);
}

}  // namespace

namespace srk {
namespace {
// clang-format off: the order matters
#include "cpu/kernels/vec.inl"
#include "cpu/kernels/half.inl"
#include "cpu/kernels/epilogue.inl"

// As in bf16_instructions.inl.
void round_values(const float* x, int64_t count, uint16_t* to) {
    for (int64_t i = 0; i < count; i += L) {
        const int64_t lanes = count - i < L ? count - i : L;
        store_n(reinterpret_cast<BFloat16*>(to + i), load_n(x + i, lanes), lanes);
    }
}
V add_products(V sum, VI x, VI w) {
    return sum + (V)(x & -65536) * (V)(w & -65536) + (V)(x << 16) * (V)(w << 16);
}

#include "cpu/kernels/bf16_driver.inl"
namespace with_tiles {
#include "cpu/kernels/bf16_tiles.inl"
}
namespace with_vectors {
#include "cpu/kernels/bf16_vectors.inl"
}
// clang-format on

struct List {
    const ConvKernel* kernels;
    int64_t count;
};
const List kLists[] = {{with_tiles::kKernels, sizeof with_tiles::kKernels / sizeof(ConvKernel)},
                       {with_vectors::kKernels, sizeof with_vectors::kKernels / sizeof(ConvKernel)}};

}  // namespace
}  // namespace srk

#define SRK_EXPORT extern "C" __attribute__((visibility("default")))

// The name of kernel `index` of a list (0: tiles, 1: vectors) and its channels, pixels and depth; null behind the last.
SRK_EXPORT const char* kernel_of(int64_t list, int64_t index, int64_t* shape) {
    if (index >= srk::kLists[list].count) return nullptr;
    const srk::ConvKernel& kernel = srk::kLists[list].kernels[index];
    shape[0] = kernel.channels, shape[1] = kernel.pixels, shape[2] = kernel.depth;
    return kernel.name;
}

// y = conv(x) + bias, dense, channels last; sizes: see below.
SRK_EXPORT bool convolve(int64_t list, int64_t index, const int64_t* sizes, void* x, const float* weight,
                         const float* bias, void* y) {
    srk::ConvParams p{};
    p.n = sizes[0], p.h = sizes[1], p.w = sizes[2], p.ci = sizes[3];
    p.oh = sizes[4], p.ow = sizes[5], p.co = sizes[6];
    p.kh = sizes[7], p.kw = sizes[8], p.stride_y = sizes[9], p.stride_x = sizes[10];
    p.dilation_y = sizes[11], p.dilation_x = sizes[12], p.pad_top = sizes[13], p.pad_left = sizes[14];
    p.dtype = static_cast<int32_t>(sizes[15]);
    p.x = {x, p.h * p.w * p.ci, p.w * p.ci, p.ci};
    p.y = {y, p.oh * p.ow * p.co, p.ow * p.co, p.co};
    p.weight = weight, p.bias = bias;
    p.step = p.shuffle = p.threads = 1;
    p.scale = 1.0f;
    return srk::kLists[list].kernels[index].run(p);
}
