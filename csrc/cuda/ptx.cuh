// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The instructions of sm_80 that C++ has no word for, each beside what it does on the host (SRK_EMULATE).
#pragma once
#include <cstdint>

#ifdef SRK_EMULATE
#include "cuda/emulate.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#ifdef __CUDACC__
#define SRK_UNROLL _Pragma("unroll")
#define SRK_ROLL _Pragma("unroll 1")
#else
#define SRK_UNROLL
#define SRK_ROLL
#endif

namespace srk::cuda {

// Elements of 16 bits.
struct Float16 {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

#ifdef SRK_EMULATE

inline float value(Float16 x) {
    _Float16 h;
    std::memcpy(&h, &x, sizeof h);
    return static_cast<float>(h);
}
inline float value(BFloat16 x) {
    const uint32_t bits = uint32_t{x.bits} << 16;
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}
template <class T>
T rounded(float x);
template <>
inline Float16 rounded<Float16>(float x) {
    const _Float16 h = static_cast<_Float16>(x);
    Float16 r;
    std::memcpy(&r, &h, sizeof r);
    return r;
}
template <>
inline BFloat16 rounded<BFloat16>(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline char* shared_memory() { return emulate::block->shared; }
inline uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(static_cast<const char*>(p) - emulate::block->shared);
}

// 16 bytes from global to shared memory, of which `bytes` are read and the others zero.
inline void copy_async(uint32_t to, const void* from, int bytes) {
    if (bytes && reinterpret_cast<uintptr_t>(from) % 16) emulate::fail("a misaligned asynchronous copy");
    emulate::start({emulate::shared_at(to, 16, 16), from, bytes, 16, emulate::self().group});
}
inline void copy_commit() { ++emulate::self().group; }
// Waits until at most `Pending` of this thread's latest groups are under way.
template <int Pending>
void copy_wait() {
    emulate::land(Pending);
}

// Four 8x8 matrices of 16-bit elements; the address is that of row lane % 8 of matrix lane / 8. Register i
// holds elements 2*(lane % 4) and the next of row lane / 4 of matrix i.
inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
    const auto all = emulate::exchange(&address, 1);
    const int lane = emulate::self().lane;
    for (int i = 0; i < 4; ++i)
        std::memcpy(&r[i], emulate::shared_at(all[8 * i + lane / 4][0], 16, 16) + lane % 4 * 4, 4);
}
inline void load_matrices(uint32_t (&r)[2], uint32_t address) {
    const auto all = emulate::exchange(&address, 1);
    const int lane = emulate::self().lane;
    for (int i = 0; i < 2; ++i)
        std::memcpy(&r[i], emulate::shared_at(all[8 * i + lane / 4][0], 16, 16) + lane % 4 * 4, 4);
}

// d (16x8) += a (16x16, rows) * b (16x8, columns), sums in float32; fragments as in the PTX manual, m16n8k16.
template <class T>
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t own[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const auto all = emulate::exchange(own, 6);
    const int g = emulate::self().lane / 4, t = emulate::self().lane % 4;
    const auto half = [](uint32_t word, int i) { return value(T{static_cast<uint16_t>(word >> 16 * i)}); };
    for (int i = 0; i < 4; ++i) {
        const int column = 2 * t + i % 2;
        for (int k = 0; k < 16; ++k) {
            const float x = half(all[4 * g + k % 8 / 2][k / 8 * 2 + i / 2], k % 2);
            const float w = half(all[4 * column + k % 8 / 2][4 + k / 8], k % 2);
            d[i] += x * w;
        }
    }
}

#else

__device__ __forceinline__ float value(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ __forceinline__ float value(BFloat16 x) { return __uint_as_float(uint32_t{x.bits} << 16); }
template <class T>
__device__ T rounded(float x);
template <>
__device__ __forceinline__ Float16 rounded<Float16>(float x) {
    return {__half_as_ushort(__float2half_rn(x))};
}
template <>
__device__ __forceinline__ BFloat16 rounded<BFloat16>(float x) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}

__device__ __forceinline__ char* shared_memory() {
    extern __shared__ __align__(1024) char memory[];
    return memory;
}
__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void copy_async(uint32_t to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrices(uint32_t (&r)[2], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}

template <class T>
__device__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
#define SRK_MMA(T, type)                                                                       \
    template <>                                                                                \
    __device__ __forceinline__ void mma<T>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, \
                                           uint32_t b1) {                                      \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                    \
                     ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"    \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                          \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));          \
    }
SRK_MMA(Float16, "f16")
SRK_MMA(BFloat16, "bf16")
#undef SRK_MMA

#endif

// Two values as one word, the first in its lower half.
template <class T>
__device__ __forceinline__ uint32_t packed(float x, float y) {
    return rounded<T>(x).bits | uint32_t{rounded<T>(y).bits} << 16;
}
template <class T>
__device__ __forceinline__ void unpack(uint32_t word, float& x, float& y) {
    x = value(T{static_cast<uint16_t>(word)});
    y = value(T{static_cast<uint16_t>(word >> 16)});
}

}  // namespace srk::cuda
