// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Hopper's instructions on the host, as the PTX ISA describes them, for ptx_sm90.cuh (SRK_EMULATE). Strict
// where a GPU is fast and loose: operands of a product must not change from its order until it is waited for,
// nor the source of a copy; sums appear when they are waited for; the copy engine and the tensor cores see no
// ordinary store without a fence, and barriers only once they are published.
#pragma once
#include "cuda/ptx.cuh"

using __half = srk::cuda::Float16;
using __nv_bfloat16 = srk::cuda::BFloat16;

// A tensor as the copy engine sees it, in elements of 16 bits; rows of 128 bytes are swizzled.
struct CUtensorMap {
    char* data;
    int rank;
    uint64_t extents[5], pitches[5];  // in elements, in bytes
    uint32_t box[5];
};

template <class T>
T __shfl_sync(unsigned, T v, int lane) {
    static_assert(sizeof v == 4);
    const auto all = srk::emulate::exchange(reinterpret_cast<const uint32_t*>(&v), 1);
    return reinterpret_cast<const T&>(all[lane % 32][0]);
}
inline size_t __cvta_generic_to_global(const void* p) { return reinterpret_cast<size_t>(p); }
inline void* __cvta_global_to_generic(size_t p) { return reinterpret_cast<void*>(p); }

namespace srk::sm90 {

using cuda::shared_address;
using emulate::block, emulate::fail, emulate::MBarrier, emulate::self;

inline float max_nan(float a, float b) { return a != a || b != b ? NAN : a > b ? a : b; }
inline float fast_exp(float x) { return std::exp(x); }
inline float fast_divide(float x, float y) { return x / y; }
inline void opaque(size_t&) {}
inline void opaque(int&) {}
template <typename T>
uint32_t pack(float low, float high) {
    return cuda::packed<T>(low, high);
}
template <typename T>
float2 unpack(uint32_t v) {
    float2 r;
    cuda::unpack<T>(v, r.x, r.y);
    return r;
}

// Shared memory that the thread has written by ordinary stores.
inline void wrote_shared(uint32_t address, uint32_t bytes) {
    for (uint32_t i = address / 16; i <= (address + bytes - 1) / 16; ++i) {
        auto& writers = block->async.unseen[i];
        if (std::find(writers.begin(), writers.end(), block->current) != writers.end()) continue;
        writers.push_back(block->current);
        self().ordered.stored.push_back(i);
    }
}
inline void fence_async_proxy() {
    for (const uint32_t i : self().ordered.stored) {
        auto& writers = block->async.unseen[i];
        writers.erase(std::find(writers.begin(), writers.end(), block->current));
    }
    self().ordered.stored.clear();
}
inline char* seen_at(uint32_t address, uint32_t bytes, uint32_t alignment) {
    char* const p = emulate::shared_at(address, bytes, alignment);
    for (uint32_t i = address / 16; i <= (address + bytes - 1) / 16; ++i)
        if (const auto& writers = block->async.unseen[i]; !writers.empty())
            fail("an ordinary store of thread " + std::to_string(writers[0]) +
                 " is not fenced from tensor cores and copies");
    return p;
}

inline uint64_t digest(uint64_t before, const char* p, int bytes) {
    for (int i = 0; i < bytes; i += 8) {
        uint64_t word;
        std::memcpy(&word, p + i, 8);
        before = (before ^ word) * 0x9e3779b97f4a7c15;
        before ^= before >> 29;
    }
    return before;
}

// Its memory holds a mark: who overwrites a barrier is found out.
inline uint64_t mark_of(uint32_t address) { return 0x5eed5eed00000000 | address; }
inline void mbarrier_init(uint32_t address, uint32_t arrivals) {
    const int count = static_cast<int>(arrivals);
    const uint64_t mark = mark_of(address);
    std::memcpy(emulate::shared_at(address, 8, 8), &mark, 8);
    block->async.barriers[address] = {count, count, 0, 0, block->current, false};
}
inline MBarrier& mbarrier_at(uint32_t address) {
    const auto found = block->async.barriers.find(address);
    if (found == block->async.barriers.end()) fail("no mbarrier at this address");
    uint64_t mark;
    std::memcpy(&mark, emulate::shared_at(address, 8, 8), 8);
    if (mark != mark_of(address)) fail("an mbarrier is overwritten");
    return found->second;
}
inline void fence_mbarrier_init() {
    for (auto& [address, barrier] : block->async.barriers)
        if (barrier.owner == block->current) barrier.published = true;
}
inline void settle(MBarrier& barrier) {
    block->idle = 0;
    if (barrier.pending || barrier.bytes) return;
    ++barrier.phase, barrier.pending = barrier.expected;
}
inline void mbarrier_arrive(uint32_t address) {
    MBarrier& barrier = mbarrier_at(address);
    if (barrier.pending == 0) fail("more arrivals than an mbarrier expects");
    --barrier.pending;
    settle(barrier);
}
inline void mbarrier_expect(uint32_t address, uint32_t bytes) {
    MBarrier& barrier = mbarrier_at(address);
    barrier.bytes += bytes;
    if (barrier.bytes >= 1 << 20) fail("more bytes than an mbarrier counts");
    mbarrier_arrive(address);
}
inline void land(const emulate::Transfer& transfer) {
    transfer.land();
    MBarrier& barrier = mbarrier_at(transfer.barrier);
    barrier.bytes -= transfer.bytes;
    settle(barrier);
}
inline void mbarrier_wait(uint32_t address, uint32_t parity) {
    auto& transfers = block->async.transfers;
    for (;;) {
        if ((mbarrier_at(address).phase & 1) != parity) return;
        bool landed = false;
        for (size_t i = 0; i < transfers.size();) {
            if (transfers[i].barrier != address) {
                ++i;
                continue;
            }
            const emulate::Transfer transfer = transfers[i];
            transfers.erase(transfers.begin() + i);
            land(transfer);
            landed = true;
        }
        if (!landed) emulate::yield(0, emulate::total(), "an mbarrier at ", address);
    }
}

// Registers that warpgroups give up wait for those that ask.
inline int& registers() {
    int& own = self().ordered.registers;
    return own = own ? own : min(65536 / emulate::total() / 8 * 8, 248);
}
template <int kCount>
void registers_release() {
    if (kCount > registers()) fail("a warpgroup gives up registers that it does not have");
    block->async.registers += registers() - kCount;
    registers() = kCount, block->idle = 0;
}
template <int kCount>
void registers_request() {
    static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
    while (block->async.registers < kCount - registers()) emulate::yield(0, emulate::total(), "registers");
    block->async.registers -= kCount - registers();
    registers() = kCount, block->idle = 0;
}

inline emulate::NamedBarrier& arrive(int id, int threads) {
    if (id < 1 || id > 15 || threads % 32) fail("a barrier has a number up to 15 and whole warps");
    emulate::NamedBarrier& barrier = block->async.named[id];
    if (barrier.arrived && barrier.threads != threads) fail("threads disagree on a barrier's count");
    barrier.threads = threads, block->idle = 0;
    if (++barrier.arrived == threads) barrier.arrived = 0, ++barrier.turn;
    return barrier;
}
inline void named_arrive(int id, int threads) { arrive(id, threads); }
inline void named_sync(int id, int threads) {
    const int turn = block->async.named[id & 15].turn;
    const emulate::NamedBarrier& barrier = arrive(id, threads);
    while (barrier.turn == turn) emulate::yield(0, emulate::total(), "barrier ", id);
}

inline void prefetch_map(const CUtensorMap*) {}

inline void start(uint32_t barrier, uint32_t bytes, std::function<void()> copy) {
    if (!mbarrier_at(barrier).published) fail("the copy engine does not see the mbarrier");
    const emulate::Transfer transfer{barrier, bytes, std::move(copy)};
    block->early ? land(transfer) : block->async.transfers.push_back(transfer);
}
inline void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
    if (bytes % 16 || reinterpret_cast<uintptr_t>(from) % 16) fail("a bulk copy that is not of 16 bytes");
    start(barrier, bytes, [=] { std::memcpy(seen_at(to, bytes, 16), from, bytes); });
}

