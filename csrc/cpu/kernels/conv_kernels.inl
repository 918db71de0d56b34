// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Micro-kernels: Vectors*L output channels by Pixels of a row, sums kept in registers over the whole window.

// Dense: weights [block][kh][kw][ci][Vectors*L], channels in lanes, inputs broadcast.
template <int Vectors, int Pixels>
void direct_block(const ConvParams& p, const Source& source, int64_t block, float* t) {
    constexpr int64_t kChannels = Vectors * L;
    constexpr int kGroups = (Pixels + 3) / 4;
    static_assert(Pixels <= kMaxPixels, "the epilogue has room for kMaxPixels");
    const float* w = p.weight + block * p.kh * p.kw * p.ci * kChannels;
    V sums[Pixels][Vectors];
    const auto clear = [&] {
#pragma GCC unroll 32
        for (int i = 0; i < Pixels; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) sums[i][v] = V{};
    };
    const auto set_aside = [&](bool first) {
#pragma GCC unroll 32
        for (int i = 0; i < Pixels; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) {
                float* at = t + i * kChannels + v * L;
                store(at, first ? sums[i][v] : load(at) + sums[i][v]);
            }
    };
    clear();
    bool first = true;
    int64_t chain = 0;
    const int64_t s = source.pixel;
    // Taps of a row that lie side by side are one run of inputs.
    const bool dense = source.tap == p.ci;
    const int64_t runs = dense ? 1 : p.kw, length = dense ? p.kw * p.ci : p.ci;
    for (int64_t ky = 0; ky < p.kh; ++ky) {
        for (int64_t kx = 0; kx < runs; ++kx) {
            // Four pixels share a pointer, so that all addresses stay in registers.
            const float* x[kGroups];
#pragma GCC unroll 8
            for (int g = 0; g < kGroups; ++g)
                x[g] = source.data + ky * source.row + kx * source.tap + 4 * g * s;
            for (int64_t c = 0; c < length;) {
                if (chain == p.chain) {
                    set_aside(first);
                    clear();
                    first = false;
                    chain = 0;
                }
                const int64_t stop = length - c < p.chain - chain ? length : c + p.chain - chain;
                chain += stop - c;
                for (; c < stop; ++c, w += kChannels) {
#pragma GCC unroll 8
                    for (int g = 0; g < kGroups; ++g)
                        __asm__("" : "+r"(x[g]));  // or they become a pointer a pixel
                    V wv[Vectors];
#pragma GCC unroll 4
                    for (int v = 0; v < Vectors; ++v) {
                        if (Vectors > 1) prefetch(w + 6 * kChannels + v * L);
                        wv[v] = load(w + v * L);
                    }
#pragma GCC unroll 32
                    for (int i = 0; i < Pixels; ++i) {
                        const V xi = splat(x[i / 4][i % 4 * s]);
#pragma GCC unroll 4
                        for (int v = 0; v < Vectors; ++v) sums[i][v] += xi * wv[v];
                    }
#pragma GCC unroll 8
                    for (int g = 0; g < kGroups; ++g) ++x[g];
                }
            }
        }
    }
    set_aside(first);
}

