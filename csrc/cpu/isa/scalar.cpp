// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
#define SRK_ISA scalar
#define SRK_LANES 4
#include "../kernels/all.inl"
