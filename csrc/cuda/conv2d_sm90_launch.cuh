// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Launches of the Hopper convolution: tensor maps, how shared memory is divided, grid. The kernels are
// compiled in several units.
#pragma once
#include <array>

#include "cuda/conv2d_sm90.cuh"
#include "cuda/launch.h"

namespace srk::sm90 {

// What each unit launches, by the number of inputs and outputs; `access` of the straight path.
cudaError_t launch_straight(const ConvParams& p, Access access, cudaStream_t stream);
cudaError_t launch_rare(const ConvParams& p, Access access, cudaStream_t stream);
cudaError_t launch_staged(const ConvParams& p, cudaStream_t stream);

#ifndef SRK_EMULATE
using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, found through the runtime: nothing links against libcuda.
inline Encode encoder() {
    static const Encode encode = [] {
        void* f = nullptr;
        cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
        const cudaError_t e =
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
#else
        const cudaError_t e =
            cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &f, cudaEnableDefault, &found);
#endif
        return e == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(f)
                                                                        : nullptr;
    }();
    return encode;
}

// Boxes of 16-bit elements, rows of 128 bytes swizzled; extents and box in elements, pitches in bytes.
inline cudaError_t encode(CUtensorMap& map, int32_t dtype, uint32_t rank, void* data, const uint64_t* extents,
                          const uint64_t* pitches, const uint32_t* box) {
    const Encode encode = encoder();
    if (!encode) return cudaErrorNotSupported;
    const uint32_t ones[5] = {1, 1, 1, 1, 1};
    const CUresult r = encode(
        &map, dtype == kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank,
        data, extents, pitches, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}
#endif

template <size_t kRank>
cudaError_t make_map(CUtensorMap& map, int32_t dtype, void* data, const std::array<int64_t, kRank>& extents,
                     const std::array<int64_t, kRank - 1>& strides, const std::array<int, kRank>& box) {
    uint64_t dims[kRank], pitches[kRank - 1];
    uint32_t sides[kRank];
    for (size_t i = 0; i < kRank; ++i) {
        dims[i] = static_cast<uint64_t>(extents[i]);
        sides[i] = static_cast<uint32_t>(box[i]);
        if (i == 0) continue;
        // The stride of a dimension of extent one is free; the copy engine still wants a sensible one.
        const uint64_t sensible = i > 1 ? pitches[i - 2] * dims[i - 1] : (2 * dims[0] + 15) / 16 * 16;
        pitches[i - 1] = extents[i] > 1 ? 2 * static_cast<uint64_t>(strides[i - 1]) : sensible;
    }
    return encode(map, dtype, kRank, data, dims, pitches, sides);
}

// The conv pixels' positions in y or, with shuffle 1, a residual, as Maps says.
template <class C>
cudaError_t encode_staged(CUtensorMap& map, const View& v, const ConvParams& p, int64_t shuffle) {
    const int64_t step = p.step * shuffle;
    auto* data = static_cast<uint16_t*>(v.data) + shuffle * (p.phase_y * v.sy + p.phase_x * v.sx);
    return make_map<5>(map, p.dtype, data, {p.co / shuffle, p.ow, shuffle, p.oh, p.n},
                       {step * v.sx, v.sy, step * v.sy, v.sn}, {kChannels, 8, 1, C::kTileY, 1});
}

// Picture rows that share the weights' 64 rows: decides how weights are packed.
inline int stacked_rows(const ConvParams& p) { return p.co <= kChannels / 2 ? 2 : 1; }

template <class C>
Plan make_plan(const ConvParams& p, int multiprocessors) {
    Plan plan{};
    plan.tiles_x = static_cast<int>((p.ow + C::kTileX - 1) / C::kTileX);
    plan.tiles_y = static_cast<int>((p.oh + C::kTileY - 1) / C::kTileY);
    plan.tiles = static_cast<int>(plan.tiles_x * plan.tiles_y * p.n);
    plan.blocks = static_cast<int>((p.co + C::kBlock - 1) / C::kBlock);
    plan.chunks = static_cast<int>((p.ci + kChannels - 1) / kChannels);
    plan.lanes = std::min(plan.tiles, std::max(1, multiprocessors / plan.blocks));
    plan.weight_bytes = (C::kWeights == kResident ? plan.chunks : 1) * 3 * C::kSlotPitch + C::kSlotOffset;
    const uint32_t behind = C::kPath == kStaged ? 2 * C::kStagingBytes + kBarrierBytes : 0;
    plan.stages =
        std::min<int>(kMaxStages, (kMaxShared - 1024 - plan.weight_bytes - behind) / C::kStageBytes);
    plan.staging = plan.weight_bytes + plan.stages * C::kStageBytes;
    plan.barriers =
        C::kPath == kStaged ? plan.staging + 2 * C::kStagingBytes : plan.weight_bytes + C::kHaloBytes;
    plan.shared = 1024 + plan.staging + behind;
    return plan;
}

template <typename T, class C>
cudaError_t start(const ConvParams& p, const Plan& plan, cudaStream_t stream) {
    Maps maps{};
    const auto kernel = conv3x3<T, C>;
    const cuda::Launch how{"conv3x3", dim3{static_cast<unsigned>(plan.lanes * plan.blocks)}, kThreads,
                           static_cast<size_t>(plan.shared)};
    // First of all: it binds the device's context to the thread, which maps are made in.
    cudaError_t e = cuda::allow_memory(how, kernel);
    const auto encode_input = [&](CUtensorMap& map, const View& v, int64_t channels) {
        return make_map<4>(map, p.dtype, v.data, {channels, p.w, p.h, p.n}, {v.sx, v.sy, v.sn},
                           {kChannels, C::kHaloX, C::kHaloY, 1});
    };
    if (e == cudaSuccess) e = encode_input(maps.x, p.x, p.ci1 ? p.ci1 : p.ci);
    if (e == cudaSuccess && p.ci1) e = encode_input(maps.x2, p.x2, p.ci - p.ci1);
    if constexpr (C::kPath == kStaged) {
        if (e == cudaSuccess) e = encode_staged<C>(maps.y, p.y, p, p.shuffle);
        if (e == cudaSuccess && p.res1.data) e = encode_staged<C>(maps.res1, p.res1, p, 1);
        if (e == cudaSuccess && p.res2.data) e = encode_staged<C>(maps.res2, p.res2, p, 1);
    }
    return e == cudaSuccess ? cuda::launch(how, kernel, stream, maps, p, plan) : e;
}

template <typename T, class C>
cudaError_t launch(const ConvParams& p, cudaStream_t stream) {
    int device = 0, multiprocessors = 0;
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    return e == cudaSuccess ? start<T, C>(p, make_plan<C>(p, multiprocessors), stream) : e;
}

template <typename T, Access kAccess, Finish kFinish>
cudaError_t launch(const ConvParams& p, cudaStream_t stream) {
    const bool one_chunk = p.ci <= kChannels;
    if (stacked_rows(p) == 2)
        return one_chunk
                   ? launch<T, Config<kResident, kHalves, kInTurn, kAccess, 2, kStraight, kFinish>>(p, stream)
                   : launch<T, Config<kResident, kOwn, kInTurn, kAccess, 2, kStraight, kFinish>>(p, stream);
    return one_chunk
               ? launch<T, Config<kResident, kHalves, kInTurn, kAccess, 1, kStraight, kFinish>>(p, stream)
               : launch<T, Config<kStreamed, kHalves, kFree, kAccess, 1, kStraight, kFinish>>(p, stream);
}

template <Finish kFinish>
cudaError_t launch(const ConvParams& p, Access access, cudaStream_t stream) {
    if (p.dtype == kFloat16)
        return access == kVector ? launch<__half, kVector, kFinish>(p, stream)
                                 : launch<__half, kScalar, kFinish>(p, stream);
    return access == kVector ? launch<__nv_bfloat16, kVector, kFinish>(p, stream)
                             : launch<__nv_bfloat16, kScalar, kFinish>(p, stream);
}

}  // namespace srk::sm90