// Few outputs: weights [kh][kw][ceil(ci/L)][Channels][L], inputs in lanes, lanes summed last.
template <int Channels, int Pixels>
void thin_block(const ConvParams& p, const Source& source, int64_t, float* t) {
    const float* w = p.weight;
    V sums[Pixels][Channels];
    const auto clear = [&] {
#pragma GCC unroll 32
        for (int i = 0; i < Pixels; ++i)
#pragma GCC unroll 4
            for (int o = 0; o < Channels; ++o) sums[i][o] = V{};
    };
    const auto set_aside = [&](bool first) {
        constexpr int kSums = Pixels * Channels;
        float flat[(kSums + L - 1) / L * L] __attribute__((aligned(64)));
#pragma GCC unroll 8
        for (int j = 0; j < kSums; j += L) {
            V some[L];
#pragma GCC unroll 16
            for (int k = 0; k < L; ++k)
                some[k] = j + k < kSums ? sums[(j + k) / Channels][(j + k) % Channels] : V{};
            store(flat + j, sums_of(some));
        }
        for (int i = 0; i < Pixels; ++i)
            for (int o = 0; o < Channels; ++o)
                t[i * L + o] = flat[i * Channels + o] + (first ? 0.0f : t[i * L + o]);
    };
    clear();
    bool first = true;
    int64_t chain = 0;
    const int64_t whole = p.ci / L * L;
    for (int64_t ky = 0; ky < p.kh; ++ky) {
        for (int64_t kx = 0; kx < p.kw; ++kx) {
            const float* x = source.data + ky * source.row + kx * source.tap;
            for (int64_t c = 0; c < p.ci; c += L, w += Channels * L) {
                if (chain++ == p.chain) {
                    set_aside(first);
                    clear();
                    first = false;
                    chain = 1;
                }
                V wv[Channels];
#pragma GCC unroll 4
                for (int o = 0; o < Channels; ++o) wv[o] = load(w + o * L);
#pragma GCC unroll 32
                for (int i = 0; i < Pixels; ++i) {
                    const float* xi = x + i * source.pixel + c;
                    const V xv = c < whole ? load(xi) : load_n(xi, p.ci - c);
#pragma GCC unroll 4
                    for (int o = 0; o < Channels; ++o) sums[i][o] += xv * wv[o];
                }
            }
        }
    }
    set_aside(first);
}

// Depthwise: weights [ceil(c/L)][kh][kw][L]; one vector of channels of Pixels pixels into t[Pixels][pitch].
// Where pixels and taps are one step apart and the row has Taps taps, each input is read once for all of them.
template <int Pixels, int Taps, bool Whole>
void depthwise_vector(const ConvParams& p, const Source& source, int64_t channel, int64_t lanes, float* t,
                      int64_t pitch) {
    const float* w = p.weight + channel * p.kh * p.kw;
    V sums[Pixels];
#pragma GCC unroll 32
    for (int i = 0; i < Pixels; ++i) sums[i] = V{};
    for (int64_t ky = 0; ky < p.kh; ++ky) {
        const float* row = source.data + ky * source.row + channel;
        if constexpr (Taps > 0) {
            V wv[Taps];
#pragma GCC unroll 8
            for (int k = 0; k < Taps; ++k, w += L) wv[k] = load(w);
#pragma GCC unroll 32
            for (int j = 0; j < Pixels + Taps - 1; ++j, row += source.pixel) {
                const V x = Whole ? load(row) : load_n(row, lanes);
#pragma GCC unroll 8
                for (int k = 0; k < Taps; ++k)
                    if (j >= k && j - k < Pixels) sums[j - k] += x * wv[k];
            }
        } else {
            for (int64_t kx = 0; kx < p.kw; ++kx, w += L) {
                const float* x = row + kx * source.tap;
                const V wv = load(w);
#pragma GCC unroll 32
                for (int i = 0; i < Pixels; ++i, x += source.pixel)
                    sums[i] += (Whole ? load(x) : load_n(x, lanes)) * wv;
            }
        }
    }
#pragma GCC unroll 32
    for (int i = 0; i < Pixels; ++i) store(t + i * pitch, sums[i]);
}

template <int Pixels, bool Whole>
void depthwise_any(const ConvParams& p, const Source& source, int64_t channel, int64_t lanes, float* t,
                   int64_t pitch) {
    const bool sliding = source.tap == source.pixel;
    if (sliding && p.kw == 3) return depthwise_vector<Pixels, 3, Whole>(p, source, channel, lanes, t, pitch);
    if (sliding && p.kw == 5) return depthwise_vector<Pixels, 5, Whole>(p, source, channel, lanes, t, pitch);
    depthwise_vector<Pixels, 0, Whole>(p, source, channel, lanes, t, pitch);
}

template <int Vectors, int Pixels>
void depthwise_block(const ConvParams& p, const Source& source, int64_t block, float* t) {
    constexpr int64_t kChannels = Vectors * L;
    for (int v = 0; v < Vectors; ++v) {
        const int64_t channel = block * kChannels + v * L, lanes = p.ci - channel;
        if (lanes >= L)
            depthwise_any<Pixels, true>(p, source, channel, L, t + v * L, kChannels);
        else if (lanes > 0)
            depthwise_any<Pixels, false>(p, source, channel, lanes, t + v * L, kChannels);
    }
}

