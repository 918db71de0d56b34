// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Settles on a Hopper GPU what conv2d_sm90 relies on: matrix descriptors that start inside a swizzle pattern,
// planes without a swizzle, tensor copies with a halo, and how fast matrix products run from such operands.
//   nvcc -gencode=arch=compute_90a,code=sm_90a -O3 -std=c++17 -Icsrc csrc/cuda/probe_descriptors.cu -o probe
//   ./probe swizzled | planes | copy | rate
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define SRK_BOUNDED_WAIT
#include <cuda_runtime.h>

#include "cuda/ptx_sm90.cuh"

using namespace srk::sm90;

#define CHECK(call)                                                                            \
    do {                                                                                       \
        const cudaError_t e_ = (call);                                                         \
        if (e_ != cudaSuccess) {                                                               \
            std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_)); \
            std::exit(2);                                                                      \
        }                                                                                      \
    } while (0)

constexpr int kC = 64, kRows = 34;
constexpr uint32_t kABytes = 64 * kC * 2, kShared = 232448;

// b[pixel][channel], pixels of `pitch` a row; the product's column 8g + i is pixel shift + g*pitch + i.
struct Case {
    int pitch, shift, base, planes;
};

template <int kN>
__global__ void __launch_bounds__(128) multiply(const __half* a, const __half* b, float* d, Case c) {
    extern __shared__ uint8_t shared[];
    const uint32_t start = (shared_address(shared) + 1023) & ~1023u;
    uint8_t* base = shared + (start - shared_address(shared));
    const int pixels = kRows * c.pitch, plane = (pixels * 16 + 127) / 128 * 128 + 16;
    for (int i = threadIdx.x; i < 64 * kC; i += 128) {
        const int row = i / kC, k = i % kC;
        *reinterpret_cast<__half*>(base + row * 128 + ((k / 8 ^ row % 8) * 16 + k % 8 * 2)) = a[i];
    }
    uint8_t* tile = base + kABytes;
    for (int i = threadIdx.x; i < pixels * kC; i += 128) {
        const int pixel = i / kC, k = i % kC;
        const int at = c.planes ? k / 8 * plane + pixel * 16 + k % 8 * 2
                                : pixel * 128 + ((k / 8 ^ pixel % 8) * 16 + k % 8 * 2);
        *reinterpret_cast<__half*>(tile + at) = b[i];
    }
    fence_async_proxy();
    __syncthreads();
    float acc[kN / 2] = {};
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const uint64_t a_desc = descriptor_swizzled(start + k * 32, 1024);
        uint64_t b_desc;
        if (c.planes) {
            const uint32_t half = plane, group = c.pitch * 16;
            b_desc = descriptor_planes(start + kABytes + c.shift * 16 + 2 * k * plane, half, group);
        } else {
            b_desc = descriptor_swizzled(start + kABytes + c.shift * 128 + k * 32, c.pitch * 128, c.base);
        }
        wgmma<__half>(acc, a_desc, b_desc, 1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = 0; i < kN / 2; ++i)
        d[(warp * 16 + lane / 4 + (i / 2 % 2) * 8) * kN + i / 4 * 8 + lane % 4 * 2 + i % 2] = acc[i];
}

std::vector<__half> integers(size_t n, unsigned seed) {
    std::vector<__half> v(n);
    for (auto& e : v) {
        seed = seed * 1664525u + 1013904223u;
        e = __float2half(static_cast<float>(static_cast<int>(seed >> 24) % 9 - 4));
    }
    return v;
}