// As cuTensorMapEncodeTiled, with what it demands: extents and box in elements, pitches in bytes.
inline cudaError_t encode(CUtensorMap& map, int32_t, uint32_t rank, void* data, const uint64_t* extents,
                          const uint64_t* pitches, const uint32_t* box) {
    map = {static_cast<char*>(data), static_cast<int>(rank), {}, {2}, {}};
    bool able = reinterpret_cast<uintptr_t>(data) % 16 == 0 && box[0] * 2 <= 128 && box[0] % 8 == 0;
    for (uint32_t i = 0; i < rank; ++i) {
        map.extents[i] = extents[i], map.box[i] = box[i];
        able = able && extents[i] >= 1 && extents[i] <= uint64_t{1} << 32 && box[i] >= 1 && box[i] <= 256;
        if (i == 0) continue;
        map.pitches[i] = pitches[i - 1];
        able = able && pitches[i - 1] % 16 == 0 && pitches[i - 1] > 0 && pitches[i - 1] < uint64_t{1} << 40;
    }
    return able ? cudaSuccess : cudaErrorInvalidValue;
}

inline uint32_t box_bytes(const CUtensorMap& map) {
    uint32_t bytes = 2;
    for (int i = 0; i < map.rank; ++i) bytes *= map.box[i];
    return bytes;
}
// Calls f(element in shared memory, in the tensor; null where it lies outside) for each of the box at these
// coordinates. The swizzle's pattern is of 1024 bytes: it lies where addresses do.
template <class F>
void for_box(const CUtensorMap& map, uint32_t shared, const int (&at)[5], F f) {
    const uint32_t count = box_bytes(map) / 2;
    char* const first = seen_at(shared, 2 * count, 1024);
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t unit = i / 8;
        char* element = map.data;
        bool inside = true;
        uint32_t rest = i;
        for (int d = 0; d < map.rank; ++d) {
            const int64_t position = int64_t{at[d]} + rest % map.box[d];
            rest /= map.box[d];
            inside = inside && position >= 0 && position < static_cast<int64_t>(map.extents[d]);
            element += position * static_cast<int64_t>(map.pitches[d]);
        }
        f(first + ((unit ^ (unit / 8 & 7)) * 16 + i % 8 * 2), inside ? element : nullptr);
    }
}
inline void tensor_copy(int rank, uint32_t to, const CUtensorMap* map, const int (&at)[5], uint32_t barrier) {
    if (map->rank != rank) fail("a copy of another rank than its tensor map");
    std::vector<int> held(at, at + 5);
    start(barrier, box_bytes(*map), [to, map = *map, held] {
        for_box(map, to, {held[0], held[1], held[2], held[3], held[4]},
                [](char* shared, const char* element) {
                    element ? std::memcpy(shared, element, 2) : std::memset(shared, 0, 2);
                });
    });
}
inline void tensor_copy(uint32_t to, const CUtensorMap* map, int c0, int c1, int c2, int c3,
                        uint32_t barrier) {
    tensor_copy(4, to, map, {c0, c1, c2, c3, 0}, barrier);
}
inline void tensor_copy(uint32_t to, const CUtensorMap* map, int c0, int c1, int c2, int c3, int c4,
                        uint32_t barrier) {
    tensor_copy(5, to, map, {c0, c1, c2, c3, c4}, barrier);
}

