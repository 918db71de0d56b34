// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The body of an ISA unit that multiplies bfloat16 values and sums in float32: it adds kernels to those of AVX-512.
#include "unit.inl"

namespace srk {
namespace {
namespace SRK_ISA {
// clang-format off: the order matters
#include "vec.inl"
#include "half.inl"
#include "epilogue.inl"
#include "bf16_instructions.inl"
#include "bf16_driver.inl"
#ifdef __AMX_BF16__
#include "bf16_tiles.inl"
#else
#include "bf16_vectors.inl"
#endif
// clang-format on
}  // namespace SRK_ISA
}  // namespace

extern const ConvKernels SRK_CAT(kernels_, SRK_ISA);
const ConvKernels SRK_CAT(kernels_, SRK_ISA) = {
    SRK_STR(SRK_ISA), SRK_ISA::kKernels,
    static_cast<int32_t>(sizeof(SRK_ISA::kKernels) / sizeof(SRK_ISA::kKernels[0]))};
}  // namespace srk
