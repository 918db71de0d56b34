// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Convolution as a matrix product on tensor cores (mma.sync), 16-bit channels_last tensors, float32 sums:
// pixels are its rows, outputs its columns.
//
// A block of threads computes 16 x 16 conv pixels of `Channels` outputs after another. The tile's pixels and
// their halo, `Depth` input channels at a time, are copied to shared memory once; each tap of the window
// reads them from another row on. Weights stay in shared memory where they fit, else stages of taps pass
// through a ring of slots. Copies of the next pixels and weights are under way while these are multiplied.
#pragma once
#include "cuda/epilogue.cuh"
#include "cuda/index.h"
#include "cuda/ptx.cuh"
#include "params.h"

namespace srk::cuda {

constexpr int kTile = 16;  // conv pixels of a tile, both ways
constexpr int kThreads = 256;

struct Conv2dArgs {
    ConvParams p;
    EpilogueArgs epilogue;
    Divisor tiles_x, tiles_y;
    int32_t tiles;               // of all images
    int32_t gathers;             // see launch.h
    int32_t chunks;              // of Depth inputs
    int32_t taps, columns;       // of the window; 1 where pixels are gathered
    int32_t stages, stage_taps;  // of a chunk: stages * stage_taps = taps
    int32_t slots;               // of a stage each; as many as a tile has stages: weights stay
    int32_t halo_w, halo;        // pixels in a row of a tile with its halo, and in all rows
    int32_t step_y, step_x;      // between the pixels of adjacent conv pixels
    int32_t pixel_bytes, slot_bytes;
};

template <class T_, int Channels_, int Depth_, bool Full_>
struct Conv2dShape {
    using T = T_;
    static constexpr int Channels = Channels_, Depth = Depth_;
    static constexpr bool Full = Full_;
    static constexpr int WarpsN = Channels > 64 ? 2 : 1, WarpsM = kThreads / 32 / WarpsN;
    static constexpr int Rows = kTile / WarpsM;           // rows of the tile that a warp computes
    static constexpr int Groups = Channels / WarpsN / 8;  // and groups of 8 outputs
    static constexpr int Run = Groups % 4 == 0 ? 8 : Groups % 2 == 0 ? 4 : 2;
    static constexpr int Pieces = Depth / 8;  // of 16 bytes
    static constexpr int Blocks =
        Groups * Rows > (Full ? 12 : 16) ? 1 : 2;  // that a multiprocessor's registers should hold
};

// Conv pixels (y0 ..., x0 ...) of image n.
struct TilePlace {
    int32_t n, y0, x0;
    __device__ __forceinline__ TilePlace(const Conv2dArgs& a, int tile) {
        const uint32_t row = a.tiles_x.over(tile);
        n = static_cast<int32_t>(a.tiles_y.over(row));
        x0 = static_cast<int32_t>(tile - row * a.tiles_x.d) * kTile;
        y0 = static_cast<int32_t>(row - n * a.tiles_y.d) * kTile;
    }
};

template <class S>
class Conv2d {
    using T = typename S::T;

  public:
    __device__ __forceinline__ explicit Conv2d(const Conv2dArgs& a)
        : a_(a),
          thread_(threadIdx.x),
          lane_(thread_ & 31),
          warp_m_((thread_ >> 5) % S::WarpsM),
          warp_n_((thread_ >> 5) / S::WarpsM),
          pixels_(shared_address(shared_memory())),
          weights_(pixels_ + 2 * a.pixel_bytes) {}