inline void tensor_store(const CUtensorMap* map, uint32_t from, int c0, int c1, int c2, int c3, int c4) {
    if (map->rank != 5) fail("a copy of another rank than its tensor map");
    const int bytes = static_cast<int>(box_bytes(*map));
    const uint64_t ordered = digest(0, seen_at(from, bytes, 1024), bytes);
    const auto carry_out = [=, map = *map] {
        if (digest(0, seen_at(from, bytes, 1024), bytes) != ordered)
            fail("results change before the copy engine has read them");
        for_box(map, from, {c0, c1, c2, c3, c4}, [](const char* shared, char* element) {
            if (element) std::memcpy(element, shared, 2);
        });
    };
    block->early ? carry_out() : self().ordered.stores.push_back({self().ordered.store_group, carry_out});
}
inline void bulk_commit() { ++self().ordered.store_group; }
inline void bulk_wait_read() {
    auto& ordered = self().ordered;
    while (!ordered.stores.empty() && ordered.stores.front().group < ordered.store_group) {
        ordered.stores.front().carry_out();
        ordered.stores.pop_front();
    }
}

// Of an 8x8 matrix's rows 2 * (lane % 4) and the next, column lane / 4; `element(row)` is where a row starts.
template <class F>
uint32_t transposed(F element) {
    const int lane = self().lane;
    uint16_t pair[2];
    for (int i = 0; i < 2; ++i) std::memcpy(&pair[i], element(2 * (lane % 4) + i, lane / 4), 2);
    return pair[0] | uint32_t{pair[1]} << 16;
}
inline void load_matrices(uint32_t (&d)[4], uint32_t row) {
    const auto all = emulate::exchange(&row, 1);
    for (int m = 0; m < 4; ++m)
        d[m] =
            transposed([&](int r, int c) { return emulate::shared_at(all[8 * m + r][0], 16, 16) + 2 * c; });
}
inline const char* fragment(const uint32_t (*all)[emulate::kWords], int word, int r, int c) {
    return reinterpret_cast<const char*>(&all[4 * r + c / 2][word]) + c % 2 * 2;
}
inline uint32_t transpose8x8(uint32_t a) {
    const auto all = emulate::exchange(&a, 1);
    return transposed([&](int r, int c) { return fragment(all, 0, r, c); });
}
inline void store_matrices(uint32_t row, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    const uint32_t own[4] = {a, b, c, d};
    const auto all = emulate::exchange(own, 4);
    const int lane = self().lane;
    char* const to = emulate::shared_at(row, 16, 16);
    for (int i = 0; i < 8; ++i) std::memcpy(to + 2 * i, fragment(all, lane / 8, i, lane % 8), 2);
    wrote_shared(row, 16);
}

