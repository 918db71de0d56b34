// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// AVX512-BF16: outputs in lanes, pairs of inputs broadcast, Vectors x Pixels sums in registers over the whole window.

template <int Vectors, int Pixels>
void bf16_block(const StripPlan& plan, const uint16_t* const* from, const uint16_t* w, float* t) {
    constexpr int64_t kChannels = Vectors * L;
    constexpr int kGroups = (Pixels + 3) / 4;
    static_assert(Pixels <= kMaxPixels, "the epilogue has room for kMaxPixels");
    const ConvParams& p = *plan.p;
    const int64_t s = plan.strides.pixel;
    V sums[Pixels][Vectors];
#pragma GCC unroll 32
    for (int i = 0; i < Pixels; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) sums[i][v] = V{};
    for (int64_t ky = 0; ky < p.kh; ++ky) {
        for (int64_t kx = 0; kx < p.kw; ++kx) {
            // Four pixels share a pointer, so that all addresses stay in registers.
            const uint16_t* x[kGroups];
#pragma GCC unroll 8
            for (int g = 0; g < kGroups; ++g)
                x[g] = from[0] + ky * p.dilation_y * plan.strides.row + kx * plan.strides.tap + 4 * g * s;
            for (int64_t c = 0; c < plan.ci; c += 2, w += 2 * kChannels) {
#pragma GCC unroll 8
                for (int g = 0; g < kGroups; ++g)
                    __asm__("" : "+r"(x[g]));  // or they become a pointer a pixel
                VI wv[Vectors];
#pragma GCC unroll 4
                for (int v = 0; v < Vectors; ++v) wv[v] = (VI)load(reinterpret_cast<const float*>(w) + v * L);
#pragma GCC unroll 32
                for (int i = 0; i < Pixels; ++i) {
                    int32_t pair;
                    __builtin_memcpy(&pair, x[i / 4] + i % 4 * s, 4);
                    const VI xi = VI{} + pair;
#pragma GCC unroll 4
                    for (int v = 0; v < Vectors; ++v) sums[i][v] = add_products(sums[i][v], xi, wv[v]);
                }
#pragma GCC unroll 8
                for (int g = 0; g < kGroups; ++g) x[g] += 2;
            }
        }
    }
#pragma GCC unroll 32
    for (int i = 0; i < Pixels; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) store(t + i * kChannels + v * L, sums[i][v]);
}

void run_with_vectors(const void* context, int64_t begin, int64_t end) {
    run_strips(*static_cast<StripPlan*>(const_cast<void*>(context)), begin, end);
}

#define SRK_BF16(X) X(1, 24) X(2, 14) X(3, 8) X(4, 6)
#define SRK_RUN_BF16(vectors, pixels)                                                                \
    bool run_bf16_##vectors##x##pixels(const ConvParams& p) {                                        \
        return drive(p, {bf16_block<vectors, pixels>, vectors * L, pixels, 1, 2}, run_with_vectors); \
    }
SRK_BF16(SRK_RUN_BF16)

#define SRK_ROW_BF16(vectors, pixels)                                                  \
    {"bf16_" #vectors "x" #pixels, SRK_STR(SRK_ISA), kBf16, vectors * L, pixels, 1, 2, \
     run_bf16_##vectors##x##pixels},
const ConvKernel kKernels[] = {SRK_BF16(SRK_ROW_BF16)};