    __device__ __forceinline__ void run() {
        const int first = blockIdx.x, every = gridDim.x;
        if (first >= a_.tiles) return;
        const int stages = a_.chunks * a_.stages;  // of a tile
        const bool stay = a_.slots == stages;
        // Stages of weights that are copied ahead, in all tiles of this block.
        int64_t to_come = stay ? stages : static_cast<int64_t>((a_.tiles - 1 - first) / every + 1) * stages;
        int ahead = 0, ahead_slot = 0;
        const auto copy_next_weights = [&] {
            if (to_come == 0) return;
            copy_weights(ahead, ahead_slot);
            --to_come;
            if (++ahead == stages) ahead = 0;
            if (++ahead_slot == a_.slots) ahead_slot = 0;
        };
        copy_pixels(first, 0, 0);
        for (int i = 0; i < (stay ? stages : a_.slots - 1); ++i) {
            copy_next_weights();
            if (!stay) copy_commit();
        }
        if (stay) copy_commit();

        const int pending = stay ? 0 : a_.slots - 2;  // groups of weights that may be under way
        const int pending_first = pending < a_.stages - 1 ? pending : a_.stages - 1;  // and pixels must not
        int slot = 0, buffer = 0;
        for (int tile = first; tile < a_.tiles; tile += every) {
            clear();
            for (int chunk = 0; chunk < a_.chunks; ++chunk, buffer ^= 1) {
                int y = 0, x = 0;
                for (int stage = 0; stage < a_.stages; ++stage) {
                    wait(stage ? pending : pending_first);
                    __syncthreads();  // these have landed for all; the slot and buffer before are free
                    if (stage == 0) {
                        if (chunk + 1 < a_.chunks)
                            copy_pixels(tile, chunk + 1, buffer ^ 1);
                        else if (tile + every < a_.tiles)
                            copy_pixels(tile + every, 0, buffer ^ 1);
                    }
                    if (!stay) copy_next_weights();
                    copy_commit();
                    SRK_ROLL
                    for (int tap = 0; tap < a_.stage_taps; ++tap) {
                        multiply(pixels_ + buffer * a_.pixel_bytes, y * a_.halo_w + x,
                                 weights_ + slot * a_.slot_bytes + tap * S::Channels * S::Depth * 2);
                        if (++x == a_.columns) x = 0, ++y;
                    }
                    if (++slot == a_.slots) slot = 0;
                }
            }
            finish(tile);
        }
    }

  private:
    __device__ __forceinline__ void clear() {
        SRK_UNROLL
        for (int m = 0; m < S::Rows; ++m) SRK_UNROLL
        for (int g = 0; g < S::Groups; ++g) SRK_UNROLL
        for (int i = 0; i < 4; ++i) sums_[m][g][i] = 0.0f;
    }

    static __device__ __forceinline__ void wait(int pending) {
        if (pending == 0)
            copy_wait<0>();
        else if (pending == 1)
            copy_wait<1>();
        else
            copy_wait<2>();
    }

    // Stage `stage` of a tile, the same for all tiles.
    __device__ __forceinline__ void copy_weights(int stage, int slot) const {
        const int64_t rows = static_cast<int64_t>(a_.stage_taps) * S::Channels;
        const T* from = reinterpret_cast<const T*>(a_.p.weight) +
                        (static_cast<int64_t>(blockIdx.y) * a_.chunks * a_.stages + stage) * rows * S::Depth;
        const uint32_t to = weights_ + slot * a_.slot_bytes;
        for (int i = thread_; i < rows * S::Pieces; i += kThreads) {
            const int row = i / S::Pieces, piece = i % S::Pieces, within = row % S::Channels;
            const int source = row - within + channel_of_row<S::Run>(within);
            copy_async(to + offset<S::Depth>(row, piece), from + source * S::Depth + piece * 8, 16);
        }
    }

    __device__ __forceinline__ void copy_pixels(int tile, int chunk, int buffer) const {
        const TilePlace t(a_, tile);
        const uint32_t to = pixels_ + buffer * a_.pixel_bytes;
        if (a_.gathers)
            gather(t, chunk, to);
        else
            copy_halo(t, chunk, to);
    }

