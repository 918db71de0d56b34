// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// 3x3 convolution on Hopper's tensor cores with the whole epilogue, 16-bit channels_last tensors, float32
// sums.
//
// Weights are the matrix product's 64 rows and stay in shared memory; pixels are its columns. A tile is
// fetched with its halo by the copy engine, 64 channels at a time, once, zeros outside the picture. A
// warpgroup computes 8 pixels times the tile's height: eight adjacent pixels are one group of rows of the
// operand, the next group is the next picture row, and a tap is a shifted view of the same tile.
//
// Up to 32 output channels are stacked: rows 0..31 compute the even picture rows, rows 32..63 the odd ones. A
// view then steps by two picture rows, and each of its four vertical shifts u meets tap u above and tap u - 1
// below.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/ptx_sm90.cuh"
#include "params.h"

namespace srk::sm90 {

constexpr int kChannels = 64;  // of a block of outputs, and of a chunk of inputs
constexpr uint32_t kPixelBytes = kChannels * 2;
constexpr int kMaxStages = 4;            // tiles in shared memory
constexpr uint32_t kMaxShared = 232448;  // of a block
constexpr int kConsumers = 256, kThreads = kConsumers + 128;
// Registers of a thread: a third of the file's share at the start, then the consumers' need.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

// Weights stay in shared memory or pass through it, chunk by chunk.
enum Weights { kResident, kStreamed };

// Both warpgroups compute one tile, each half of its columns, or each its own.
enum Tiling { kHalves, kOwn };

// Whether the warpgroups take turns at the tensor cores, so that one finishes its tile while the other
// multiplies.
enum Turns { kFree, kInTurn };

// How a thread's four packed channels lie in every tensor of the epilogue: eight aligned bytes, or anywhere.
enum Access { kVector, kScalar };

template <Weights weights, Tiling tiling, Turns turns, Access access, int stack>
struct Config {
    static constexpr Weights kWeights = weights;
    static constexpr Tiling kTiling = tiling;
    static constexpr Turns kTurns = turns;
    static constexpr Access kAccess = access;
    static constexpr int kStack = stack;              // picture rows in the weights' 64 rows: 1 or 2
    static constexpr int kBlock = kChannels / stack;  // output channels
    // Two tiles of 16 x 32 beside the weights of 64 channels, or two of 8 x 28 beside stacked ones of 192.
    static constexpr int kTileX = tiling == kHalves ? 16 : 8, kTileY = tiling == kHalves ? 32 : 28;
    static constexpr int kHaloX = kTileX + 2, kHaloY = kTileY + 2;
    static constexpr uint32_t kHaloBytes = kHaloX * kHaloY * kPixelBytes;
    static constexpr uint32_t kStageBytes = (kHaloBytes + 1023) / 1024 * 1024;
    static constexpr int kReaders = tiling == kHalves ? 8 : 4;  // warps that read a tile
    static constexpr int kRows = kTileY / stack;  // groups of eight pixels: a warpgroup's columns
    static constexpr int kSums = 4 * kRows;       // of a thread
    static constexpr uint32_t kTapBytes = kBlock * kPixelBytes;
    // A slot is three taps: of one picture row, or, stacked, of one column, from the last tap up, behind a
    // tap of zeros.
    static constexpr uint32_t kSlotBytes = 3 * kTapBytes;
    static constexpr uint32_t kSlotPitch = (stack == 1 ? 3 : 4) * kTapBytes;
    static constexpr uint32_t kSlotOffset = (stack == 1 ? 0 : 1) * kTapBytes;
    static constexpr bool kOneChunk = weights == kResident && tiling == kHalves;

