// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// 3x3 convolution to at most four channels, the last layer of a network; 16-bit channels_last tensors,
// float32 sums.
//
// Nine taps of so few outputs are one matrix product: pixels are its rows, (tap, output) its columns, and its
// depth is the input channels alone. Each thread loads its part of a pixel from memory straight into the
// operands, so a pixel is read once a tile; the products go to shared memory, from where each conv pixel adds
// up its nine.
#pragma once
#include "cuda/epilogue.cuh"
#include "cuda/index.h"
#include "cuda/ptx.cuh"
#include "params.h"

namespace srk::cuda {

struct TailArgs {
    ConvParams p;
    EpilogueArgs epilogue;
    Divisor tiles_x, tiles_y;
};

template <class T_, int Outputs_, int Chunks_>
struct TailShape {
    using T = T_;
    static constexpr int Outputs = Outputs_;  // 1, 3 or 4
    static constexpr int Chunks = Chunks_;    // of 32 input channels
    static constexpr int TileX = 32, TileY = 16, Threads = 256;
    static constexpr int HaloX = TileX + 2, HaloY = TileY + 2, Halo = HaloX * HaloY;
    static constexpr int Columns = 9 * Outputs, Groups = (Columns + 7) / 8;
    static constexpr int Rounds = (Halo + 16 * Threads / 32 - 1) / (16 * Threads / 32);
    static constexpr int SharedBytes = Columns * Halo * 4;
    static constexpr int Blocks =
        Groups * Chunks > 16 ? 1 : 2;  // that a multiprocessor's registers should hold
    static_assert(Halo % 16 == 4);     // columns 2t and rows g of a fragment: different banks
};

// Packed weights: [chunk of 32 inputs][tap][4 outputs][32], zeros in what is padded.
template <class S>
class Tail {
    using T = typename S::T;

  public:
    __device__ __forceinline__ explicit Tail(const TailArgs& a)
        : a_(a),
          lane_(threadIdx.x & 31),
          warp_(threadIdx.x >> 5),
          sums_(reinterpret_cast<float*>(shared_memory())) {
        const uint32_t row = a.tiles_x.over(blockIdx.x);
        n_ = static_cast<int32_t>(a.tiles_y.over(row));
        x0_ = static_cast<int32_t>(blockIdx.x - row * a.tiles_x.d) * S::TileX;
        y0_ = static_cast<int32_t>(row - n_ * a.tiles_y.d) * S::TileY;
        pixels_ = at<T>(a.p.x, n_, 0, 0) + 8 * (lane_ % 4);
    }

    __device__ __forceinline__ void run() {
        load_weights();
        uint4 pixels[2][S::Chunks];
        load(warp_, pixels);
        SRK_ROLL
        for (int i = 0; i < S::Rounds; ++i) {
            const int group = i * (S::Threads / 32) + warp_;
            float d[S::Groups][4] = {};
            multiply(pixels, d);
            if (i + 1 < S::Rounds) load(group + S::Threads / 32, pixels);
            keep(group, d);
        }
        __syncthreads();
        const Epilogue<T, 4, true> epilogue(a_.p, a_.epilogue, 0);
        SRK_ROLL
        for (int i = threadIdx.x; i < S::TileX * S::TileY; i += S::Threads) {
            const int y = i / S::TileX, x = i % S::TileX;
            if (y0_ + y >= a_.p.oh || x0_ + x >= a_.p.ow) continue;
            float z[4] = {};
            SRK_UNROLL
            for (int tap = 0; tap < 9; ++tap) SRK_UNROLL
            for (int c = 0; c < S::Outputs; ++c)
                z[c] += sums_[(tap * S::Outputs + c) * S::Halo + (y + tap / 3) * S::HaloX + x + tap % 3];
            epilogue(n_, y0_ + y, x0_ + x, z);
        }
    }

