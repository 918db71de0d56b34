// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// 3x3 convolution on Hopper's tensor cores with the whole epilogue, 16-bit channels_last tensors, float32 sums.
//
// Weights are the matrix product's rows (64 output channels) and stay in shared memory; pixels are its columns. A tile
// is 16 x 32 pixels; the copy engine fetches it with its halo, 18 x 34 pixels of 64 channels, once, zeros outside the
// picture. Each of two warpgroups computes 8 x 32 pixels: eight adjacent pixels are one group of rows of the operand,
// the next group is the next picture row, and a tap is a shifted view of the same tile.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>

#include "../params.h"
#include "ptx_sm90.cuh"

namespace srk::sm90 {

constexpr int kChannels = 64;  // of a block of outputs, and of a chunk of inputs
constexpr int kTaps = 9;
constexpr int kTileX = 16, kTileY = 32;
constexpr int kHaloX = kTileX + 2, kHaloY = kTileY + 2;
constexpr uint32_t kPixelBytes = kChannels * 2;
constexpr uint32_t kTapBytes = kChannels * kPixelBytes;
constexpr uint32_t kSlotBytes = 3 * kTapBytes;  // a row of taps
constexpr uint32_t kWeightBytes = kTaps * kTapBytes;
constexpr uint32_t kHaloBytes = kHaloX * kHaloY * kPixelBytes;
constexpr uint32_t kStageBytes = (kHaloBytes + 1023) / 1024 * 1024;
constexpr int kStages = 2;
constexpr uint32_t kBarrierOffset = kWeightBytes + kHaloBytes;  // between the first stage and the second
constexpr uint32_t kSharedBytes = kWeightBytes + kStages * kStageBytes + 1024;
constexpr int kConsumers = 256, kThreads = kConsumers + 128;
// Registers of a thread: a third of the file's share at the start, then the consumers' need.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

static_assert(kStageBytes - kHaloBytes >= 16 * sizeof(uint64_t));
static_assert(kWeightBytes % 1024 == 0 && kSharedBytes <= 232448);

// How the tile lies in shared memory: pixels of 128 bytes, swizzled, or planes of eight channels, pixels of 16 bytes.
enum Layout { kSwizzled, kPlanes };

// Weights stay in shared memory (at most 64 input channels) or pass through it, chunk by chunk.
enum Weights { kResident, kStreamed };

// Whether the warpgroups take turns at the tensor cores, so that one finishes its tile while the other multiplies.
enum Turns { kFree, kInTurn };

// Row of a 64-row operand that computes output channel `row_channel(row)` of its block. Rows 2t, 2t+1, 8+2t and 9+2t
// of sixteen are four adjacent channels: what a thread holds after two transposes.
__host__ __device__ constexpr int row_channel(int row) {
    return (row & ~15) + 4 * ((row & 7) >> 1) + (row & 1) + ((row & 8) >> 2);
}

// Where input channel `c` of the operand's row `row`, tap `tap`, of one chunk and block lies in packed weights.
__host__ __device__ constexpr int weight_index(int tap, int row, int c) {
    return (tap * kChannels + row) * kChannels + ((c >> 3 ^ (row & 7)) << 3 | (c & 7));
}

struct Plan {
    int tiles_x, tiles_y, tiles, blocks, chunks;
};

template <typename T>
__device__ inline uint32_t pack(float low, float high) {
    if constexpr (std::is_same_v<T, __half>) {
        const __half2 v = __floats2half2_rn(low, high);
        return reinterpret_cast<const uint32_t&>(v);
    } else {
        const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
        return reinterpret_cast<const uint32_t&>(v);
    }
}

template <typename T>
__device__ inline float2 unpack(uint32_t v) {
    if constexpr (std::is_same_v<T, __half>)
        return __half22float2(reinterpret_cast<const __half2&>(v));
    else
        return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(v));
}

// How a thread's four packed channels lie in every tensor of the epilogue: eight aligned bytes, or anywhere.
enum Access { kVector, kScalar };

// Four packed channels of one pixel column of a tensor, as one thread stores and loads them.
template <typename T, Access kAccess>
struct Quad {
    T* first;           // of the tile's top row
    int64_t row;        // from a row of conv pixels to the next
    int32_t offset[4];  // of the channels, from `first`
    int count;          // channels that exist
    int rows;           // of the tile inside the picture; none if the column lies outside