    static_assert(kStageBytes - kHaloBytes >= (2 * kMaxStages + 6) * sizeof(uint64_t));  // barriers
    static_assert(stack == 1 || weights == kResident);
    // A barrier's parity tells one use of a stage from the next, not from the one after that: who skips the
    // other warpgroup's tiles may wait for its own only once those have come, which its turn says.
    static_assert(tiling == kHalves || turns == kInTurn);
};

// Row of an operand that computes output channel `row_channel(row)` of its block. Rows 2t, 2t+1, 8+2t and
// 9+2t of sixteen are four adjacent channels: what a thread holds after two transposes.
__host__ __device__ constexpr int row_channel(int row) {
    return (row & ~15) + 4 * ((row & 7) >> 1) + (row & 1) + ((row & 8) >> 2);
}

// Packed weights: blocks of outputs, chunks of 64 inputs, then this index of tap (dy, dx), row, input
// channel.
__host__ __device__ constexpr int weight_index(int stack, int dy, int dx, int row, int c) {
    const int tap = stack == 1 ? 3 * dy + dx : 3 * dx + 2 - dy;
    return (tap * (kChannels / stack) + row) * kChannels + ((c >> 3 ^ (row & 7)) << 3 | (c & 7));
}

struct Plan {
    int tiles_x, tiles_y, tiles, blocks, chunks, stages;
    int lanes;              // thread blocks that share the tiles
    uint32_t weight_bytes;  // in shared memory
};

// Where a tile starts: image and conv pixel.
struct Corner {
    int n, y, x;
};
template <class C>
__device__ inline Corner corner(const Plan& plan, int tile) {
    const int row = tile / plan.tiles_x;
    return {row / plan.tiles_y, row % plan.tiles_y * C::kTileY, (tile - row * plan.tiles_x) * C::kTileX};
}

#ifdef SRK_PROFILE
// Clocks that the first warp of each warpgroup spent, by block: for its turn, for tiles, for products, in the
// epilogue.
enum Spent { kTurn, kTile, kProduct, kEpilogue, kNanoseconds, kSpents };
__device__ unsigned long long profile[256][2][kSpents];

class Profile {
  public:
    __device__ Profile() {
        last_ = clock64();
        start_ = now();
    }
    __device__ void mark(Spent what) {
        const long long t = clock64();
        spent_[what] += t - last_;
        last_ = t;
    }
    __device__ void end(int group, int thread) {
        spent_[kNanoseconds] = now() - start_;
        if (thread == 0)
            for (int i = 0; i < kSpents; ++i) profile[blockIdx.x][group][i] = spent_[i];
    }

