// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
#define SRK_ISA avx2
#define SRK_LANES 8
#include "../kernels/all.inl"
