// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The body of a whole ISA unit.
#include "unit.inl"

namespace srk {
namespace {
namespace SRK_ISA {
// clang-format off: the order matters
#include "vec.inl"
#include "half.inl"
#include "epilogue.inl"
#include "conv_driver.inl"
#include "winograd.inl"
#include "winograd_pack.inl"
#include "conv_kernels.inl"
#include "chain.inl"
#include "pointwise.inl"
#include "probe.inl"
// clang-format on
}  // namespace SRK_ISA
}  // namespace

extern const Isa SRK_CAT(isa_, SRK_ISA);
const Isa SRK_CAT(isa_, SRK_ISA) = {
    SRK_STR(SRK_ISA),        SRK_LANES,
    SRK_ISA::kKernels,       static_cast<int32_t>(sizeof(SRK_ISA::kKernels) / sizeof(SRK_ISA::kKernels[0])),
    SRK_ISA::pack_winograd,  SRK_ISA::chain,
    SRK_ISA::shuffle,        SRK_ISA::add,
    SRK_ISA::image_to_float, SRK_ISA::float_to_image,
    SRK_ISA::probe,          false,
};
}  // namespace srk
