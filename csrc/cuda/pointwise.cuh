// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// What the memory-bound ops share: a thread for each of many indices, elements that move together.
#pragma once
#include <algorithm>
#include <cstdint>

#include "cuda/ptx.cuh"

namespace srk::cuda {

constexpr int kThreads = 256;

inline unsigned blocks_for(int64_t count) {
    return static_cast<unsigned>(std::clamp<int64_t>((count + kThreads - 1) / kThreads, 1, 1 << 16));
}

__device__ __forceinline__ int64_t first_index() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }
__device__ __forceinline__ int64_t index_step() { return int64_t{gridDim.x} * kThreads; }

inline bool aligned(const void* p, int bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

template <class T, int Width>
struct alignas(sizeof(T) * Width) Several {
    T v[Width];
};

// 16 bytes to global memory, which the compiler may not divide.
#ifdef SRK_EMULATE
inline void store_whole(void* to, uint4 v) { *static_cast<uint4*>(to) = v; }
#else
__device__ __forceinline__ void store_whole(void* to, uint4 v) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(v.x),
                 "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}
#endif

}  // namespace srk::cuda