// The kernels of this instruction set, each declared once: its shape fills the registers (16, or 32 with AVX-512).
#if SRK_LANES == 16
#define SRK_DIRECT(X) X(1, 24) X(2, 14) X(3, 8) X(4, 6)
#define SRK_THIN(X) X(1, 12) X(2, 12) X(3, 8) X(4, 6)
#define SRK_DEPTHWISE(X) X(4, 8)
#define SRK_WINOGRAD(X) X(4, 1, 24) X(4, 2, 14) X(4, 3, 8) X(4, 4, 6)
#else
#define SRK_DIRECT(X) X(1, 12) X(2, 6) X(3, 4)
#define SRK_THIN(X) X(1, 8) X(2, 6) X(3, 4) X(4, 2)
#define SRK_DEPTHWISE(X) X(4, 8)
#define SRK_WINOGRAD(X) X(4, 1, 12) X(4, 2, 6) X(4, 3, 4)
#endif

#define SRK_RUN_DIRECT(vectors, pixels)                                                   \
    bool run_direct_##vectors##x##pixels(const ConvParams& p) {                           \
        return drive(p, direct_block<vectors, pixels>, vectors * L, pixels, vectors * L); \
    }
#define SRK_RUN_THIN(channels, pixels)                                      \
    bool run_thin_##channels##x##pixels(const ConvParams& p) {              \
        return drive(p, thin_block<channels, pixels>, L, pixels, channels); \
    }
#define SRK_RUN_DEPTHWISE(vectors, pixels)                                         \
    bool run_depthwise_##vectors##x##pixels(const ConvParams& p) {                 \
        return drive(p, depthwise_block<vectors, pixels>, vectors * L, pixels, 1); \
    }
#define SRK_RUN_WINOGRAD(edge, vectors, tiles)                                                             \
    bool run_winograd##edge##_##vectors##x##tiles(const ConvParams& p) {                                   \
        return drive_winograd<edge>(p, {winograd_product<edge, vectors, tiles>, vectors * L, tiles},       \
                                    {winograd_product<edge, vectors, tiles / 2>, vectors * L, tiles / 2}); \
    }
SRK_WINOGRAD(SRK_RUN_WINOGRAD)
SRK_DIRECT(SRK_RUN_DIRECT)
SRK_THIN(SRK_RUN_THIN)
SRK_DEPTHWISE(SRK_RUN_DEPTHWISE)

#define SRK_ROW_DIRECT(vectors, pixels)                                                    \
    {"direct_" #vectors "x" #pixels, SRK_STR(SRK_ISA), kDirect, vectors * L, pixels, 1, 1, \
     run_direct_##vectors##x##pixels},
#define SRK_ROW_THIN(channels, pixels)                                               \
    {"thin_" #channels "x" #pixels, SRK_STR(SRK_ISA), kThin, channels, pixels, 1, 1, \
     run_thin_##channels##x##pixels},
#define SRK_ROW_DEPTHWISE(vectors, pixels)                                                       \
    {"depthwise_" #vectors "x" #pixels, SRK_STR(SRK_ISA), kDepthwise, vectors * L, pixels, 1, 1, \
     run_depthwise_##vectors##x##pixels},
#define SRK_ROW_WINOGRAD(edge, vectors, tiles)                                                           \
    {"winograd" #edge "_" #vectors "x" #tiles, SRK_STR(SRK_ISA), kWinograd, vectors * L, tiles, edge, 1, \
     run_winograd##edge##_##vectors##x##tiles},
const ConvKernel kKernels[] = {SRK_WINOGRAD(SRK_ROW_WINOGRAD) SRK_DIRECT(SRK_ROW_DIRECT)
                                   SRK_THIN(SRK_ROW_THIN) SRK_DEPTHWISE(SRK_ROW_DEPTHWISE)};