    // Each thread copies one piece of every few pixels; what lies outside the picture or has no channel is
    // zero.
    __device__ __forceinline__ void copy_halo(const TilePlace& t, int chunk, uint32_t to) const {
        constexpr int kStep = kThreads / S::Pieces;
        const ConvParams& p = a_.p;
        const int piece = thread_ % S::Pieces, h = static_cast<int>(p.h), w = static_cast<int>(p.w);
        const int c = chunk * S::Depth + piece * 8, left = static_cast<int>(p.ci) - c;
        const int bytes = left >= 8 ? 16 : left > 0 ? 2 * left : 0;
        const T* picture = static_cast<const T*>(p.x.data) + t.n * p.x.sn + (left > 0 ? c : 0);
        const int top = t.y0 * static_cast<int>(p.stride_y) - static_cast<int>(p.pad_top);
        const int first = t.x0 * static_cast<int>(p.stride_x) - static_cast<int>(p.pad_left);
        int pixel = thread_ / S::Pieces, y = pixel / a_.halo_w, x = pixel - y * a_.halo_w;
        const int dy = kStep / a_.halo_w, dx = kStep - dy * a_.halo_w;
        for (; pixel < a_.halo; pixel += kStep) {
            const int iy = top + y, ix = first + x;
            const bool inside = static_cast<uint32_t>(iy) < static_cast<uint32_t>(h) &&
                                static_cast<uint32_t>(ix) < static_cast<uint32_t>(w);
            copy_async(to + offset<S::Depth>(pixel, piece),
                       inside ? picture + iy * p.x.sy + ix * p.x.sx : picture, inside ? bytes : 0);
            y += dy, x += dx;
            if (x >= a_.halo_w) x -= a_.halo_w, ++y;
        }
    }

    // Inputs [chunk*Depth, ...) of each conv pixel's window, tap-major, element by element.
    __device__ __forceinline__ void gather(const TilePlace& t, int chunk, uint32_t to) const {
        const ConvParams& p = a_.p;
        const int ci = static_cast<int>(p.ci), kw = static_cast<int>(p.kw),
                  all = ci * kw * static_cast<int>(p.kh);
        const int h = static_cast<int>(p.h), w = static_cast<int>(p.w);
        const int piece = thread_ % S::Pieces, k0 = chunk * S::Depth + piece * 8;
        const int tap0 = k0 / ci, c0 = k0 - tap0 * ci, ky0 = tap0 / kw, kx0 = tap0 - ky0 * kw;
        const T* picture = static_cast<const T*>(p.x.data) + t.n * p.x.sn;
        char* const memory = shared_memory();
        for (int pixel = thread_ / S::Pieces; pixel < kTile * kTile; pixel += kThreads / S::Pieces) {
            const int top =
                (t.y0 + pixel / kTile) * static_cast<int>(p.stride_y) - static_cast<int>(p.pad_top);
            const int first =
                (t.x0 + pixel % kTile) * static_cast<int>(p.stride_x) - static_cast<int>(p.pad_left);
            int c = c0, ky = ky0, kx = kx0;
            uint32_t words[4];
            SRK_UNROLL
            for (int i = 0; i < 8; ++i) {
                const int iy = top + ky * static_cast<int>(p.dilation_y);
                const int ix = first + kx * static_cast<int>(p.dilation_x);
                const bool inside = k0 + i < all && static_cast<uint32_t>(iy) < static_cast<uint32_t>(h) &&
                                    static_cast<uint32_t>(ix) < static_cast<uint32_t>(w);
                const uint32_t bits = inside ? picture[iy * p.x.sy + ix * p.x.sx + c].bits : 0;
                words[i / 2] = i % 2 ? words[i / 2] | bits << 16 : bits;
                if (++c == ci) {
                    c = 0;
                    if (++kx == kw) kx = 0, ++ky;
                }
            }
            *reinterpret_cast<uint4*>(memory + (to - pixels_) + offset<S::Depth>(pixel, piece)) = {
                words[0], words[1], words[2], words[3]};
        }
    }

