// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Small kernels for the emulation of csrc/cuda/ptx_sm90_host.h: sound ones, whose results are known, and
// faulty ones. Prints a line for each: its name and what the emulation says of it.
#include <cstdio>
#include <cstdlib>

#include "cuda/launch.h"
#include "cuda/ptx_sm90.cuh"

namespace {

using namespace srk::sm90;
using srk::cuda::rounded;
using srk::cuda::value;

constexpr int kWeights = 0, kPixels = 8192, kBarrier = 65536, kBytes = 66560;
uint16_t source[64 * 64 * 4], target[64 * 64 * 4];
float result[64][128];

float pixel(int row, int channel) { return static_cast<float>((row * 7 + channel * 3) % 9 - 4); }
float weight(int row, int channel) { return static_cast<float>((row * 5 + channel) % 7 - 3); }

void put(int matrix, int row, int channel, float v) {
    const int at = matrix + row * 128 + ((channel / 8 ^ row % 8) * 16 + channel % 8 * 2);
    *reinterpret_cast<__half*>(srk::cuda::shared_memory() + at) = rounded<__half>(v);
    wrote_shared(at, 2);
}

// 64 rows of weights and `rows` pixels, all 64 channels of each, swizzled.
void fill(int rows) {
    for (int i = threadIdx.x; i < 64 * 64; i += 128) put(kWeights, i / 64, i % 64, weight(i / 64, i % 64));
    for (int i = threadIdx.x; i < rows * 64; i += 128) put(kPixels, i / 64, i % 64, pixel(i / 64, i % 64));
}

void multiply(float (&d)[64], uint32_t pixels, uint32_t group, uint32_t base) {
    for (int k = 0; k < 4; ++k)
        wgmma<__half>(d, descriptor_swizzled(kWeights + 32 * k, 1024),
                      descriptor_swizzled(pixels + 32 * k, group, base), k);
}

struct Case {
    int shift, pitch;  // pixels
    uint32_t base;
    bool store_fence, product_fence, wait, change;
};

// Groups of eight pixels `pitch` apart, all `shift` pixels further on: what an H100 does in
// probe_descriptors.cu.
void product(Case c) {
    fill(c.shift + 15 * c.pitch + 8);
    if (c.store_fence) fence_async_proxy();
    __syncthreads();
    float d[64] = {};
    if (c.product_fence) wgmma_begin();
    multiply(d, kPixels + c.shift * 128, c.pitch * 128, c.base);
    wgmma_commit();
    if (c.change) {
        __syncthreads();
        if (threadIdx.x == 0) put(kPixels, c.shift, 0, 9), fence_async_proxy();
        __syncthreads();
    }
    if (c.wait) wgmma_wait<0>();
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    for (int i = 0; i < 64; ++i) result[row + (i & 2) * 4][i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
    if (!c.wait) wgmma_wait<0>();
}

std::string sums(const Case& c) {
    for (int row = 0; row < 64; ++row)
        for (int column = 0; column < 128; ++column) {
            float sum = 0;
            for (int k = 0; k < 64; ++k)
                sum += weight(row, k) * pixel(c.shift + column / 8 * c.pitch + column % 8, k);
            if (sum != result[row][column]) return "wrong sums";
        }
    return "right";
}

struct Copy {
    CUtensorMap map, to;
    bool publish, wait, change, read, outside;
    uint32_t parity;
};

// A box of 64 channels x 8 x 4 pixels into shared memory and out again.
void copy(Copy c) {
    if (threadIdx.x == 0) {
        mbarrier_init(kBarrier, 1);
        if (c.publish) fence_mbarrier_init();
        mbarrier_expect(kBarrier, 64 * 8 * 4 * 2);
        tensor_copy(kPixels, &c.map, 0, c.outside ? 4 : 0, 0, 0, 0, kBarrier);
    }
    __syncthreads();
    if (c.wait) mbarrier_wait(kBarrier, c.parity);
    const uint32_t lane = kPixels + threadIdx.x % 32 * 128 + threadIdx.x / 32 * 16;
    uint32_t words[4];
    load_matrices(words, lane);
    store_matrices(lane, words[0], words[1], words[2], words[3]);
    fence_async_proxy();
    __syncthreads();
    if (threadIdx.x == 0) {
        tensor_store(&c.to, kPixels, 0, 0, 0, 0, 0);
        bulk_commit();
        if (c.change) put(kPixels, 0, 0, 3), fence_async_proxy();
        if (c.read) bulk_wait_read();
        if (!c.wait) mbarrier_wait(kBarrier, 0);
    }
}

CUtensorMap map_of(uint16_t* data) {
    const uint64_t extents[] = {64, 8, 1, 4, 1}, pitches[] = {128, 1024, 1024, 4096};
    const uint32_t box[] = {64, 8, 1, 4, 1};
    CUtensorMap map;
    if (encode(map, srk::kFloat16, 5, data, extents, pitches, box)) std::abort();
    return map;
}

std::string copied(const Copy& c) {
    const int moved = c.outside ? 4 : 0;
    for (int i = 0; i < 64 * 8 * 4; ++i) {
        const int x = i / 64 % 8 + moved, at = i + moved * 64;
        if (target[i] != (x < 8 ? source[at] : 0)) return "another picture";
    }
    return "right";
}

void barriers(int fault) {
    const int warp = threadIdx.x / 32;
    if (threadIdx.x == 0) {
        mbarrier_init(kBarrier, 2);
        fence_mbarrier_init();
        if (fault == 0) std::memset(srk::cuda::shared_memory() + kBarrier, 0, 8);
    }
    __syncthreads();
    if (fault == 1 && threadIdx.x < 3) mbarrier_expect(kBarrier, 16);
    if (fault == 2) named_sync(1, 256);
    if (fault == 3) warp < 2 ? named_sync(1, 128) : named_sync(1, 64);
    if (fault == 4) registers_request<256>(), registers_request<256>();
    if (fault == 5 && warp) named_arrive(1, 128);
    if (threadIdx.x == 0) mbarrier_arrive(kBarrier);
    if (fault == 6) mbarrier_wait(kBarrier, 0);
}

// Two threads write into the same sixteen bytes, which a copy reads; those of `fenced` fence what they wrote.
void writers(int fenced) {
    const int thread = threadIdx.x;
    if (thread < 2) put(kPixels, 0, thread, 3);
    if (thread < 2 && fenced >> thread & 1) fence_async_proxy();
    __syncthreads();
    if (thread) return;
    const CUtensorMap to = map_of(target);
    tensor_store(&to, kPixels, 0, 0, 0, 0, 0);
    bulk_commit();
    bulk_wait_read();
}

struct Turns {
    bool wait, read;  // each reader waits for its copy; all have read before the next one
};

// The third warp reads a copy that the second thread has waited for, into whose place that thread then orders
// another: a fault shows where the turns of the two fall that way.
void turns(Turns c) {
    const int thread = threadIdx.x;
    const auto order = [](int which) {
        mbarrier_expect(kBarrier + 8 * which, 4096);
        bulk_copy(kPixels, source + 2048 * which, 4096, kBarrier + 8 * which);
    };
    if (thread == 0) {
        for (int which = 0; which < 2; ++which) mbarrier_init(kBarrier + 8 * which, 1);
        fence_mbarrier_init();
        order(0);
    }
    __syncthreads();
    if (c.wait || thread == 1) mbarrier_wait(kBarrier, 0);
    if (thread / 32 == 2)
        std::memcpy(result[thread % 32], srk::cuda::shared_memory() + kPixels + thread % 32 * 128, 128);
    if (c.read) __syncthreads();
    if (thread == 1) order(1);
    __syncthreads();
    mbarrier_wait(kBarrier + 8, 0);
}

std::string read(const Turns&) {
    return std::memcmp(result[0], source, 128) || std::memcmp(result[31], source + 31 * 64, 128)
               ? "another picture"
               : "right";
}

template <class Args, class Check>
void tell(const char* name, void (*kernel)(Args), const Args& args, Check check) {
    std::string said;
    try {
        srk::cuda::launch({"fault", dim3{1}, 128, kBytes}, kernel, nullptr, args);
        said = check(args);
    } catch (const std::exception& error) {
        said = error.what();
    }
    std::printf("%s: %s\n", name, said.c_str());
}

}  // namespace

int main() {
    for (int i = 0; i < 64 * 64 * 4; ++i) source[i] = static_cast<uint16_t>(i);
    const auto without = [](auto sound, auto member, auto v) { return sound.*member = v, sound; };
    const Case sound{0, 8, 0, true, true, true, false};
    tell("sums", product, sound, sums);
    tell("shifted", product, Case{3, 16, 0, true, true, true, false}, sums);
    tell("pitch 18", product, Case{35, 18, 0, true, true, true, false}, sums);
    tell("shift as base", product, Case{3, 16, 3, true, true, true, false}, sums);
    tell("store fence", product, without(sound, &Case::store_fence, false), sums);
    tell("product fence", product, without(sound, &Case::product_fence, false), sums);
    tell("product wait", product, without(sound, &Case::wait, false), sums);
    tell("operand", product, without(sound, &Case::change, true), sums);
    const Copy whole{map_of(source), map_of(target), true, true, false, true, false, 0};
    tell("copy", copy, whole, copied);
    tell("zeros outside", copy, without(whole, &Copy::outside, true), copied);
    tell("publish", copy, without(whole, &Copy::publish, false), copied);
    tell("copy wait", copy, without(whole, &Copy::wait, false), copied);
    tell("parity", copy, without(whole, &Copy::parity, 1u), copied);
    tell("source", copy, without(whole, &Copy::change, true), copied);
    tell("read", copy, without(whole, &Copy::read, false), copied);
    const char* const names[] = {"mark",      "arrivals", "count", "disagree",
                                 "registers", "left",     "hang",  "none"};
    for (int fault = 0; fault < 8; ++fault)
        tell(names[fault], barriers, fault, [](int) { return std::string("right"); });
    const char* const fenced[] = {"none fenced", "first fenced", "second fenced", "both fenced"};
    for (int which = 0; which < 4; ++which)
        tell(fenced[which], writers, which, [](int) { return std::string("right"); });
    tell("turns", turns, Turns{true, true}, read);
    tell("another's wait", turns, Turns{false, true}, read);
    tell("overwritten", turns, Turns{true, false}, read);
}
