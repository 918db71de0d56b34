// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The memory-bound ops but the shuffles: 16 bytes of the widest tensor at a time where addresses allow it.
#include "cuda/launch.h"
#include "cuda/pointwise.cuh"
#include "cuda/ptx.cuh"

namespace srk::cuda {
namespace {

__device__ __forceinline__ float value(float x) { return x; }
using cuda::value;

template <class T>
struct Rounded {
    static __device__ __forceinline__ T of(float x) { return rounded<T>(x); }
};
template <>
struct Rounded<float> {
    static __device__ __forceinline__ float of(float x) { return x; }
};

template <class T, int Width>
__global__ void add_kernel(const __grid_constant__ AddParams p) {
    using Vector = Several<T, Width>;
    const auto *x = static_cast<const Vector*>(p.x), *r1 = static_cast<const Vector*>(p.r1);
    const auto* r2 = static_cast<const Vector*>(p.r2);
    auto* y = static_cast<Vector*>(p.y);
    const int64_t whole = p.count / Width;
    for (int64_t i = first_index(); i < whole; i += index_step()) {
        const Vector a = x[i], b = r1[i], c = r2 ? r2[i] : Vector{};
        Vector out;
        SRK_UNROLL
        for (int k = 0; k < Width; ++k) {
            float z = p.scale * value(a.v[k]) + p.b1 * value(b.v[k]);
            if (r2) z += p.b2 * value(c.v[k]);
            out.v[k] = Rounded<T>::of(z);
        }
        y[i] = out;
    }
    for (int64_t i = whole * Width + first_index(); i < p.count; i += index_step()) {
        const auto at = [i](const void* v) { return value(static_cast<const T*>(v)[i]); };
        float z = p.scale * at(p.x) + p.b1 * at(p.r1);
        if (p.r2) z += p.b2 * at(p.r2);
        static_cast<T*>(p.y)[i] = Rounded<T>::of(z);
    }
}

template <class T>
cudaError_t add_as(const AddParams& p, cudaStream_t stream) {
    constexpr int kWidth = 16 / sizeof(T);
    const bool wide = aligned(p.x, 16) && aligned(p.r1, 16) && aligned(p.r2, 16) && aligned(p.y, 16);
    const Launch how{"add_kernel", dim3{blocks_for(p.count / (wide ? kWidth : 1))}, kThreads, 0};
    return wide ? launch(how, add_kernel<T, kWidth>, stream, p) : launch(how, add_kernel<T, 1>, stream, p);
}

template <class T>
constexpr float kFull = sizeof(T) == 1 ? 255.0f : 65535.0f;

template <class T>
__device__ __forceinline__ float shown(T x) {
    return static_cast<float>(x) / kFull<T>;
}
// Clamped to [0, 1] and rounded half to even; NaN gives 0.
template <class T>
__device__ __forceinline__ T stored(float x) {
    return static_cast<T>(rintf(fminf(fmaxf(x, 0.0f), 1.0f) * kFull<T>));
}

template <class T, int Width>
__global__ void to_float_kernel(const __grid_constant__ ImageParams p) {
    const auto* x = static_cast<const Several<T, Width>*>(p.x);
    auto* y = static_cast<Several<float, Width>*>(p.y);
    const int64_t whole = p.count / Width;
    for (int64_t i = first_index(); i < whole; i += index_step()) {
        const Several<T, Width> a = x[i];
        Several<float, Width> out;
        SRK_UNROLL
        for (int k = 0; k < Width; ++k) out.v[k] = shown(a.v[k]);
        y[i] = out;
    }
    for (int64_t i = whole * Width + first_index(); i < p.count; i += index_step())
        static_cast<float*>(p.y)[i] = shown(static_cast<const T*>(p.x)[i]);
}

template <class T, int Width>
__global__ void to_image_kernel(const __grid_constant__ ImageParams p) {
    const auto* x = static_cast<const Several<float, Width>*>(p.x);
    auto* y = static_cast<Several<T, Width>*>(p.y);
    const int64_t whole = p.count / Width;
    for (int64_t i = first_index(); i < whole; i += index_step()) {
        const Several<float, Width> a = x[i];
        Several<T, Width> out;
        SRK_UNROLL
        for (int k = 0; k < Width; ++k) out.v[k] = stored<T>(a.v[k]);
        y[i] = out;
    }
    for (int64_t i = whole * Width + first_index(); i < p.count; i += index_step())
        static_cast<T*>(p.y)[i] = stored<T>(static_cast<const float*>(p.x)[i]);
}

using ImageFunction = void (*)(ImageParams);

// wide, narrow: for four elements at a time and for one.
cudaError_t launch_image(const char* name, const ImageParams& p, const void* floats, const void* whole,
                         ImageFunction wide, ImageFunction narrow, cudaStream_t stream) {
    const bool four = aligned(floats, 16) && aligned(whole, p.bits / 2);
    const Launch how{name, dim3{blocks_for(p.count / (four ? 4 : 1))}, kThreads, 0};
    return launch(how, four ? wide : narrow, stream, p);
}

}  // namespace

cudaError_t add(const AddParams& p, cudaStream_t stream) {
    return p.dtype == kFloat32    ? add_as<float>(p, stream)
           : p.dtype == kBFloat16 ? add_as<BFloat16>(p, stream)
                                  : add_as<Float16>(p, stream);
}

cudaError_t image_to_float(const ImageParams& p, cudaStream_t stream) {
    const bool bytes = p.bits == 8;
    return launch_image("to_float_kernel", p, p.y, p.x,
                        bytes ? to_float_kernel<uint8_t, 4> : to_float_kernel<uint16_t, 4>,
                        bytes ? to_float_kernel<uint8_t, 1> : to_float_kernel<uint16_t, 1>, stream);
}

cudaError_t float_to_image(const ImageParams& p, cudaStream_t stream) {
    const bool bytes = p.bits == 8;
    return launch_image("to_image_kernel", p, p.x, p.y,
                        bytes ? to_image_kernel<uint8_t, 4> : to_image_kernel<uint16_t, 4>,
                        bytes ? to_image_kernel<uint8_t, 1> : to_image_kernel<uint16_t, 1>, stream);
}

}  // namespace srk::cuda
