// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Pixel shuffle and its inverse. Where 16 bytes of either side are neighbours, a thread moves several such
// pieces, which lie together on one side and apart on the other, and exchanges their elements in registers:
// channels_last, the S*S sub-pixels of a few channels, together on the coarse side; contiguous, the S
// sub-pixels of a few pixels of a row, together on the fine side.
#include "cuda/index.h"
#include "cuda/launch.h"
#include "cuda/pointwise.cuh"

namespace srk::cuda {
namespace {

struct ShuffleArgs {
    ShuffleParams p;
    Divisor s, c;
    int64_t rows, length;
    bool pixel_major;
};

// Element by element. Rows of the fine side: (n, y) of x and c, where its channels lie side by side, or
// (n, c, y) of x.

template <class T>
__global__ void shuffle_kernel(const __grid_constant__ ShuffleArgs a) {
    const ShuffleParams& p = a.p;
    const int64_t height = p.h * p.s, planes = a.pixel_major ? 1 : p.c;
    T *const coarse = static_cast<T*>(const_cast<void*>(p.x)), *const fine = static_cast<T*>(p.y);
    for (int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
        const int64_t fy = row % height, plane = row / height % planes, n = row / height / planes;
        const uint32_t cy = a.s.over(static_cast<uint32_t>(fy)), dy = static_cast<uint32_t>(fy) - cy * p.s;
        for (int64_t i = first_index(); i < a.length; i += index_step()) {
            const uint32_t fx = a.pixel_major ? a.c.over(static_cast<uint32_t>(i)) : static_cast<uint32_t>(i);
            const int64_t c = a.pixel_major ? i - int64_t{fx} * p.c : plane;
            const uint32_t cx = a.s.over(fx), dx = fx - cx * p.s;
            T& near = fine[n * p.yn + c * p.yc + fy * p.yy + fx * p.yx];
            T& far = coarse[n * p.xn + ((c * p.s + dy) * p.s + dx) * p.xc + cy * p.xy + cx * p.xx];
            if (p.inverse)
                far = near;
            else
                near = far;
        }
    }
}

// Elements as 16 bytes.
template <class T, int Width>
__device__ __forceinline__ uint4 whole(const Several<T, Width>& a) {
    uint32_t words[4];
    SRK_UNROLL
    for (int i = 0; i < 4; ++i)
        words[i] = sizeof(T) == 4 ? a.v[i] : a.v[2 * i % Width] | uint32_t{a.v[(2 * i + 1) % Width]} << 16;
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// Rows: (n, y) of the coarse side where channels lie side by side, else (n, c, y) of the fine one. Indices of
// a row: (x, pieces of channels), or pieces of x.
template <class T, int S, bool PixelMajor, bool Inverse>
__global__ void shuffle_pieces_kernel(const __grid_constant__ ShuffleArgs a) {
    constexpr int kWidth = 16 / sizeof(T), kPieces = PixelMajor ? S * S : S;
    using Piece = Several<T, kWidth>;
    const ShuffleParams& p = a.p;
    T *const coarse = static_cast<T*>(const_cast<void*>(p.x)), *const fine = static_cast<T*>(p.y);
    for (int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
        for (int64_t i = first_index(); i < a.length; i += index_step()) {
            T *together, *first;   // of the pieces: the k-th lies at
            int64_t down, across;  // first + k / S * down + k % S * across
            if constexpr (PixelMajor) {
                const int64_t n = row / p.h, y = row - n * p.h, x = a.c.over(static_cast<uint32_t>(i));
                const int64_t c = (i - x * a.c.d) * kWidth;
                together = coarse + n * p.xn + y * p.xy + x * p.xx + c * kPieces;
                first = fine + n * p.yn + y * S * p.yy + x * S * p.yx + c;
                down = p.yy, across = p.yx;
            } else {
                const int64_t height = p.h * S, plane = row / height, fy = row - plane * height;
                const int64_t n = plane / p.c, c = plane - n * p.c, y = fy / S, dy = fy - y * S;
                together = fine + n * p.yn + c * p.yc + fy * p.yy + i * kWidth * S;
                first = coarse + n * p.xn + (c * S + dy) * S * p.xc + y * p.xy + i * kWidth;
                down = 0, across = p.xc;
            }
            Piece in[kPieces], out[kPieces];
            constexpr bool kGathers = PixelMajor == Inverse;
            const auto apart = [&](int k) {
                return reinterpret_cast<Piece*>(first + k / S * down + k % S * across);
            };
            SRK_UNROLL
            for (int k = 0; k < kPieces; ++k)
                in[k] = kGathers ? *apart(k) : reinterpret_cast<Piece*>(together)[k];
            SRK_UNROLL
            for (int k = 0; k < kPieces; ++k) SRK_UNROLL
            for (int v = 0; v < kWidth; ++v) {
                const int at = v * kPieces + k;  // where the v-th element of the k-th piece lies together
                if constexpr (kGathers)
                    out[at / kWidth].v[at % kWidth] = in[k].v[v];
                else
                    out[k].v[v] = in[at / kWidth].v[at % kWidth];
            }
            SRK_UNROLL
            for (int k = 0; k < kPieces; ++k) {
                Piece* const to = kGathers ? reinterpret_cast<Piece*>(together) + k : apart(k);
                store_whole(to, whole(out[k]));
            }
        }
    }
}

template <class T, int S, bool PixelMajor>
cudaError_t start_pieces(const ShuffleArgs& a, dim3 grid, cudaStream_t stream) {
    const Launch how{"shuffle_pieces_kernel", grid, kThreads, 0};
    return a.p.inverse ? launch(how, shuffle_pieces_kernel<T, S, PixelMajor, true>, stream, a)
                       : launch(how, shuffle_pieces_kernel<T, S, PixelMajor, false>, stream, a);
}

template <class T, int S>
cudaError_t start_pieces(ShuffleArgs a, cudaStream_t stream) {
    const ShuffleParams& p = a.p;
    const int64_t width = 16 / sizeof(T);
    a.rows = a.pixel_major ? p.n * p.h : p.n * p.c * p.h * S;
    a.length = a.pixel_major ? p.w * (p.c / width) : p.w / width;
    if (a.pixel_major) a.c = Divisor(static_cast<uint32_t>(p.c / width));
    const dim3 grid{blocks_for(a.length), static_cast<unsigned>(std::min<int64_t>(a.rows, 65535))};
    return a.pixel_major ? start_pieces<T, S, true>(a, grid, stream)
                         : start_pieces<T, S, false>(a, grid, stream);
}

template <class T>
cudaError_t start_pieces(const ShuffleArgs& a, cudaStream_t stream) {
    return a.p.s == 2   ? start_pieces<T, 2>(a, stream)
           : a.p.s == 3 ? start_pieces<T, 3>(a, stream)
                        : start_pieces<T, 4>(a, stream);
}

bool is_pixel_major(const ShuffleParams& p) { return p.yc == 1 && p.c > 1; }

}  // namespace

bool shuffles_in_pieces(const ShuffleParams& p) {
    if (p.s < 2 || p.s > 4 || (p.size != 2 && p.size != 4)) return false;
    const int64_t width = 16 / p.size;
    const auto whole = [&](int64_t stride, int64_t extent) { return extent == 1 || stride % width == 0; };
    if (!aligned(p.x, 16) || !aligned(p.y, 16) || !whole(p.xn, p.n) || !whole(p.yn, p.n) ||
        !whole(p.xy, p.h) || !whole(p.yy, p.h * p.s))
        return false;
    if (p.xc == 1 && p.yc == 1) return p.c % width == 0 && whole(p.xx, p.w) && whole(p.yx, p.w * p.s);
    return p.xx == 1 && p.yx == 1 && p.w % width == 0 && whole(p.xc, p.c * p.s * p.s) && whole(p.yc, p.c);
}

const char* shuffle_reason(const ShuffleParams& p) {
    if (p.size != 1 && p.size != 2 && p.size != 4 && p.size != 8)
        return "elements of 1, 2, 4 or 8 bytes alone";
    const int64_t limit = int64_t{1} << 31;
    if (p.w * p.s * (is_pixel_major(p) ? p.c : 1) >= limit) return "a row has 2^31 elements or more";
    return p.h * p.s >= limit ? "there are 2^31 rows or more" : nullptr;
}

cudaError_t shuffle(const ShuffleParams& p, cudaStream_t stream) {
    if (shuffle_reason(p)) return cudaErrorInvalidValue;
    ShuffleArgs a{p, Divisor(static_cast<uint32_t>(p.s)), Divisor(static_cast<uint32_t>(p.c)), 0, 0, false};
    if (shuffles_in_pieces(p)) {
        a.pixel_major = p.xc == 1 && p.yc == 1;
        return p.size == 2 ? start_pieces<uint16_t>(a, stream) : start_pieces<uint32_t>(a, stream);
    }
    a.pixel_major = is_pixel_major(p);
    a.rows = p.n * p.h * p.s * (a.pixel_major ? 1 : p.c);
    a.length = p.w * p.s * (a.pixel_major ? p.c : 1);
    const Launch how{"shuffle_kernel",
                     dim3{blocks_for(a.length), static_cast<unsigned>(std::min<int64_t>(a.rows, 65535))},
                     kThreads, 0};
    return p.size == 1   ? launch(how, shuffle_kernel<uint8_t>, stream, a)
           : p.size == 2 ? launch(how, shuffle_kernel<uint16_t>, stream, a)
           : p.size == 4 ? launch(how, shuffle_kernel<uint32_t>, stream, a)
                         : launch(how, shuffle_kernel<uint64_t>, stream, a);
}

}  // namespace srk::cuda
