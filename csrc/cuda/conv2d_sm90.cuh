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
#include <algorithm>

#include "cuda/conv2d_sm90_epilogue.cuh"
#include "cuda/ptx_sm90.cuh"
#include "params.h"

namespace srk::sm90 {

constexpr int kMaxStages = 4;            // tiles in shared memory
constexpr uint32_t kMaxShared = 232448;  // of a block
constexpr uint32_t kBarrierBytes = (2 * kMaxStages + 8) * sizeof(uint64_t);
constexpr int kConsumers = 256, kThreads = kConsumers + 128;
// Registers of a thread: a third of the file's share at the start, then the consumers' need.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

// Whether results and residuals pass straight between registers and memory, or through buffers in shared
// memory.
enum Path { kStraight, kStaged };

// Weights stay in shared memory or pass through it, chunk by chunk.
enum Weights { kResident, kStreamed };

// Both warpgroups compute one tile, each half of its columns, or each its own.
enum Tiling { kHalves, kOwn };

// Whether the warpgroups take turns at the tensor cores, so that one finishes its tile while the other
// multiplies.
enum Turns { kFree, kInTurn };

template <Weights weights, Tiling tiling, Turns turns, Access access, int stack, Path path = kStraight,
          Finish finish = kUsual>
struct Config {
    static constexpr Weights kWeights = weights;
    static constexpr Tiling kTiling = tiling;
    static constexpr Turns kTurns = turns;
    static constexpr Access kAccess = access;  // of the straight path
    static constexpr Path kPath = path;
    static constexpr Finish kFinish = finish;
    static constexpr int kStack = stack;              // picture rows in the weights' 64 rows: 1 or 2
    static constexpr int kBlock = kChannels / stack;  // output channels
    // Two tiles of 16 x 32 beside the weights of 64 channels, of 16 x 22 beside buffers of results too, or of
    // 8 x 28 beside stacked weights of 192.
    static constexpr int kTileX = tiling == kHalves ? 16 : 8;
    static constexpr int kTileY = path == kStaged ? 22 : tiling == kHalves ? 32 : 28;
    static constexpr int kHaloX = kTileX + 2, kHaloY = kTileY + 2;
    static constexpr uint32_t kHaloBytes = kHaloX * kHaloY * kPixelBytes;
    static constexpr uint32_t kStageBytes = (kHaloBytes + 1023) / 1024 * 1024;
    static constexpr uint32_t kStagingBytes =
        path == kStaged ? 8 * kTileY * kPixelBytes : 0;         // a warpgroup's
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

