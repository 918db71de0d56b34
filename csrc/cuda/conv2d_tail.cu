// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Launcher of the convolution to at most four channels: which calls it takes, grid.
#include "cuda/conv2d_tail.cuh"

#include <algorithm>

#include "cuda/launch.h"

namespace srk::cuda {
namespace {

template <class S>
__global__ void __launch_bounds__(S::Threads, S::Blocks)
    conv2d_tail_kernel(const __grid_constant__ TailArgs a) {
    Tail<S>(a).run();
}

template <class S>
cudaError_t start(const ConvParams& p, cudaStream_t stream) {
    const int64_t colours = p.co / (int64_t{p.shuffle} * p.shuffle), s = int64_t{p.step} * p.shuffle;
    TailArgs a{};
    a.p = p;
    a.epilogue.colours = Divisor(static_cast<uint32_t>(colours));
    a.epilogue.shuffle = Divisor(static_cast<uint32_t>(p.shuffle));
    a.epilogue.base_factor = Divisor(static_cast<uint32_t>(std::max(p.base_factor, 1)));
    a.epilogue.y_whole = takes_runs(p.y, colours, p.shuffle, 4, p.n, p.oh * s, p.ow * s);
    a.epilogue.res1_whole = takes_runs(p.res1, p.co, 1, 4, p.n, p.oh, p.ow);
    a.epilogue.res2_whole = takes_runs(p.res2, p.co, 1, 4, p.n, p.oh, p.ow);
    a.epilogue.base_whole =
        p.base_mode == kBaseSame && takes_runs(p.base, colours, p.shuffle, 4, p.n, p.oh * s, p.ow * s);
    const int64_t tiles_x = (p.ow + S::TileX - 1) / S::TileX, tiles_y = (p.oh + S::TileY - 1) / S::TileY;
    a.tiles_x = Divisor(static_cast<uint32_t>(tiles_x));
    a.tiles_y = Divisor(static_cast<uint32_t>(tiles_y));
    const Launch how{"conv2d_tail_kernel", dim3{static_cast<unsigned>(p.n * tiles_x * tiles_y)}, S::Threads,
                     S::SharedBytes};
    if (const cudaError_t error = allow_memory(how, conv2d_tail_kernel<S>)) return error;
    return launch(how, conv2d_tail_kernel<S>, stream, a);
}

template <class T, int Outputs>
cudaError_t start_for(const ConvParams& p, cudaStream_t stream) {
    if (p.ci <= 32) return start<TailShape<T, Outputs, 1>>(p, stream);
    if (p.ci <= 64) return start<TailShape<T, Outputs, 2>>(p, stream);
    return start<TailShape<T, Outputs, 4>>(p, stream);
}

template <class T>
cudaError_t start_for(const ConvParams& p, cudaStream_t stream) {
    return p.co == 1   ? start_for<T, 1>(p, stream)
           : p.co <= 3 ? start_for<T, 3>(p, stream)
                       : start_for<T, 4>(p, stream);
}

}  // namespace

// Why this kernel doesn't take a convolution; null if it does.
const char* conv2d_tail_reason(const ConvParams& p) {
    if (p.dtype != kFloat16 && p.dtype != kBFloat16) return "dtype is not float16 or bfloat16";
    if (p.kh != 3 || p.kw != 3) return "kernel is not 3x3";
    if (p.stride_y != 1 || p.stride_x != 1 || p.dilation_y != 1 || p.dilation_x != 1)
        return "stride or dilation is not 1";
    if (p.co > 4) return "more than four output channels";
    if (p.ci % 8 || p.ci > 128) return "input channels are not a multiple of 8 up to 128";
    const auto off = [](int64_t stride, int64_t extent) { return extent > 1 && stride % 8 != 0; };
    if (reinterpret_cast<uintptr_t>(p.x.data) % 16 || off(p.x.sn, p.n) || off(p.x.sy, p.h) ||
        off(p.x.sx, p.w))
        return "input's address or strides are not multiples of 16 bytes";
    for (const int64_t extent : {p.h, p.w, p.oh * p.step * p.shuffle, p.ow * p.step * p.shuffle})
        if (extent < 1 || extent >= 1 << 30) return "an extent is out of range";
    if (p.x.sy >= int64_t{1} << 31 || p.x.sx >= int64_t{1} << 31) return "input's strides are too large";
    if (p.n * (p.oh / 16 + 1) * (p.ow / 32 + 1) >= int64_t{1} << 31) return "there are too many tiles";
    return nullptr;
}

cudaError_t conv2d_tail(const ConvParams& p, cudaStream_t stream) {
    if (conv2d_tail_reason(p)) return cudaErrorInvalidValue;
    return p.dtype == kFloat16 ? start_for<Float16>(p, stream) : start_for<BFloat16>(p, stream);
}

}  // namespace srk::cuda
