// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The launchers: parameters and a stream in, an error of the runtime out. All work on the current device.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "params.h"
#ifdef SRK_EMULATE
#include "cuda/emulate.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace srk {
// The one of compute capability 9.0, where it is compiled (SRK_SM90); conv2d_sm90.cuh describes its weights.
const char* conv2d_sm90_reason(const ConvParams& p);
cudaError_t conv2d_sm90(const ConvParams& p, cudaStream_t stream);
// The same with results, and residuals before, in shared memory, which the copy engine reads and writes.
const char* conv2d_sm90_staged_reason(const ConvParams& p);
cudaError_t conv2d_sm90_staged(const ConvParams& p, cudaStream_t stream);
}  // namespace srk

namespace srk::cuda {

// A convolution kernel: `channels` outputs of a block, `depth` input channels at a time. Weights of 16 bits
// are packed [ceil(co/channels)][ceil(k/depth)][taps][channels][depth], zeros in what is padded, where
//   k = ci, taps = kh*kw            if the kernel reads pixels as they lie,
//   k = kh*kw*ci (tap-major), taps = 1   if it gathers them (`gathers`).
struct Conv2dKernel {
    const char* name;
    int channels, depth;
    bool full;  // takes every epilogue; otherwise `conv2d_is_plain` ones
};
const std::vector<Conv2dKernel>& conv2d_kernels();

// Whether the pixels of x are gathered, element by element: thin or misaligned ones, or windows too wide to
// be held. Decided by sizes and strides alone; where they are not gathered, x must lie at a multiple of 16
// bytes.
bool conv2d_gathers(const ConvParams& p);
// No curve (silu, gelu, tanh, sigmoid), no base, and no residual under a shuffle.
bool conv2d_is_plain(const ConvParams& p);
// Why p cannot run on the current device; empty where it can.
std::string conv2d_refusal(const ConvParams& p);
cudaError_t conv2d(const ConvParams& p, cudaStream_t stream);

// The one for at most four outputs: why it does not take p (null where it does), and its launch. Weights as
// those of a portable kernel {4 channels, depth 32} that does not gather.
const char* conv2d_tail_reason(const ConvParams& p);
cudaError_t conv2d_tail(const ConvParams& p, cudaStream_t stream);

// Whether 16 bytes are moved at a time, or else single elements.
bool shuffles_in_pieces(const ShuffleParams& p);
// Why p cannot run, by sizes and strides alone; null where it can.
const char* shuffle_reason(const ShuffleParams& p);
cudaError_t shuffle(const ShuffleParams& p, cudaStream_t stream);
cudaError_t add(const AddParams& p, cudaStream_t stream);
cudaError_t image_to_float(const ImageParams& p, cudaStream_t stream);
cudaError_t float_to_image(const ImageParams& p, cudaStream_t stream);

// A block of `threads` threads for each of (x, y) with `bytes` of shared memory.
struct Launch {
    const char* kernel;
    dim3 grid;
    int threads;
    size_t bytes;
};
// The one that this thread came to last, for the error that names it.
inline Launch& last_launch() {
    thread_local Launch last{};
    return last;
}

// Lets the kernel have the launch's shared memory, beyond 48 KB too.
template <class Kernel>
cudaError_t allow_memory(const Launch& how, Kernel kernel) {
    last_launch() = how;
    return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(how.bytes));
}

#ifdef SRK_EMULATE
template <class... Args>
cudaError_t launch(const Launch& how, void (*kernel)(Args...), cudaStream_t, const Args&... args) {
    last_launch() = how;
    if (emulate::is_set("SRK_EMULATE_REFUSE")) return cudaErrorInvalidValue;
    emulate::launched.insert(reinterpret_cast<const void*>(kernel));
    const dim3 size{static_cast<unsigned>(how.threads)};
    emulate::run(how.grid, size, how.bytes, [&] { kernel(args...); });
    return cudaSuccess;
}
template <class Args>
cudaError_t resident_blocks(int* count, void (*)(Args), int, int, size_t, int) {
    *count = 1;
    return cudaSuccess;
}
#elif defined(__CUDACC__)
template <class... Args>
cudaError_t launch(const Launch& how, void (*kernel)(Args...), cudaStream_t stream, const Args&... args) {
    last_launch() = how;
    void* list[] = {const_cast<Args*>(&args)...};
    const cudaError_t error = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), how.grid,
                                               dim3(how.threads), list, how.bytes, stream);
    return error ? error : cudaGetLastError();
}
// Blocks of a kernel that one of the device's multiprocessors holds at a time; kept, since the runtime takes
// microseconds to tell. The kernel's limit of shared memory is raised once, to `most`.
template <class Args>
cudaError_t resident_blocks(int* count, void (*kernel)(Args), int device, int threads, size_t bytes,
                            int most) {
    static std::mutex mutex;
    static std::map<std::tuple<int, void (*)(Args), size_t>, int> known;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto key = std::make_tuple(device, kernel, bytes);
    const auto found = known.find(key);
    if (found != known.end()) return *count = found->second, cudaSuccess;
    cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                             cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    if (!error) error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(count, kernel, threads, bytes);
    if (!error) known[key] = *count;
    return error;
}
#endif

}  // namespace srk::cuda