template <typename T>
T* upload(const std::vector<T>& v) {
    T* p;
    CHECK(cudaMalloc(&p, v.size() * sizeof(T)));
    CHECK(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}

template <int kN>
double error(Case c) {
    const auto a = integers(64 * kC, 1), b = integers(size_t(kRows) * c.pitch * kC, 2);
    __half *da = upload(a), *db = upload(b);
    std::vector<float> d(64 * kN, NAN);
    float* dd = upload(d);
    CHECK(cudaFuncSetAttribute(multiply<kN>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
    multiply<kN><<<1, 128, kShared>>>(da, db, dd, c);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(d.data(), dd, d.size() * 4, cudaMemcpyDeviceToHost));
    double worst = 0;
    for (int m = 0; m < 64; ++m)
        for (int n = 0; n < kN; ++n) {
            double sum = 0;
            const size_t pixel = c.shift + n / 8 * c.pitch + n % 8;
            for (int k = 0; k < kC; ++k)
                sum += double(__half2float(a[m * kC + k])) * __half2float(b[pixel * kC + k]);
            const double e = std::fabs(sum - d[m * kN + n]);
            worst = e > worst || std::isnan(e) ? (std::isnan(e) ? 1e30 : e) : worst;
        }
    CHECK(cudaFree(da));
    CHECK(cudaFree(db));
    CHECK(cudaFree(dd));
    return worst;
}

void products(bool planes) {
    const int shifts[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 18, 19, 37, 38};
    std::printf("%-9s pitch base |", planes ? "planes" : "swizzled");
    for (int s : shifts) std::printf(" %5d", s);
    std::printf("   max |error| of m64n256 / n8 at these shifts\n");
    for (int n8 = 0; n8 < 2; ++n8)
        for (int pitch : {16, 18, 24})
            for (int mode = 0; mode < (planes ? 1 : 2); ++mode) {
                if (pitch == 24 && planes) continue;
                std::printf("%-9s %5d %4s |", n8 ? "n8" : "n256", pitch, mode ? "=s%8" : "0");
                for (int s : shifts) {
                    if (s + 31 * pitch + 8 > kRows * pitch) {
                        std::printf("     -");
                        continue;
                    }
                    const Case c{pitch, s, mode ? s % 8 : 0, planes};
                    std::printf(" %5.3g", n8 ? error<8>(c) : error<256>(c));
                }
                std::printf("\n");
            }
}

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode encoder() {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found));
    if (!f) std::exit((std::printf("no cuTensorMapEncodeTiled\n"), 2));
    return reinterpret_cast<Encode>(f);
}

constexpr uint32_t kHalo = 18 * 34 * 128;

__global__ void copy_tile(const __grid_constant__ CUtensorMap map, int planes, int x, int y, int n,
                          uint8_t* out) {
    extern __shared__ uint8_t shared[];
    const uint32_t start = (shared_address(shared) + 1023) & ~1023u, barrier = start + kHalo;
    uint8_t* base = shared + (start - shared_address(shared));
    for (uint32_t i = threadIdx.x; i < kHalo; i += blockDim.x) base[i] = 0xff;
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
    }
    fence_async_proxy();
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_expect(barrier, kHalo);
        if (planes)
            tensor_copy(start, &map, 0, x, y, 0, n, barrier);
        else
            tensor_copy(start, &map, 0, x, y, n, barrier);
    }
    mbarrier_wait(barrier, 0);
    for (uint32_t i = threadIdx.x; i < kHalo; i += blockDim.x) out[i] = base[i];
}