    // One tap: the pixels that lie `shift` after each conv pixel's own, times the weights at `weights`.
    __device__ __forceinline__ void multiply(uint32_t pixels, int shift, uint32_t weights) {
        uint32_t rows[S::Rows];
        const int first = warp_m_ * S::Rows;
        SRK_UNROLL
        for (int m = 0; m < S::Rows; ++m) {
            const int pixel = (first + m) * a_.step_y * a_.halo_w + (lane_ & 15) * a_.step_x + shift;
            rows[m] = pixels + offset<S::Depth>(pixel, lane_ >> 4);
        }
        const int row = S::Groups > 1 ? (lane_ & 7) + (lane_ >> 4) * 8 : lane_ & 7;
        const uint32_t columns = weights + offset<S::Depth>(warp_n_ * S::Groups * 8 + row, lane_ >> 3 & 1);
        SRK_UNROLL
        for (int k = 0; k < S::Depth / 16; ++k) {
            uint32_t x[S::Rows][4];
            SRK_UNROLL
            for (int m = 0; m < S::Rows; ++m) load_matrices(x[m], rows[m] ^ k << 5);
            if constexpr (S::Groups == 1) {
                uint32_t w[2];
                load_matrices(w, columns ^ k << 5);
                SRK_UNROLL
                for (int m = 0; m < S::Rows; ++m) mma<T>(sums_[m][0], x[m], w[0], w[1]);
            } else {
                SRK_UNROLL
                for (int g = 0; g < S::Groups; g += 2) {
                    uint32_t w[4];
                    load_matrices(w, (columns ^ k << 5) + g * 8 * S::Depth * 2);
                    SRK_UNROLL
                    for (int m = 0; m < S::Rows; ++m) {
                        mma<T>(sums_[m][g], x[m], w[0], w[1]);
                        mma<T>(sums_[m][g + 1], x[m], w[2], w[3]);
                    }
                }
            }
        }
    }

    __device__ __forceinline__ void finish(int tile) {
        const TilePlace t(a_, tile);
        const int q0 = blockIdx.y * S::Channels + warp_n_ * S::Groups * 8 + (lane_ & 3) * S::Run;
        const int oh = static_cast<int>(a_.p.oh), ow = static_cast<int>(a_.p.ow);
        SRK_UNROLL
        for (int run = 0; run < S::Groups * 2 / S::Run; ++run) {
            const int q = q0 + run * 4 * S::Run;
            if (q >= static_cast<int>(a_.p.co)) break;
            const Epilogue<T, S::Run, S::Full> epilogue(a_.p, a_.epilogue, q);
            SRK_UNROLL
            for (int m = 0; m < S::Rows; ++m) SRK_UNROLL
            for (int half = 0; half < 2; ++half) {
                const int oy = t.y0 + warp_m_ * S::Rows + m, ox = t.x0 + (lane_ >> 2) + half * 8;
                if (oy >= oh || ox >= ow) continue;
                float z[S::Run];
                SRK_UNROLL
                for (int i = 0; i < S::Run; ++i) z[i] = sums_[m][run * S::Run / 2 + i / 2][half * 2 + i % 2];
                epilogue(t.n, oy, ox, z);
            }
        }
    }

    const Conv2dArgs& a_;
    const int thread_, lane_, warp_m_, warp_n_;
    const uint32_t pixels_, weights_;
    float sums_[S::Rows][S::Groups][4];
};

template <class S>
__global__ void __launch_bounds__(kThreads, S::Blocks) conv2d_sm80(const __grid_constant__ Conv2dArgs a) {
    Conv2d<S>(a).run();
}

// The kernels of one type, in the order of conv2d_kernels().
using Conv2dFunction = void (*)(Conv2dArgs);
extern Conv2dFunction const conv2d_float16[], conv2d_bfloat16[];

template <class T>
struct Conv2dTable;

// name, outputs, depth, whether it takes every epilogue
#define SRK_CONV2D_KERNELS(K)              \
    K("conv2d_sm80/8", 8, 32, true)        \
    K("conv2d_sm80/32x16", 32, 16, false)  \
    K("conv2d_sm80/32", 32, 32, false)     \
    K("conv2d_sm80/32_full", 32, 32, true) \
    K("conv2d_sm80/48_full", 48, 32, true) \
    K("conv2d_sm80/64", 64, 32, false)     \
    K("conv2d_sm80/64_full", 64, 32, true) \
    K("conv2d_sm80/64x64", 64, 64, false)  \
    K("conv2d_sm80/128", 128, 32, false)

}  // namespace srk::cuda
