// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Index maps of the kernels, for the device, the host and tests.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define SRK_BOTH __host__ __device__ __forceinline__
#else
#define SRK_BOTH inline
#endif

namespace srk::cuda {

// n / d and n % d for 0 <= n < 2^31 without a division.
struct Divisor {
    uint32_t d = 1, shift = 0;
    uint64_t factor = uint64_t{1} << 31;

    Divisor() = default;
    explicit constexpr Divisor(uint32_t divisor) : d(divisor), shift(0), factor(0) {
        while ((uint64_t{1} << shift) < d) ++shift;
        factor = ((uint64_t{1} << (31 + shift)) + d - 1) / d;
    }
    SRK_BOTH constexpr uint32_t over(uint32_t n) const {
        return static_cast<uint32_t>(n * factor >> (31 + shift));
    }
    SRK_BOTH constexpr uint32_t rest(uint32_t n) const { return n - over(n) * d; }
};

// Rows of `depth` 16-bit elements lie one after the other; within each, the pieces of 16 bytes are exchanged
// so that the same piece of eight rows, from any row on, lies in different banks.
template <int Depth>
SRK_BOTH constexpr int swizzle(int row) {
    constexpr int pieces = Depth / 8, rows = 8 / pieces;
    return row / rows & (pieces - 1);
}
// Byte offset of piece `piece` of row `row`. The k-th next sixteen channels lie at offset ^ 32*k.
template <int Depth>
SRK_BOTH constexpr uint32_t offset(int row, int piece) {
    return static_cast<uint32_t>(row * Depth * 2 + ((piece ^ swizzle<Depth>(row)) << 4));
}

// A thread of the matrix product holds columns 2t, 2t+1 (t = lane % 4) of each 8 channels. The rows of the
// weights are laid so that these are `Run` adjacent channels of Run/2 such groups: row r holds channel
// `channel_of_row(r)`.
template <int Run>
SRK_BOTH constexpr int channel_of_row(int row) {
    const int within = row % (4 * Run);
    return row - within + within % 8 / 2 * Run + within / 8 * 2 + within % 2;
}

}  // namespace srk::cuda