  private:
    // Depth k of the product may be any order of the channels, the same for pixels and weights: a thread's
    // four of step 2j + h are channels 32j + 8t + 4h on, t = lane % 4, so that it loads sixteen bytes of a
    // pixel at a time.
    __device__ __forceinline__ void load_weights() {
        const T* packed = reinterpret_cast<const T*>(a_.p.weight);
        SRK_UNROLL
        for (int group = 0; group < S::Groups; ++group) {
            const int column = 8 * group + lane_ / 4, tap = column / S::Outputs, c = column % S::Outputs;
            SRK_UNROLL
            for (int j = 0; j < S::Chunks; ++j) {
                uint4 v{0, 0, 0, 0};
                if (column < S::Columns)
                    v = *reinterpret_cast<const uint4*>(packed + ((j * 9 + tap) * 4 + c) * 32 +
                                                        8 * (lane_ % 4));
                weights_[group][j][0] = v.x, weights_[group][j][1] = v.y;
                weights_[group][j][2] = v.z, weights_[group][j][3] = v.w;
            }
        }
    }

    // A thread's part of pixels `lane / 4` and 8 further of sixteen of the tile with its halo.
    __device__ __forceinline__ void load(int group, uint4 (&pixels)[2][S::Chunks]) const {
        const uint32_t h = static_cast<uint32_t>(a_.p.h), w = static_cast<uint32_t>(a_.p.w);
        const int32_t sy = static_cast<int32_t>(a_.p.x.sy), sx = static_cast<int32_t>(a_.p.x.sx);
        SRK_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int i = 16 * group + 8 * half + lane_ / 4;
            const int y = y0_ + i / S::HaloX - static_cast<int>(a_.p.pad_top);
            const int x = x0_ + i % S::HaloX - static_cast<int>(a_.p.pad_left);
            const bool inside = i < S::Halo && static_cast<uint32_t>(y) < h && static_cast<uint32_t>(x) < w;
            const T* from = pixels_ + (inside ? int64_t{y} * sy + int64_t{x} * sx : 0);
            SRK_UNROLL
            for (int j = 0; j < S::Chunks; ++j) {
                pixels[half][j] = uint4{0, 0, 0, 0};
                if (inside && 32 * j + 8 * (lane_ % 4) < static_cast<int>(a_.p.ci))
                    pixels[half][j] = *reinterpret_cast<const uint4*>(from + 32 * j);
            }
        }
    }

    __device__ __forceinline__ void multiply(const uint4 (&pixels)[2][S::Chunks],
                                             float (&d)[S::Groups][4]) const {
        SRK_UNROLL
        for (int j = 0; j < S::Chunks; ++j) {
            const uint4 &top = pixels[0][j], &bottom = pixels[1][j];
            const uint32_t first[4] = {top.x, bottom.x, top.y, bottom.y};
            const uint32_t second[4] = {top.z, bottom.z, top.w, bottom.w};
            SRK_UNROLL
            for (int group = 0; group < S::Groups; ++group) {
                mma<T>(d[group], first, weights_[group][j][0], weights_[group][j][1]);
                mma<T>(d[group], second, weights_[group][j][2], weights_[group][j][3]);
            }
        }
    }

    __device__ __forceinline__ void keep(int group, const float (&d)[S::Groups][4]) const {
        SRK_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int i = 16 * group + 8 * half + lane_ / 4;
            if (i >= S::Halo) continue;
            SRK_UNROLL
            for (int g = 0; g < S::Groups; ++g) SRK_UNROLL
            for (int k = 0; k < 2; ++k) {
                const int column = 8 * g + 2 * (lane_ % 4) + k;
                if (column < S::Columns) sums_[column * S::Halo + i] = d[g][2 * half + k];
            }
        }
    }

    const TailArgs& a_;
    int lane_, warp_;
    float* sums_;
    int32_t n_, y0_, x0_;
    const T* pixels_;  // of the image, a thread's first channels
    uint32_t weights_[S::Groups][S::Chunks][4];
};

}  // namespace srk::cuda