void copies() {
    const int n = 2, h = 40, w = 30, ci = 48;  // channels 48..63 of the box lie outside
    const auto x = integers(size_t(n) * h * w * kC, 3);
    __half* dx = upload(x);
    uint8_t* out;
    CHECK(cudaMalloc(&out, kHalo));
    const Encode encode = encoder();
    for (int planes = 0; planes < 2; ++planes)
        for (int place = 0; place < 2; ++place) {
            const int x0 = place ? 15 : -1, y0 = place ? 31 : -1, image = place;
            CUtensorMap map;
            const cuuint32_t ones[5] = {1, 1, 1, 1, 1};
            const cuuint64_t sx = kC * 2, sy = sx * w, sn = sy * h;
            const cuuint64_t dims4[4] = {ci, w, h, n}, strides4[3] = {sx, sy, sn};
            const cuuint64_t dims5[5] = {8, w, h, ci / 8, n}, strides5[4] = {sx, sy, 16, sn};
            const cuuint32_t box4[4] = {kC, 18, 34, 1}, box5[5] = {8, 18, 34, 8, 1};
            const CUresult r = encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, planes ? 5 : 4, dx,
                                      planes ? dims5 : dims4, planes ? strides5 : strides4,
                                      planes ? box5 : box4, ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                      planes ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
                                      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
            if (r != CUDA_SUCCESS) {
                std::printf("copy planes=%d: encode failed: %d\n", planes, int(r));
                continue;
            }
            CHECK(cudaFuncSetAttribute(copy_tile, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
            copy_tile<<<1, 256, kShared>>>(map, planes, x0, y0, image, out);
            CHECK(cudaGetLastError());
            CHECK(cudaDeviceSynchronize());
            std::vector<uint8_t> got(kHalo);
            CHECK(cudaMemcpy(got.data(), out, kHalo, cudaMemcpyDeviceToHost));
            double worst = 0;
            for (int p = 0; p < 18 * 34; ++p)
                for (int k = 0; k < kC; ++k) {
                    const int px = x0 + p % 18, py = y0 + p / 18;
                    const bool in = px >= 0 && px < w && py >= 0 && py < h && k < ci;
                    const float want =
                        in ? __half2float(x[((size_t(image) * h + py) * w + px) * kC + k]) : 0.f;
                    const int at = planes ? (k / 8 * 18 * 34 + p) * 16 + k % 8 * 2
                                          : p * 128 + ((k / 8 ^ p % 8) * 16 + k % 8 * 2);
                    __half v;
                    std::memcpy(&v, &got[at], 2);
                    const double e = std::fabs(want - __half2float(v));
                    if (!(e <= worst)) worst = std::isnan(e) ? 1e30 : e;
                }
            std::printf("copy %-8s at (%d, %d), image %d: max |error| %g\n", planes ? "planes" : "swizzled",
                        x0, y0, image, worst);
        }
}

// Clocks a product, kGroups warpgroups at once, `rounds` times nine taps of four steps each.
template <int kGroups>
__global__ void __launch_bounds__(kGroups * 128)
    repeat(int rounds, int planes, int shift, int same_a, long long* clocks, float* sink) {
    extern __shared__ uint8_t shared[];
    const uint32_t start = (shared_address(shared) + 1023) & ~1023u;
    for (uint32_t i = threadIdx.x; i < 152 * 1024 / 4; i += blockDim.x)
        reinterpret_cast<uint32_t*>(shared + (start - shared_address(shared)))[i] =
            (i * 2654435761u) & 0x3bff3bff;
    fence_async_proxy();
    __syncthreads();
    const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
    const uint32_t tile = start + 9 * 8192;
    float acc[128] = {};
    const long long begin = clock64();
    for (int r = 0; r < rounds; ++r) {
        wgmma_begin();
#pragma unroll
        for (int tap = 0; tap < 9; ++tap)
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int pixel = (shift ? tap / 3 * 18 + tap % 3 : 0) + 8 * group;
                const uint64_t b = planes ? descriptor_planes(tile + pixel * 16 + 2 * k * 9792, 9792, 288)
                                          : descriptor_swizzled(tile + pixel * 128 + k * 32, 18 * 128);
                wgmma<__half>(acc, descriptor_swizzled(start + (same_a ? 0 : tap * 8192) + k * 32, 1024), b,
                              1);
            }
        wgmma_commit();
        wgmma_wait<0>();
    }
    const long long end = clock64();
    if (threadIdx.x % 128 == 0) clocks[group] = end - begin;
    float sum = 0;
    for (int i = 0; i < 128; ++i) sum += acc[i];
    sink[threadIdx.x] = sum;
}

template <int kGroups>
void rate(int planes, int shift, int same_a) {
    long long *clocks, host[2];
    float* sink;
    CHECK(cudaMalloc(&clocks, 16));
    CHECK(cudaMalloc(&sink, 4096));
    CHECK(cudaFuncSetAttribute(repeat<kGroups>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
    const int rounds = 50;
    repeat<kGroups><<<1, kGroups * 128, kShared>>>(rounds, planes, shift, same_a, clocks, sink);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(host, clocks, 8 * kGroups, cudaMemcpyDeviceToHost));
    std::printf(
        "rate %d warpgroup(s) %-8s taps %-7s weights %-5s: %.1f clocks a product of 64x256x16 (ideal 128)\n",
        kGroups, planes ? "planes" : "swizzled", shift ? "shifted" : "same", same_a ? "same" : "nine",
        double(host[0]) / (rounds * 36 * kGroups));
    CHECK(cudaFree(clocks));
    CHECK(cudaFree(sink));
}

int main(int argc, char** argv) {
    const char* what = argc > 1 ? argv[1] : "";
    if (!std::strcmp(what, "swizzled"))
        products(false);
    else if (!std::strcmp(what, "planes"))
        products(true);
    else if (!std::strcmp(what, "copy"))
        copies();
    else if (!std::strcmp(what, "rate"))
        for (int planes = 0; planes < 2; ++planes)
            for (int shift = 0; shift < 2; ++shift) {
                rate<1>(planes, shift, 0);
                rate<2>(planes, shift, 0);
            }
    else
        return std::printf("usage: probe swizzled | planes | copy | rate\n"), 1;
    return 0;
}
