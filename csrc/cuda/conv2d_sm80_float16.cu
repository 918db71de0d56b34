// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The convolution kernels of float16 tensors.
#include "cuda/conv2d_sm80.cuh"

namespace srk::cuda {

#define SRK_KERNEL(name, channels, depth, full) conv2d_sm80<Conv2dShape<Float16, channels, depth, full>>,
Conv2dFunction const conv2d_float16[] = {SRK_CONV2D_KERNELS(SRK_KERNEL)};
#undef SRK_KERNEL

}  // namespace srk::cuda
