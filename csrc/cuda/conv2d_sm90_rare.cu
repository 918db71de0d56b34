// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The Hopper convolution with gelu, tanh or a base that is enlarged bilinearly.
#include "cuda/conv2d_sm90_launch.cuh"

cudaError_t srk::sm90::launch_rare(const ConvParams& p, Access access, cudaStream_t stream) {
    return launch<kRare>(p, access, stream);
}
