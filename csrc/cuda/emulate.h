// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// CUDA's model of execution on the host, so that kernels run without a GPU: blocks one after the other, one
// fibre per thread, shared memory poisoned before each block. Warp-wide operations meet in `exchange`.
// Asynchronous copies land when they are waited for, not before, so that a missing wait shows, or, with
// SRK_EMULATE_EARLY=1, at once, which shows what they overwrite too soon; threads take turns from the first
// one up or, with SRK_EMULATE_DOWN=1, from the last one down: a missing barrier shows in one of the two. What
// a GPU would leave undefined, and threads that wait for each other for ever, end the launch with an
// exception. SRK_EMULATE_BLOCK=n runs the n-th block of each grid alone; with SRK_EMULATE_REFUSE=1 every
// launch fails.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/emulate_async.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct float2 {
    float x, y;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
using std::max, std::min;

namespace srk::emulate {

struct Copy {
    void* to;
    const void* from;
    int bytes, size, group;
};

struct Fibre {
    ucontext_t start;
    jmp_buf at;
    std::unique_ptr<char[]> stack;
    bool started, done;
    dim3 thread;
    int warp, lane;
    int group;
    std::deque<Copy> copies;
    Ordered ordered;
    const char* waits;  // for what, if it does,
    uint32_t which;     // and of these for which
};

constexpr int kWords = 16;

struct Warp {
    int arrived = 0, alive = 0, turn = 0;
    uint32_t words[2][32][kWords];
    uint64_t products = 0;  // a digest of those that it has ordered
};

struct Block {
    std::vector<Fibre> fibres;
    std::vector<Warp> warps;
    std::vector<char> memory;
    char* shared;
    size_t bytes;
    dim3 size, grid, index;
    int current, alive, arrived, turn;
    int64_t idle;
    bool early, down;
    jmp_buf out;
    std::function<void()> body;
    Async async;
    std::string error;
};
inline Block* block = nullptr;
inline std::set<const void*> launched;  // kernels, since the process began

// Ends the launch.
[[noreturn]] inline void fail(const std::string& what) {
    const dim3 at = block->fibres[block->current].thread, of = block->index;
    block->error = what + " (thread " + std::to_string(at.x) + " of block " + std::to_string(of.x) + ")";
    _longjmp(block->out, 1);
}

inline Fibre& self() { return block->fibres[block->current]; }

inline void resume(int next) {
    block->current = next;
    Fibre& fibre = self();
    if (fibre.started) _longjmp(fibre.at, 1);
    fibre.started = true;
    setcontext(&fibre.start);
}

[[noreturn]] inline void fail_to_go_on() {
    std::set<std::string> all;
    for (const Fibre& fibre : block->fibres)
        if (!fibre.done)
            all.insert("warp " + std::to_string(fibre.warp) + " for " + fibre.waits +
                       (fibre.which ? std::to_string(fibre.which) : ""));
    std::string text;
    for (const std::string& one : all) text += (text.empty() ? "" : ", ") + one;
    fail("threads wait for ever: " + text);
}

// Lets another fibre of [first, first + count) run; this one waits for `what`. Whoever changes what another
// may wait for sets `idle` to 0.
inline void yield(int first, int count, const char* what, uint32_t which = 0) {
    self().waits = what, self().which = which;
    if (++block->idle > (1 << 20)) fail_to_go_on();
    int next = block->current;
    do {
        if (block->down)
            next = next == first ? first + count - 1 : next - 1;
        else
            next = next + 1 == first + count ? first : next + 1;
    } while (block->fibres[next].done && next != block->current);
    if (next == block->current) return;
    if (!_setjmp(self().at)) resume(next);
}

inline int total() { return static_cast<int>(block->fibres.size()); }

inline void leave() {
    Fibre& fibre = self();
    if (const char* what = fibre.ordered.unfinished()) fail(what);
    fibre.done = true, block->idle = 0;
    Warp& warp = block->warps[fibre.warp];
    --warp.alive, --block->alive;
    if (warp.alive && warp.arrived == warp.alive) warp.arrived = 0, ++warp.turn;
    if (block->alive && block->arrived == block->alive) block->arrived = 0, ++block->turn;
    if (!block->alive) _longjmp(block->out, 1);
    yield(0, total(), "");
}

inline void synchronize() {
    const int turn = block->turn;
    block->idle = 0;
    if (++block->arrived == block->alive) {
        block->arrived = 0;
        ++block->turn;
    }
    while (block->turn == turn) yield(0, total(), "the block's threads");
}

// Gives `words` of this lane to the warp and returns those of all lanes, [32][kWords]. A lane gets here again
// only when all have read, and two sets of words alternate: none is overwritten too early.
inline const uint32_t (*exchange(const uint32_t* words, int count)) [kWords] {
    Warp& warp = block->warps[self().warp];
    const int turn = warp.turn, first = self().warp * 32;
    auto& held = warp.words[turn & 1];
    std::memcpy(held[self().lane], words, count * sizeof *words);
    block->idle = 0;
    if (++warp.arrived == warp.alive) {
        warp.arrived = 0;
        ++warp.turn;
    }
    const int lanes = total() - first < 32 ? total() - first : 32;
    while (warp.turn == turn) yield(first, lanes, "the warp's lanes");
    return held;
}

// Bytes of shared memory at an address as PTX sees it.
inline char* shared_at(uint32_t address, uint32_t bytes, uint32_t alignment) {
    if (address % alignment) fail("a misaligned access to shared memory");
    if (address + bytes > block->bytes) fail("an access beyond shared memory");
    return block->shared + address;
}

inline void land(const Copy& copy) {
    std::memset(copy.to, 0, copy.size);
    std::memcpy(copy.to, copy.from, copy.bytes);
}

inline void start(const Copy& copy) { block->early ? land(copy) : self().copies.push_back(copy); }

// All but the `pending` latest groups of this thread.
inline void land(int pending) {
    Fibre& fibre = self();
    while (!fibre.copies.empty() && fibre.copies.front().group < fibre.group - pending) {
        land(fibre.copies.front());
        fibre.copies.pop_front();
    }
}

inline void enter() {
    block->body();
    leave();
}

inline bool is_set(const char* name) {
    const char* value = std::getenv(name);
    return value && *value == '1';
}

constexpr size_t kStack = 64 << 10;

template <class Body>
void run(dim3 grid, dim3 size, size_t bytes, Body body) {
    static std::mutex one;
    const std::lock_guard<std::mutex> lock(one);
    Block here{};
    here.size = size, here.grid = grid, here.bytes = bytes;
    here.body = body;
    here.early = is_set("SRK_EMULATE_EARLY"), here.down = is_set("SRK_EMULATE_DOWN");
    const int count = static_cast<int>(size.x * size.y * size.z);
    here.fibres = std::vector<Fibre>(count);
    here.memory.resize(bytes + 1024);
    here.shared = here.memory.data() + (-reinterpret_cast<uintptr_t>(here.memory.data()) & 1023);
    for (Fibre& fibre : here.fibres) fibre.stack.reset(new char[kStack]);
    block = &here;
    unsigned first = 0, end = grid.x * grid.y * grid.z;
    if (const char* only = std::getenv("SRK_EMULATE_BLOCK"))
        first = static_cast<unsigned>(std::atoi(only)), end = std::min(end, first + 1);
    for (volatile unsigned b = first; b < end; b = b + 1) {
        here.index = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
        std::memset(here.shared, 0xff, bytes);
        here.warps.assign((count + 31) / 32, {});
        here.alive = count, here.arrived = here.turn = 0, here.idle = 0;
        for (int i = 0; i < count; ++i) {
            Fibre& fibre = here.fibres[i];
            const unsigned u = i;
            fibre.thread = {u % size.x, u / size.x % size.y, u / size.x / size.y};
            fibre.warp = i / 32, fibre.lane = i % 32;
            ++here.warps[fibre.warp].alive;
            fibre.started = fibre.done = false;
            fibre.group = 0, fibre.waits = "";
            fibre.copies.clear();
            fibre.ordered = {};
            getcontext(&fibre.start);
            fibre.start.uc_stack.ss_sp = fibre.stack.get();
            fibre.start.uc_stack.ss_size = kStack;
            fibre.start.uc_link = nullptr;
            makecontext(&fibre.start, enter, 0);
        }
        here.async = Async(bytes);
        if (!_setjmp(here.out)) resume(here.down ? count - 1 : 0);
        if (here.error.empty()) here.error = here.async.unfinished();
        for (int i = 0; i < count / 32; ++i)
            if (here.warps[i].products != here.warps[i & ~3].products && here.error.empty())
                here.error = "the warps of a warpgroup have ordered different products";
        if (!here.error.empty()) break;
    }
    block = nullptr;
    if (!here.error.empty()) throw std::runtime_error("emulated kernel: " + here.error);
}

}  // namespace srk::emulate

#define threadIdx (srk::emulate::self().thread)
#define blockIdx (srk::emulate::block->index)
#define blockDim (srk::emulate::block->size)
#define gridDim (srk::emulate::block->grid)
inline void __syncthreads() { srk::emulate::synchronize(); }

// What the launchers use of the runtime. The device is an imagined one, with an odd number of
// multiprocessors.
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue = 1, cudaErrorInvalidDevice = 101 };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor,
    cudaDevAttrReservedSharedMemoryPerBlock,
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    constexpr int values[] = {3, 99 << 10, 100 << 10, 1 << 10, 8, 6};
    *value = values[attribute];
    return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
    return bytes <= 227 << 10 ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) { return error ? "invalid value" : "no error"; }
