// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
#define SRK_ISA avx512
#define SRK_LANES 16
#include "../kernels/all.inl"