    static_assert(path == kStaged || kStageBytes - kHaloBytes >= kBarrierBytes);
    static_assert(path == kStraight || (tiling == kHalves && stack == 1 && kStagingBytes % 1024 == 0));
    static_assert(stack == 1 || weights == kResident);
    // A barrier's parity tells one use of a stage from the next, not from the one after that: who skips the
    // other warpgroup's tiles may wait for its own only once those have come, which its turn says.
    static_assert(tiling == kHalves || turns == kInTurn);
};

// Row of an operand that computes output channel `row_channel(row)` of its block. On the straight path rows
// 2t, 2t+1, 8+2t and 9+2t of sixteen are four adjacent channels: what a thread holds after two transposes.
__host__ __device__ constexpr int row_channel(int row, Path path = kStraight) {
    return path == kStaged ? row : (row & ~15) + 4 * ((row & 7) >> 1) + (row & 1) + ((row & 8) >> 2);
}

// Packed weights: blocks of outputs, chunks of 64 inputs, then this index of tap (dy, dx), row, input
// channel.
__host__ __device__ constexpr int weight_index(int stack, int dy, int dx, int row, int c) {
    const int tap = stack == 1 ? 3 * dy + dx : 3 * dx + 2 - dy;
    return (tap * (kChannels / stack) + row) * kChannels + ((c >> 3 ^ (row & 7)) << 3 | (c & 7));
}

struct Plan {
    int tiles_x, tiles_y, tiles, blocks, chunks, stages;
    int lanes;  // thread blocks that share the tiles
    // Of shared memory: tiles lie behind the weights, then the results' buffers. Barriers fill a gap behind a
    // tile if there is one.
    uint32_t weight_bytes, staging, barriers, shared;
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

// The barriers between the thread that orders copies and the warps that compute; addresses in shared memory.
struct Barriers {
    uint32_t base;
    __device__ uint32_t tile_full(int stage) const { return base + 8 * stage; }
    __device__ uint32_t tile_empty(int stage) const { return base + 8 * (kMaxStages + stage); }
    __device__ uint32_t slot_full(int slot) const { return base + 8 * (2 * kMaxStages + slot); }
    __device__ uint32_t slot_empty(int slot) const { return base + 8 * (2 * kMaxStages + 3 + slot); }
    __device__ uint32_t staging_full(int group) const { return base + 8 * (2 * kMaxStages + 6 + group); }
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
    SRK_UNROLL
    for (int slot = 0; slot < 3; ++slot) {
        if constexpr (C::kWeights == kStreamed) mbarrier_wait(barriers.slot_full(slot), step & 1);
        if (!C::kOneChunk || slot == 0) wgmma_begin();
        SRK_UNROLL
        for (int i = 0; i < kViews; ++i) {
            const uint32_t tap = weights + slot * C::kSlotPitch + (C::kStack == 1 ? i : 3 - i) * C::kTapBytes;
            const int pixel = C::kStack == 1 ? slot * C::kHaloX + i : i * C::kHaloX + slot;
            SRK_UNROLL
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
__device__ inline void produce(const Maps& maps, const ConvParams& p, const Plan& plan, int block,
                               uint32_t weights, uint32_t tiles, Barriers barriers) {
    constexpr uint32_t kChunkBytes = 3 * C::kSlotBytes;
    const auto* packed = static_cast<const uint8_t*>(static_cast<const void*>(p.weight)) +
                         size_t(block) * plan.chunks * kChunkBytes;
    const int top = static_cast<int>(p.pad_top), left = static_cast<int>(p.pad_left);
    const int own = p.ci1 ? static_cast<int>(p.ci1) / kChannels : plan.chunks;  // chunks of x, then x2's
    const Walkway walk(plan);
    Ring ring;
    int step = 0;  // chunks of tiles so far
    for (int tile = walk.first; tile < plan.tiles; tile += walk.stride) {
        const Corner at = corner<C>(plan, tile);
        for (int chunk = 0; chunk < plan.chunks; ++chunk, ++step, ring.next(plan.stages)) {
            const uint32_t full = barriers.tile_full(ring.stage);
            mbarrier_wait(barriers.tile_empty(ring.stage), ring.parity ^ 1);
            mbarrier_expect(full, C::kHaloBytes);
            tensor_copy(tiles + ring.stage * C::kStageBytes, chunk < own ? &maps.x : &maps.x2,
                        (chunk < own ? chunk : chunk - own) * kChannels, at.x - left, at.y - top, at.n, full);
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
__device__ inline void consume(const Maps& maps, const ConvParams& p, const Plan& plan, int block,
                               uint32_t weights, uint32_t tiles, Barriers barriers, int warp, int lane) {
    const int group = warp / 4, row = warp % 4 * 16;
    const int channel = block * C::kBlock + row % C::kBlock;  // of the warp's first row
    const int top = channel + row_channel(lane / 4, C::kPath);
    const int bottom = channel + row_channel(lane / 4 + 8, C::kPath);
    const int column = C::kTiling == kHalves ? 8 * group : 0;  // of the tile
    const Walkway walk(plan);
    const int own = C::kTiling == kHalves ? 0 : group;  // tiles of the other warpgroup before the first one
    const int stride = C::kTiling == kHalves ? walk.stride : 2 * walk.stride;
    float acc[C::kSums] = {};
    [[maybe_unused]] Staging<T> staging(maps, p, block * C::kBlock,
                                        weights + plan.staging + group * C::kStagingBytes, C::kStagingBytes,
                                        barriers.staging_full(group), 3 + group);
    [[maybe_unused]] const Channel upper(p, top), lower(p, bottom);
    const auto share = [&](int tile) {
        Corner at = corner<C>(plan, tile);
        at.x += column;
        return at;
    };
    if (C::kPath == kStaged && walk.first < plan.tiles) staging.prepare(share(walk.first));
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
        const Corner at = share(tile);
        if constexpr (C::kPath == kStaged) {
            staging.finish(acc, at, upper, lower);
            if (tile + stride < plan.tiles) staging.prepare(share(tile + stride));
        } else {
            const int x = at.x + lane / 4, y = at.y + row / C::kBlock, below = static_cast<int>(p.oh) - y;
            const int rows = x < p.ow && below > 0 ? min(C::kRows, (below + C::kStack - 1) / C::kStack) : 0;
            const int q = channel + 4 * (lane % 4);
            epilogue<T, C::kAccess, C::kFinish>(
                acc, p, Place{at.n, y, x, q, static_cast<int>(p.co), rows, C::kStack}, top, bottom);
        }
        SRK_MARK(kEpilogue);
    }
    if constexpr (C::kPath == kStaged) staging.end();
#ifdef SRK_PROFILE
    profile.end(group, threadIdx.x % 128);
#endif
#undef SRK_MARK
}

template <typename T, class C>
__global__ void __launch_bounds__(kThreads, 1)
    conv3x3(const __grid_constant__ Maps maps, const __grid_constant__ ConvParams p,
            const __grid_constant__ Plan plan) {
    char* const shared = cuda::shared_memory();
    const uint32_t weights = (shared_address(shared) + 1023) & ~1023u;
    const uint32_t tiles = weights + plan.weight_bytes;
    const Barriers barriers{weights + plan.barriers};
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
        for (int i = 0; i < 2; ++i) mbarrier_init(barriers.staging_full(i), 1);
        fence_mbarrier_init();
    }
    if constexpr (C::kStack == 2) {  // zeros before, between and behind the slots
        auto* zeros = reinterpret_cast<uint4*>(shared + (weights - shared_address(shared)));
        constexpr int kUnits = C::kTapBytes / sizeof(uint4);
        for (int i = threadIdx.x; i < (3 * plan.chunks + 1) * kUnits; i += kThreads) {
            const int unit = i / kUnits * (C::kSlotPitch / sizeof(uint4)) + i % kUnits;
            zeros[unit] = make_uint4(0, 0, 0, 0);
            wrote_shared(weights + unit * sizeof(uint4), sizeof(uint4));
        }
        fence_async_proxy();
    }
    __syncthreads();

    if (warp >= kConsumers / 32) {
        registers_release<kProducerRegisters>();
        if (threadIdx.x == kConsumers) {
            prefetch_map(&maps.x);
            produce<C>(maps, p, plan, block, weights, tiles, barriers);
        }
    } else {
        registers_request<kConsumerRegisters>();
        consume<T, C>(maps, p, plan, block, weights, tiles, barriers, warp, lane);
    }
}

}  // namespace srk::sm90
