// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
#define SRK_ISA amx
#define SRK_LANES 16
#include "../kernels/bf16.inl"