    __device__ uint2 load(const T* p, bool inside) const {
        if constexpr (kAccess == kVector) {
            return inside ? *reinterpret_cast<const uint2*>(p) : make_uint2(0, 0);
        } else {
            uint32_t v[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                v[i] = inside && i < count ? *reinterpret_cast<const unsigned short*>(p + offset[i]) : 0;
            return make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
        }
    }

    __device__ void store(T* p, bool inside, uint2 v) const {
        if constexpr (kAccess == kVector) {
            if (inside) *reinterpret_cast<uint2*>(p) = v;
        } else {
            const uint32_t words[2] = {v.x, v.y};
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (inside && i < count)
                    *reinterpret_cast<unsigned short*>(p + offset[i]) =
                        static_cast<unsigned short>(words[i / 2] >> 16 * (i % 2));
        }
    }
};

// A tile's column of a thread: image n, conv pixels (y.., x), packed channels q..q+3.
struct Place {
    int64_t n, y, x;
    int q, co, rows;
};

// Where packed channel q of conv pixel (0, 0) lies in a view.
__host__ __device__ inline int64_t channel_offset(const View& v, int q, int co, int shuffle) {
    const int group = co / (shuffle * shuffle), sub = q / group;
    return (sub / shuffle) * v.sy + (sub % shuffle) * v.sx + q % group;
}

// `step`, `py`, `px`: conv pixel to position of the view; `shuffle`: packed channels to sub-pixels.
template <typename T, Access kAccess>
__device__ inline Quad<T, kAccess> quad(const View& v, const Place& at, int step, int py, int px,
                                        int shuffle) {
    Quad<T, kAccess> r;
    const int64_t first = channel_offset(v, at.q, at.co, shuffle);
    if constexpr (kAccess == kScalar) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            r.offset[i] = static_cast<int32_t>(channel_offset(v, at.q + i, at.co, shuffle) - first);
    }
    r.count = min(max(at.co - at.q, 0), 4);
    r.rows = r.count > 0 ? at.rows : 0;
    r.row = v.sy * step;
    r.first =
        static_cast<T*>(v.data) + at.n * v.sn + (at.y * step + py) * v.sy + (at.x * step + px) * v.sx + first;
    return r;
}

// Walks down a tensor's rows, in a form that the compiler doesn't turn into one address a row: those would fill the
// registers.
template <typename T>
struct Walk {
    size_t address, pitch;  // in the global window

    template <typename Q>
    __device__ explicit Walk(const Q& q)
        : address(__cvta_generic_to_global(q.first)), pitch(q.row * sizeof(T)) {}

    __device__ T* at() const { return static_cast<T*>(__cvta_global_to_generic(address)); }
    __device__ void next() {
        address += pitch;
        asm volatile("" : "+l"(address));
    }
};

// acc += weight * tensor. Values come as (pixel, channel) and are transposed to the accumulators' (channel, pixel).
template <typename T, Access kAccess>
__device__ inline void add(float (&acc)[128], const Quad<T, kAccess>& from, float weight) {
    constexpr int kBatch = 8;  // loads in flight
    Walk<T> walk(from);
#pragma unroll
    for (int y0 = 0; y0 < kTileY; y0 += kBatch) {
        uint2 v[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i, walk.next()) v[i] = from.load(walk.at(), y0 + i < from.rows);
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            float* a = acc + 4 * (y0 + i);
            const float2 top = unpack<T>(transpose8x8(v[i].x)), bottom = unpack<T>(transpose8x8(v[i].y));
            a[0] = fmaf(weight, top.x, a[0]);
            a[1] = fmaf(weight, top.y, a[1]);
            a[2] = fmaf(weight, bottom.x, a[2]);
            a[3] = fmaf(weight, bottom.y, a[3]);
        }
    }
}

template <typename T, Access kAccess>
__device__ inline void store(const float (&acc)[128], const Quad<T, kAccess>& to) {
    Walk<T> walk(to);
#pragma unroll
    for (int y = 0; y < kTileY; ++y, walk.next()) {
        const float* a = acc + 4 * y;
        const uint32_t top = transpose8x8(pack<T>(a[0], a[1])), bottom = transpose8x8(pack<T>(a[2], a[3]));
        to.store(walk.at(), y < to.rows, make_uint2(top, bottom));
    }
}

template <typename F>
__device__ inline void each(float (&acc)[128], F f) {
#pragma unroll
    for (int i = 0; i < 128; ++i) acc[i] = f(acc[i], (i & 2) != 0);
}

__device__ inline float max_nan(float a, float b) {
    float d;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
    return d;
}

