// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Kernels with what the tests of machine code look for: spilled registers, shared memory of their own.
extern "C" __global__ void __launch_bounds__(1024) spills(const float* x, float* y) {
    float v[128];
#pragma unroll
    for (int i = 0; i < 128; ++i) v[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 128; ++i) y[i * 1024 + threadIdx.x] = v[i] * v[(i + 61) % 128];
}

extern "C" __global__ void shares(float* y) {
    __shared__ float held[256];
    held[threadIdx.x] = y[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = held[255 - threadIdx.x];
}
