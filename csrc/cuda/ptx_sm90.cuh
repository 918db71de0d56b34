// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Hopper's instructions: mbarriers, bulk and tensor copies, warpgroup matrix products. Shared-memory
// addresses are 32-bit, as PTX wants them. Semantics: PTX ISA 8.0 and later, "Asynchronous warpgroup level
// matrix instructions".
#pragma once
#include <cstdint>
#include <type_traits>

#include "cuda/ptx.cuh"
#ifdef SRK_EMULATE
#include "cuda/ptx_sm90_host.h"
#else
#include <cuda.h>
#endif

namespace srk::sm90 {

// Shared-memory matrix descriptors, K-major operands. `group` is the distance of two groups of eight rows.
enum Swizzle : uint64_t { kNoSwizzle = 0, kSwizzle128 = 1 };

// Rows of 128 bytes whose 16-byte units are XORed with the row's index modulo 8.
__host__ __device__ constexpr uint64_t descriptor_swizzled(uint32_t address, uint32_t group,
                                                           uint32_t base = 0) {
    return uint64_t((address & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(group >> 4) << 32 |
           uint64_t(base & 7) << 49 | kSwizzle128 << 62;
}

// Rows of 16 bytes, eight of them adjacent; the second half of sixteen channels lies `half` bytes behind the
// first.
__host__ __device__ constexpr uint64_t descriptor_planes(uint32_t address, uint32_t half, uint32_t group) {
    return uint64_t((address & 0x3ffff) >> 4) | uint64_t(half >> 4) << 16 | uint64_t(group >> 4) << 32;
}

#ifndef SRK_EMULATE

using cuda::shared_address;

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

__device__ inline float max_nan(float a, float b) {
    float d;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
    return d;
}
__device__ inline float fast_exp(float x) { return __expf(x); }
__device__ inline float fast_divide(float x, float y) { return __fdividef(x, y); }

// The compiler knows nothing of x from here on.
__device__ inline void opaque(size_t& x) { asm volatile("" : "+l"(x)); }
__device__ inline void opaque(int& x) { asm volatile("" : "+r"(x)); }

// Shared memory that the thread has written by ordinary stores: the host wants to know.
__device__ inline void wrote_shared(uint32_t, uint32_t) {}

__device__ inline void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Initialised barriers become visible to the copy engine.
__device__ inline void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void mbarrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

__device__ inline void mbarrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Waits until the phase of this parity has completed. SRK_BOUNDED_WAIT: traps instead of hanging for seconds.
__device__ inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
#ifdef SRK_BOUNDED_WAIT
    const long long start = clock64();
#endif
    for (uint32_t done = 0; !done;) {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
#ifdef SRK_BOUNDED_WAIT
        if (clock64() - start > 4000000000ll) __trap();
#endif
    }
}

// A warpgroup gives up or asks for registers: `kCount` of each thread afterwards, a multiple of 8.
template <int kCount>
__device__ inline void registers_release() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ inline void registers_request() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

// A barrier of `threads` threads: sync waits for them, arrive only counts.
__device__ inline void named_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void named_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Ordinary writes to shared memory become visible to tensor cores and the copy engine.
__device__ inline void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ inline void prefetch_map(const CUtensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Copies that complete on `barrier`; `bytes` and both addresses are multiples of 16.
__device__ inline void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier)
        : "memory");
}
__device__ inline void tensor_copy(uint32_t to, const CUtensorMap* map, int c0, int c1, int c2, int c3,
                                   uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
        "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(barrier)
        : "memory");
}
__device__ inline void tensor_copy(uint32_t to, const CUtensorMap* map, int c0, int c1, int c2, int c3,
                                   int c4, uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(to),
        "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "r"(barrier)
        : "memory");
}

// A box from shared memory to global memory; the copies that a thread has ordered until bulk_commit have read
// their source after its bulk_wait_read.
__device__ inline void tensor_store(const CUtensorMap* map, uint32_t from, int c0, int c1, int c2, int c3,
                                    int c4) {
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map),
        "r"(from), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
        : "memory");
}
__device__ inline void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
__device__ inline void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// Four 8x8 matrices of 16-bit elements; lane 8i + r addresses row r of the i-th, 16 bytes. Transposed: each
// thread holds rows 2*(lane%4) and +1, column lane/4.
__device__ inline void load_matrices(uint32_t (&d)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(row)
                 : "memory");
}
__device__ inline void store_matrices(uint32_t row, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}

// An 8x8 matrix of 16-bit elements, row lane/4, columns 2*(lane%4) and +1 in each thread, transposed.
__device__ inline uint32_t transpose8x8(uint32_t a) {
    uint32_t d;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(a));
    return d;
}