  private:
    static __device__ long long now() {
        long long t;
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
        return t;
    }
    long long last_, start_, spent_[kSpents] = {};
};
#endif

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

// Four packed channels of one pixel column of a tensor, as one thread stores and loads them.
template <typename T, Access kAccess>
struct Quad {
    T* first;           // of the tile's top row
    int64_t row;        // to the thread's next row
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

// A tile's column of a thread: image n, `rows` conv pixels (y, x), (y + stride, x).., packed channels q..q+3.
struct Place {
    int64_t n, y, x;
    int q, co, rows, stride;
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
    r.row = v.sy * step * at.stride;
    r.first =
        static_cast<T*>(v.data) + at.n * v.sn + (at.y * step + py) * v.sy + (at.x * step + px) * v.sx + first;
    return r;
}

// Walks down a tensor's rows, in a form that the compiler doesn't turn into one address a row: those would
// fill the registers.
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

// acc += weight * tensor. Values come as (pixel, channel) and are transposed to the accumulators' (channel,
// pixel).
template <typename T, Access kAccess, int kSums>
__device__ inline void add(float (&acc)[kSums], const Quad<T, kAccess>& from, float weight) {
    constexpr int kBatch = 16;  // loads in flight
    Walk<T> walk(from);
#pragma unroll
    for (int y0 = 0; y0 < kSums / 4; y0 += kBatch) {
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

// acc += base of one position a conv pixel, `colours` <= 4 channels. Lane pixel * colours + c loads channel c
// of the warp's eight pixels, two rows in one word; the accumulators of each pixel and channel fetch it from
// there.
template <typename T, int kSums>
__device__ inline void add_nearest(float (&acc)[kSums], const ConvParams& p, const Place& at, int top,
                                   int bottom) {
    const int lane = threadIdx.x % 32, colours = at.co / (p.shuffle * p.shuffle), pixel = lane / colours;
    const int64_t x = at.x - lane / 4 + pixel;
    const int rows = pixel < 8 && x < p.ow ? (static_cast<int>(p.oh - at.y) + at.stride - 1) / at.stride : 0;
    const auto* from = static_cast<const unsigned short*>(p.base.data) + at.n * p.base.sn + at.y * p.base.sy +
                       x * p.base.sx + lane % colours;
    const int64_t pitch = at.stride * p.base.sy;
    const int first = 2 * (lane % 4) * colours;
    const int lanes[4] = {first + top % colours, first + colours + top % colours, first + bottom % colours,
                          first + colours + bottom % colours};
#pragma unroll
    for (int y = 0; y < kSums / 4; y += 2, from += 2 * pitch) {
        const uint32_t even = y < rows ? from[0] : 0, odd = y + 1 < rows ? from[pitch] : 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float2 v = unpack<T>(__shfl_sync(~0u, even | odd << 16, lanes[i]));
            acc[4 * y + i] += v.x;
            acc[4 * y + 4 + i] += v.y;
        }
    }
}

template <typename T, Access kAccess, int kSums>
__device__ inline void store(const float (&acc)[kSums], const Quad<T, kAccess>& to) {
    Walk<T> walk(to);
#pragma unroll
    for (int y = 0; y < kSums / 4; ++y, walk.next()) {
        const float* a = acc + 4 * y;
        const uint32_t top = transpose8x8(pack<T>(a[0], a[1])), bottom = transpose8x8(pack<T>(a[2], a[3]));
        to.store(walk.at(), y < to.rows, make_uint2(top, bottom));
    }
}

template <int kSums, typename F>
__device__ inline void each(float (&acc)[kSums], F f) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) acc[i] = f(acc[i], (i & 2) != 0);
}

__device__ inline float max_nan(float a, float b) {
    float d;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
    return d;
}

// Slopes are those of the thread's two output channels.
template <int kSums>
__device__ inline void activate(float (&acc)[kSums], int act, float top, float bottom) {
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

// `top`, `bottom`: the thread's two output channels as accumulated.
template <typename T, Access kAccess, int kSums>
__device__ inline void epilogue(float (&acc)[kSums], const ConvParams& p, const Place& at, int top,
                                int bottom) {
    const float bias_top = p.bias[top], bias_bottom = p.bias[bottom];
    float slope_top = p.slope, slope_bottom = p.slope;
    if (p.act == kPrelu) slope_top = p.prelu[top], slope_bottom = p.prelu[bottom];
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
    if (p.base_mode == kBaseNearest) add_nearest<T>(acc, p, at, top, bottom);
    store(acc, quad<T, kAccess>(p.y, at, out_step, p.phase_y * s, p.phase_x * s, s));
}

// The barriers between the thread that orders copies and the warps that compute; addresses in shared memory.
struct Barriers {
    uint32_t base;
    __device__ uint32_t tile_full(int stage) const { return base + 8 * stage; }
    __device__ uint32_t tile_empty(int stage) const { return base + 8 * (kMaxStages + stage); }
    __device__ uint32_t slot_full(int slot) const { return base + 8 * (2 * kMaxStages + slot); }
    __device__ uint32_t slot_empty(int slot) const { return base + 8 * (2 * kMaxStages + 3 + slot); }
};

// The stage of a chunk of a tile, and the parity of its use.
struct Ring {
    int stage = 0;
    uint32_t parity = 0;
    __device__ void next(int stages) {
        if (++stage == stages) stage = 0, parity ^= 1;
    }
};

// Adds a chunk of kSteps times sixteen input channels, the `step`-th chunk since the start; `pixels`: the
// warpgroup's first pixel in its tile, `before`: the stage of the tile's previous chunk. Tells the producer
// what has been read, except for what the last slot reads.
template <typename T, class C, int kSteps>
__device__ inline void multiply(float (&acc)[C::kSums], uint32_t weights, uint32_t pixels, int chunk,
                                int step, int before, int lane, Barriers barriers) {
    constexpr int kViews = C::kStack == 1 ? 3 : 4;
#pragma unroll
    for (int slot = 0; slot < 3; ++slot) {
        if constexpr (C::kWeights == kStreamed) mbarrier_wait(barriers.slot_full(slot), step & 1);
        if (!C::kOneChunk || slot == 0) wgmma_begin();
#pragma unroll
        for (int i = 0; i < kViews; ++i) {
            const uint32_t tap = weights + slot * C::kSlotPitch + (C::kStack == 1 ? i : 3 - i) * C::kTapBytes;
            const int pixel = C::kStack == 1 ? slot * C::kHaloX + i : i * C::kHaloX + slot;
#pragma unroll
            for (int k = 0; k < kSteps; ++k)
                wgmma<T>(acc, descriptor_swizzled(tap + k * 32, 8 * kPixelBytes),
                         descriptor_swizzled(pixels + pixel * kPixelBytes + k * 32,
                                             C::kStack * C::kHaloX * kPixelBytes),
                         chunk + slot + i + k > 0);
        }
        if constexpr (!C::kOneChunk) {
            wgmma_commit();
            if (C::kWeights == kStreamed || slot == 0)
                wgmma_wait<1>();  // what came before this slot has been read
            if (lane == 0 && slot == 0 && chunk > 0) mbarrier_arrive(barriers.tile_empty(before));
            if (C::kWeights == kStreamed && lane == 0 && (slot > 0 || chunk > 0))
                mbarrier_arrive(barriers.slot_empty((slot + 2) % 3));
        }
    }
    if constexpr (C::kOneChunk) wgmma_commit();
}

// A block's walk over the tiles of its output channels.
struct Walkway {
    int first, stride;
    __device__ explicit Walkway(const Plan& plan)
        : first(blockIdx.x / plan.blocks), stride(gridDim.x / plan.blocks) {}
};

template <class C>
__device__ inline void produce(const CUtensorMap& map, const ConvParams& p, const Plan& plan, int block,
                               uint32_t weights, uint32_t tiles, Barriers barriers) {
    constexpr uint32_t kChunkBytes = 3 * C::kSlotBytes;
    const auto* packed = static_cast<const uint8_t*>(static_cast<const void*>(p.weight)) +
                         size_t(block) * plan.chunks * kChunkBytes;
    const int top = static_cast<int>(p.pad_top), left = static_cast<int>(p.pad_left);
    const Walkway walk(plan);
    Ring ring;
    int step = 0;  // chunks of tiles so far
    for (int tile = walk.first; tile < plan.tiles; tile += walk.stride) {
        const Corner at = corner<C>(plan, tile);
        for (int chunk = 0; chunk < plan.chunks; ++chunk, ++step, ring.next(plan.stages)) {
            const uint32_t full = barriers.tile_full(ring.stage);
            mbarrier_wait(barriers.tile_empty(ring.stage), ring.parity ^ 1);
            mbarrier_expect(full, C::kHaloBytes);
            tensor_copy(tiles + ring.stage * C::kStageBytes, &map, chunk * kChannels, at.x - left, at.y - top,
                        at.n, full);
            if (C::kWeights == kResident && step == 0) {
                const uint32_t bytes = plan.chunks * kChunkBytes;
                mbarrier_expect(barriers.slot_full(0), bytes);
                for (uint32_t i = 0; i < bytes; i += C::kSlotBytes)
                    bulk_copy(weights + i / C::kSlotBytes * C::kSlotPitch + C::kSlotOffset, packed + i,
                              C::kSlotBytes, barriers.slot_full(0));
            }
            if constexpr (C::kWeights == kStreamed) {
                for (int slot = 0; slot < 3; ++slot) {
                    mbarrier_wait(barriers.slot_empty(slot), (step & 1) ^ 1);
                    mbarrier_expect(barriers.slot_full(slot), C::kSlotBytes);
                    bulk_copy(weights + slot * C::kSlotPitch,
                              packed + size_t(chunk) * kChunkBytes + slot * C::kSlotBytes, C::kSlotBytes,
                              barriers.slot_full(slot));
                }
            }
        }
    }
}

template <typename T, class C>
__device__ inline void consume(const ConvParams& p, const Plan& plan, int block, uint32_t weights,
                               uint32_t tiles, Barriers barriers, int warp, int lane) {
    const int group = warp / 4, row = warp % 4 * 16;
    const int channel = block * C::kBlock + row % C::kBlock;  // of the warp's first row
    const int top = channel + row_channel(lane / 4);
    const int column = C::kTiling == kHalves ? 8 * group : 0;  // of the tile
    const Walkway walk(plan);
    const int own = C::kTiling == kHalves ? 0 : group;  // tiles of the other warpgroup before the first one
    const int stride = C::kTiling == kHalves ? walk.stride : 2 * walk.stride;
    float acc[C::kSums] = {};
    if (C::kTurns == kInTurn && group == 1) named_arrive(1, kConsumers);
    if (C::kWeights == kResident) mbarrier_wait(barriers.slot_full(0), 0);
    Ring ring;
    int step = 0;
#ifdef SRK_PROFILE
    Profile profile;
#define SRK_MARK(what) profile.mark(what)
#else
#define SRK_MARK(what)
#endif
    const auto skip = [&] {
        for (int chunk = 0; chunk < plan.chunks; ++chunk) ring.next(plan.stages);
    };
    if (own) skip();
    for (int tile = walk.first + own * walk.stride; tile < plan.tiles; tile += stride) {
        if constexpr (C::kTurns == kInTurn) named_sync(1 + group, kConsumers);
        SRK_MARK(kTurn);
        int before = 0;
        for (int chunk = 0; chunk < plan.chunks; ++chunk, ++step, ring.next(plan.stages)) {
            mbarrier_wait(barriers.tile_full(ring.stage), ring.parity);
            SRK_MARK(kTile);
            const uint32_t pixels = tiles + ring.stage * C::kStageBytes + column * kPixelBytes;
            const uint32_t taps = C::kWeights == kResident ? weights + chunk * 3 * C::kSlotPitch : weights;
            if (p.ci - chunk * kChannels <= kChannels / 2)
                multiply<T, C, 2>(acc, taps, pixels, chunk, step, before, lane, barriers);
            else
                multiply<T, C, 4>(acc, taps, pixels, chunk, step, before, lane, barriers);
            before = ring.stage;
            SRK_MARK(kProduct);
        }
        const bool first_half = C::kTiling == kHalves && group == 0;
        if (C::kTurns == kInTurn && (first_half || tile + walk.stride < plan.tiles))
            named_arrive(2 - group, kConsumers);
        wgmma_wait<0>();
        SRK_MARK(kProduct);
        if (lane == 0) {
            mbarrier_arrive(barriers.tile_empty(before));
            if constexpr (C::kWeights == kStreamed) mbarrier_arrive(barriers.slot_empty(2));
        }
        if constexpr (C::kTiling == kOwn) skip();
        const Corner at = corner<C>(plan, tile);
        const int x = at.x + column + lane / 4, y = at.y + row / C::kBlock,
                  below = static_cast<int>(p.oh) - y;
        const int rows = x < p.ow && below > 0 ? min(C::kRows, (below + C::kStack - 1) / C::kStack) : 0;
        const int q = channel + 4 * (lane % 4);
        epilogue<T, C::kAccess>(acc, p, Place{at.n, y, x, q, static_cast<int>(p.co), rows, C::kStack}, top,
                                top + 2);
        SRK_MARK(kEpilogue);
    }
#ifdef SRK_PROFILE
    profile.end(group, threadIdx.x % 128);
#endif
#undef SRK_MARK
}

template <typename T, class C>
__global__ void __launch_bounds__(kThreads, 1)
    conv3x3(const __grid_constant__ CUtensorMap map, const __grid_constant__ ConvParams p,
            const __grid_constant__ Plan plan) {
    extern __shared__ uint8_t shared[];
    const uint32_t weights = (shared_address(shared) + 1023) & ~1023u;
    const uint32_t tiles = weights + plan.weight_bytes;
    const Barriers barriers{tiles + C::kHaloBytes};  // between the first stage and the second
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const int block = blockIdx.x % plan.blocks;

    if (threadIdx.x == 0) {
        for (int i = 0; i < plan.stages; ++i) {
            mbarrier_init(barriers.tile_full(i), 1);
            mbarrier_init(barriers.tile_empty(i), C::kReaders);
        }
        for (int i = 0; i < 3; ++i) {
            mbarrier_init(barriers.slot_full(i), 1);
            mbarrier_init(barriers.slot_empty(i), kConsumers / 32);
        }
        fence_mbarrier_init();
    }
    if constexpr (C::kStack == 2) {  // zeros before, between and behind the slots
        auto* zeros = reinterpret_cast<uint4*>(shared + (weights - shared_address(shared)));
        constexpr int kUnits = C::kTapBytes / sizeof(uint4);
        for (int i = threadIdx.x; i < (3 * plan.chunks + 1) * kUnits; i += kThreads)
            zeros[i / kUnits * (C::kSlotPitch / sizeof(uint4)) + i % kUnits] = make_uint4(0, 0, 0, 0);
        fence_async_proxy();
    }
    __syncthreads();

    if (warp >= kConsumers / 32) {
        registers_release<kProducerRegisters>();
        if (threadIdx.x == kConsumers) {
            prefetch_map(&map);
            produce<C>(map, p, plan, block, weights, tiles, barriers);
        }
    } else {
        registers_request<kConsumerRegisters>();
        consume<T, C>(p, plan, block, weights, tiles, barriers, warp, lane);
    }
}

}  // namespace srk::sm90