// Slopes are those of the thread's two output channels.
__device__ inline void activate(float (&acc)[128], int act, float top, float bottom) {
    switch (act) {
        case kRelu:
            each(acc, [](float v, bool) { return max_nan(v, 0.f); });
            break;
        case kLeakyRelu:
        case kPrelu:
            each(acc, [=](float v, bool low) { return v < 0 ? (low ? bottom : top) * v : v; });
            break;
        case kSilu:
            each(acc, [](float v, bool) { return __fdividef(v, 1 + __expf(-v)); });
            break;
        case kSigmoid:
            each(acc, [](float v, bool) { return __fdividef(1.f, 1 + __expf(-v)); });
            break;
    }
}

template <typename T, Access kAccess>
__device__ inline void epilogue(float (&acc)[128], const ConvParams& p, const Place& at, int row_top,
                                int row_bottom) {
    const float bias_top = p.bias[row_top], bias_bottom = p.bias[row_bottom];
    float slope_top = p.slope, slope_bottom = p.slope;
    if (p.act == kPrelu) slope_top = p.prelu[row_top], slope_bottom = p.prelu[row_bottom];
    each(acc, [=](float v, bool low) { return v + (low ? bias_bottom : bias_top); });
    if (!p.act_after_add) activate(acc, p.act, slope_top, slope_bottom);
    if (p.scale != 1) each(acc, [&](float v, bool) { return v * p.scale; });
    const int s = p.shuffle, out_step = p.step * s;
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
        const View& v = i ? p.res2 : p.res1;
        if (v.data) add(acc, quad<T, kAccess>(v, at, p.step, p.phase_y, p.phase_x, 1), i ? p.b2 : p.b1);
    }
    if (p.act_after_add) activate(acc, p.act, slope_top, slope_bottom);
    if (p.base_mode == kBaseSame)
        add(acc, quad<T, kAccess>(p.base, at, out_step, p.phase_y * s, p.phase_x * s, s), 1.f);
    store(acc, quad<T, kAccess>(p.y, at, out_step, p.phase_y * s, p.phase_x * s, s));
}

template <Layout kLayout>
__device__ inline uint64_t tile_descriptor(uint32_t tile, int pixel, int k) {
    if constexpr (kLayout == kSwizzled)
        return descriptor_swizzled(tile + pixel * kPixelBytes + k * 32, kHaloX * kPixelBytes);
    else
        return descriptor_planes(tile + pixel * 16 + k * 2 * (kHaloBytes / 8), kHaloBytes / 8, kHaloX * 16);
}

