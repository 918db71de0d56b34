// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The Hopper convolution whose results, and residuals before, lie in shared memory.
#include "cuda/conv2d_sm90_launch.cuh"

namespace srk::sm90 {
namespace {

template <typename T>
cudaError_t launch_as(const ConvParams& p, cudaStream_t stream) {
    return p.ci <= kChannels ? launch<T, Config<kResident, kHalves, kInTurn, kVector, 1, kStaged>>(p, stream)
                             : launch<T, Config<kStreamed, kHalves, kFree, kVector, 1, kStaged>>(p, stream);
}

}  // namespace

cudaError_t launch_staged(const ConvParams& p, cudaStream_t stream) {
    return p.dtype == kFloat16 ? launch_as<__half>(p, stream) : launch_as<__nv_bfloat16>(p, stream);
}

}  // namespace srk::sm90