// Matrix products between wgmma_begin and wgmma_commit run in order; registers are theirs until wgmma_wait.
__device__ inline void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// clang-format off
#define SRK_OUT_8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), \
    "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SRK_OUT_32(i) SRK_OUT_8(i), SRK_OUT_8(i + 8), SRK_OUT_8(i + 16), SRK_OUT_8(i + 24)
#define SRK_REGS_4 "%0, %1, %2, %3"

#define SRK_REGS_56 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
    "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, " \
    "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
    "%54, %55"

#define SRK_REGS_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
    "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, " \
    "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
    "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

#define SRK_REGS_88 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87"

#define SRK_REGS_128 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
    "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, " \
    "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
    "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, " \
    "%66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
    "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, " \
    "%98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, " \
    "%126, %127"

// clang-format on

#define SRK_WGMMA(n, type, regs, a, b, flag, ...)                                                   \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, " flag ", 0; wgmma.mma_async.sync.aligned.m64n" #n \
                 "k16.f32." type "." type " {" regs "}, " a ", " b ", p, 1, 1, 0, 0; }"             \
                 : __VA_ARGS__                                                                      \
                 : "l"(a_desc), "l"(b_desc), "r"(accumulate))

// d (64 x N) = a (64 x 16) * b (N x 16)^T (+ d), operands in shared memory. Warp w of the warpgroup holds
// rows 16w on: d[4j + 2h + i] is row lane/4 + 8h, column 8j + 2*(lane%4) + i.
template <typename T>
__device__ inline void wgmma(float (&d)[128], uint64_t a_desc, uint64_t b_desc, int accumulate) {
    if constexpr (std::is_same_v<T, __half>)
        SRK_WGMMA(256, "f16", SRK_REGS_128, "%128", "%129", "%130", SRK_OUT_32(0), SRK_OUT_32(32),
                  SRK_OUT_32(64), SRK_OUT_32(96));
    else
        SRK_WGMMA(256, "bf16", SRK_REGS_128, "%128", "%129", "%130", SRK_OUT_32(0), SRK_OUT_32(32),
                  SRK_OUT_32(64), SRK_OUT_32(96));
}
template <typename T>
__device__ inline void wgmma(float (&d)[88], uint64_t a_desc, uint64_t b_desc, int accumulate) {
    if constexpr (std::is_same_v<T, __half>)
        SRK_WGMMA(176, "f16", SRK_REGS_88, "%88", "%89", "%90", SRK_OUT_32(0), SRK_OUT_32(32), SRK_OUT_8(64),
                  SRK_OUT_8(72), SRK_OUT_8(80));
    else
        SRK_WGMMA(176, "bf16", SRK_REGS_88, "%88", "%89", "%90", SRK_OUT_32(0), SRK_OUT_32(32), SRK_OUT_8(64),
                  SRK_OUT_8(72), SRK_OUT_8(80));
}
template <typename T>
__device__ inline void wgmma(float (&d)[64], uint64_t a_desc, uint64_t b_desc, int accumulate) {
    if constexpr (std::is_same_v<T, __half>)
        SRK_WGMMA(128, "f16", SRK_REGS_64, "%64", "%65", "%66", SRK_OUT_32(0), SRK_OUT_32(32));
    else
        SRK_WGMMA(128, "bf16", SRK_REGS_64, "%64", "%65", "%66", SRK_OUT_32(0), SRK_OUT_32(32));
}
template <typename T>
__device__ inline void wgmma(float (&d)[56], uint64_t a_desc, uint64_t b_desc, int accumulate) {
    if constexpr (std::is_same_v<T, __half>)
        SRK_WGMMA(112, "f16", SRK_REGS_56, "%56", "%57", "%58", SRK_OUT_32(0), SRK_OUT_8(32), SRK_OUT_8(40),
                  SRK_OUT_8(48));
    else
        SRK_WGMMA(112, "bf16", SRK_REGS_56, "%56", "%57", "%58", SRK_OUT_32(0), SRK_OUT_8(32), SRK_OUT_8(40),
                  SRK_OUT_8(48));
}
template <typename T>
__device__ inline void wgmma(float (&d)[4], uint64_t a_desc, uint64_t b_desc, int accumulate) {
    if constexpr (std::is_same_v<T, __half>)
        SRK_WGMMA(8, "f16", SRK_REGS_4, "%4", "%5", "%6", "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]));
    else
        SRK_WGMMA(8, "bf16", SRK_REGS_4, "%4", "%5", "%6", "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]));
}

#endif

}  // namespace srk::sm90
