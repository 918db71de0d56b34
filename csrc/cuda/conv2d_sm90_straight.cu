// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The Hopper convolution with the usual epilogues.
#include "cuda/conv2d_sm90_launch.cuh"

cudaError_t srk::sm90::launch_straight(const ConvParams& p, Access access, cudaStream_t stream) {
    return launch<kUsual>(p, access, stream);
}