template <typename T, Layout kLayout, Weights kWeights, Turns kTurns, Access kAccess>
__global__ void __launch_bounds__(kThreads, 1)
    conv3x3(const __grid_constant__ CUtensorMap map, const __grid_constant__ ConvParams p,
            const __grid_constant__ Plan plan) {
    extern __shared__ uint8_t shared[];
    const uint32_t weights = (shared_address(shared) + 1023) & ~1023u;
    const uint32_t tiles = weights + kWeightBytes;
    const uint32_t tile_full = weights + kBarrierOffset, tile_empty = tile_full + 8 * kStages;
    const uint32_t slot_full = tile_empty + 8 * kStages, slot_empty = slot_full + 8 * 3;
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, group = warp / 4;
    const int block = blockIdx.x % plan.blocks, tile0 = blockIdx.x / plan.blocks,
              stride = gridDim.x / plan.blocks;

    if (threadIdx.x == 0) {
        for (int i = 0; i < kStages; ++i) {
            mbarrier_init(tile_full + 8 * i, 1);
            mbarrier_init(tile_empty + 8 * i, kConsumers / 32);
        }
        for (int i = 0; i < 3; ++i) {
            mbarrier_init(slot_full + 8 * i, 1);
            mbarrier_init(slot_empty + 8 * i, kConsumers / 32);
        }
        fence_mbarrier_init();
    }
    __syncthreads();

    if (group == kConsumers / 128) {
        registers_release<kProducerRegisters>();
        if (threadIdx.x == kConsumers) {
            prefetch_map(&map);
            const auto* packed = static_cast<const uint8_t*>(static_cast<const void*>(p.weight)) +
                                 size_t(block) * plan.chunks * kWeightBytes;
            int step = 0;  // chunks of tiles so far
            for (int tile = tile0; tile < plan.tiles; tile += stride) {
                const int n = tile / (plan.tiles_x * plan.tiles_y), ty = tile / plan.tiles_x % plan.tiles_y;
                const int x = tile % plan.tiles_x * kTileX - static_cast<int>(p.pad_left);
                const int y = ty * kTileY - static_cast<int>(p.pad_top);
                for (int chunk = 0; chunk < plan.chunks; ++chunk, ++step) {
                    const int stage = step % kStages;
                    mbarrier_wait(tile_empty + 8 * stage, (step / kStages & 1) ^ 1);
                    mbarrier_expect(tile_full + 8 * stage, kHaloBytes);
                    const uint32_t to = tiles + stage * kStageBytes;
                    if constexpr (kLayout == kSwizzled)
                        tensor_copy(to, &map, chunk * kChannels, x, y, n, tile_full + 8 * stage);
                    else
                        tensor_copy(to, &map, 0, x, y, chunk * 8, n, tile_full + 8 * stage);
                    if (kWeights == kResident && step > 0) continue;
                    for (int slot = 0; slot < 3; ++slot) {
                        mbarrier_wait(slot_empty + 8 * slot, (step & 1) ^ 1);
                        mbarrier_expect(slot_full + 8 * slot, kSlotBytes);
                        bulk_copy(weights + slot * kSlotBytes,
                                  packed + size_t(chunk) * kWeightBytes + slot * kSlotBytes, kSlotBytes,
                                  slot_full + 8 * slot);
                    }
                }
            }
        }
    } else {
        registers_request<kConsumerRegisters>();
        const int rows16 = (warp % 4) * 16;
        const int row_top = block * kChannels + row_channel(rows16 + lane / 4);
        float acc[128] = {};
        if (kTurns == kInTurn && group == 1) named_arrive(1, kConsumers);
        if (kWeights == kResident)
            for (int slot = 0; slot < 3; ++slot) mbarrier_wait(slot_full + 8 * slot, 0);
        int step = 0;
        for (int tile = tile0; tile < plan.tiles; tile += stride) {
            if constexpr (kTurns == kInTurn) named_sync(1 + group, kConsumers);
            for (int chunk = 0; chunk < plan.chunks; ++chunk, ++step) {
                const int stage = step % kStages;
                mbarrier_wait(tile_full + 8 * stage, step / kStages & 1);
                const uint32_t pixels = tiles + stage * kStageBytes;
                if constexpr (kWeights == kResident) wgmma_begin();
#pragma unroll
                for (int slot = 0; slot < 3; ++slot) {
                    if constexpr (kWeights == kStreamed) {
                        mbarrier_wait(slot_full + 8 * slot, step & 1);
                        wgmma_begin();
                    }
#pragma unroll
                    for (int dx = 0; dx < 3; ++dx)
#pragma unroll
                        for (int k = 0; k < kChannels / 16; ++k)
                            wgmma<T>(acc,
                                     descriptor_swizzled(weights + (slot * 3 + dx) * kTapBytes + k * 32,
                                                         8 * kPixelBytes),
                                     tile_descriptor<kLayout>(pixels, slot * kHaloX + dx + 8 * group, k),
                                     chunk + slot + dx + k > 0);
                    if constexpr (kWeights == kStreamed) {
                        wgmma_commit();
                        if (slot > 0) {
                            wgmma_wait<1>();
                            if (lane == 0) mbarrier_arrive(slot_empty + 8 * (slot - 1));
                        }
                    }
                }
                if constexpr (kWeights == kResident) wgmma_commit();
                if (kTurns == kInTurn && (group == 0 || tile + stride < plan.tiles))
                    named_arrive(2 - group, kConsumers);
                wgmma_wait<0>();
                if (lane == 0) {
                    mbarrier_arrive(tile_empty + 8 * stage);
                    if constexpr (kWeights == kStreamed) mbarrier_arrive(slot_empty + 8 * 2);
                }
            }
            const int n = tile / (plan.tiles_x * plan.tiles_y), ty = tile / plan.tiles_x % plan.tiles_y;
            const int x = tile % plan.tiles_x * kTileX + 8 * group + lane / 4, y = ty * kTileY;
            const int rows = x < p.ow ? min(kTileY, static_cast<int>(p.oh) - y) : 0;
            const int q = block * kChannels + rows16 + 4 * (lane % 4);
            epilogue<T, kAccess>(acc, p, Place{n, y, x, q, static_cast<int>(p.co), rows}, row_top,
                                 row_top + 2);
        }
    }
}

}  // namespace srk::sm90