// Where eight channels (`half` of sixteen) of an operand's row lie: K-major operands alone.
inline uint32_t operand_unit(uint64_t descriptor, int row, int half) {
    const auto field = [=](int bit) { return static_cast<uint32_t>(descriptor >> bit & 0x3fff) << 4; };
    const uint32_t start = field(0), lead = field(16), group = field(32), base = descriptor >> 49 & 7;
    const int mode = static_cast<int>(descriptor >> 62);
    if (descriptor & 0x3ff1c000c000c000) fail("a matrix descriptor with bits that mean nothing");
    if (mode == 0) return start + row / 8 * group + half * lead + row % 8 * 16;
    const int units = 16 >> mode;  // of 16 bytes in a row: the swizzles of 128, 64 and 32 bytes
    const uint32_t at = start + row / 8 * group + row % 8 * units * 16 + half * 16;
    return at ^ (((at >> 7) - base) & (units - 1)) << 4;
}

inline uint64_t digest_of(const emulate::Product& product, int warp) {
    uint64_t all = 0;
    for (int half = 0; half < 2; ++half) {
        for (int row = 0; row < 16; ++row)
            all = digest(all, seen_at(operand_unit(product.a, warp % 4 * 16 + row, half), 16, 16), 16);
        for (int row = 0; row < 2 * product.sums; ++row)
            all = digest(all, seen_at(operand_unit(product.b, row, half), 16, 16), 16);
    }
    return all;
}

inline void load_row(float (&to)[16], uint64_t descriptor, int row, float (*value)(uint16_t)) {
    for (int half = 0; half < 2; ++half) {
        uint16_t bits[8];
        std::memcpy(bits, emulate::shared_at(operand_unit(descriptor, row, half), 16, 16), 16);
        for (int i = 0; i < 8; ++i) to[8 * half + i] = value(bits[i]);
    }
}

// A warp's sixteen rows of a product; `lanes`: the same product of each of its threads.
inline void compute(emulate::Product* const (&lanes)[32], int warp) {
    const emulate::Product& product = *lanes[0];
    if (digest_of(product, warp) != product.digest) fail("an operand changes before its product is done");
    const int columns = 2 * product.sums;
    float a[16][16], b[16], sums[16][256];
    for (int lane = 0; lane < 32; ++lane) {
        if (lanes[lane]->a != product.a || lanes[lane]->b != product.b)
            fail("lanes order different products");
        for (int i = 0; i < product.sums; ++i) {
            float& sum = sums[lane / 4 + (i & 2) * 4][i / 4 * 8 + lane % 4 * 2 + i % 2];
            sum = product.accumulate ? lanes[lane]->d[i] : 0.0f;
        }
    }
    for (int row = 0; row < 16; ++row) load_row(a[row], product.a, warp % 4 * 16 + row, product.value);
    for (int column = 0; column < columns; ++column) {
        load_row(b, product.b, column, product.value);
        for (int row = 0; row < 16; ++row) {
            float sum = 0.0f;
            for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k];
            sums[row][column] += sum;
        }
    }
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < product.sums; ++i)
            lanes[lane]->d[i] = sums[lane / 4 + (i & 2) * 4][i / 4 * 8 + lane % 4 * 2 + i % 2];
}

inline void wgmma_begin() { self().ordered.fenced = true; }
inline void wgmma_commit() { ++self().ordered.product_group; }
template <int kPending>
void wgmma_wait() {
    const uint32_t none = 0;
    emulate::exchange(&none, 0);
    auto& ordered = self().ordered;
    const auto is_due = [&](const emulate::Product& p) { return p.group < ordered.product_group - kPending; };
    if (self().lane == 0) {
        for (size_t i = 0; i < ordered.products.size() && is_due(ordered.products[i]); ++i) {
            emulate::Product* lanes[32];
            for (int lane = 0; lane < 32; ++lane) {
                auto& products = block->fibres[block->current + lane].ordered.products;
                if (products.size() <= i) fail("lanes order different products");
                lanes[lane] = &products[i];
            }
            compute(lanes, self().warp);
        }
    }
    emulate::exchange(&none, 0);
    while (!ordered.products.empty() && is_due(ordered.products.front())) ordered.products.pop_front();
    if (ordered.products.empty()) ordered.fenced = false;
}

template <typename T, int kSums>
void wgmma(float (&d)[kSums], uint64_t a, uint64_t b, int accumulate) {
    auto& ordered = self().ordered;
    if (!ordered.fenced) fail("a matrix product without a fence before it");
    const auto value = [](uint16_t bits) { return cuda::value(T{bits}); };
    emulate::Product product{d, kSums, ordered.product_group, a, b, 0, accumulate != 0, value};
    if (self().lane == 0) {
        product.digest = digest_of(product, self().warp);
        uint64_t& all = block->warps[self().warp].products;
        for (const uint64_t word : {a, b, uint64_t{kSums}, uint64_t(accumulate)})
            all = (all ^ word) * 0x9e3779b97f4a7c15;
    }
    ordered.products.push_back(product);
}

}  // namespace srk::sm90
