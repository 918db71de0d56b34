// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Launcher of the Hopper convolution: which shapes it takes, tensor maps, grid.
#include "cuda/conv2d_sm90.cuh"

#include <array>

#include "cuda/launch.h"

namespace srk {
namespace sm90 {
namespace {

#ifndef SRK_EMULATE
using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, found through the runtime: nothing links against libcuda.
Encode encoder() {
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
cudaError_t encode(CUtensorMap& map, int32_t dtype, uint32_t rank, void* data, const uint64_t* extents,
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

// Whether the copy engine takes a view of h x w pixels.
bool copyable(const View& v, const ConvParams& p, int64_t h, int64_t w) {
    return reinterpret_cast<uintptr_t>(v.data) % 16 == 0 && (w == 1 || v.sx % 8 == 0) &&
           (h == 1 || v.sy % 8 == 0) && (p.n == 1 || v.sn % 8 == 0);
}

// Picture rows that share the weights' 64 rows: decides how weights are packed.
int stacked_rows(const ConvParams& p) { return p.co <= kChannels / 2 ? 2 : 1; }

// Whether each four packed channels lie in eight aligned bytes of a view.
bool vector_access(const View& v, const ConvParams& p, int step, int shuffle) {
    const int64_t group = p.co / (shuffle * shuffle);
    const bool runs = group % 4 == 0 || (v.sx == group && group * shuffle % 4 == 0);
    return runs && p.co % 4 == 0 && reinterpret_cast<uintptr_t>(v.data) % 8 == 0 && v.sx * step % 4 == 0 &&
           v.sy % 4 == 0 && (v.sn % 4 == 0 || p.n == 1) && (shuffle == 1 || v.sx % 4 == 0 || v.sx == group);
}

Access access(const ConvParams& p) {
    const bool vector = vector_access(p.y, p, p.step * p.shuffle, p.shuffle) &&
                        (!p.res1.data || vector_access(p.res1, p, p.step, 1)) &&
                        (!p.res2.data || vector_access(p.res2, p, p.step, 1)) &&
                        (p.base_mode != kBaseSame || vector_access(p.base, p, p.step * p.shuffle, p.shuffle));
    return vector ? kVector : kScalar;
}

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
    // First of all: it binds the device's context to the thread, which maps are made in.
    cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(plan.shared));
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
    if (e != cudaSuccess) return e;
    const dim3 grid{static_cast<unsigned>(plan.lanes * plan.blocks)};
    return cuda::launch(kernel, grid, kThreads, plan.shared, stream, maps, p, plan);
}

template <typename T, class C>
cudaError_t launch(const ConvParams& p, cudaStream_t stream) {
    int device = 0, multiprocessors = 0;
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    return e == cudaSuccess ? start<T, C>(p, make_plan<C>(p, multiprocessors), stream) : e;
}

template <typename T, Access kAccess>
cudaError_t launch(const ConvParams& p, cudaStream_t stream) {
    const bool one_chunk = p.ci <= kChannels;
    if (stacked_rows(p) == 2)
        return one_chunk ? launch<T, Config<kResident, kHalves, kInTurn, kAccess, 2>>(p, stream)
                         : launch<T, Config<kResident, kOwn, kInTurn, kAccess, 2>>(p, stream);
    return one_chunk ? launch<T, Config<kResident, kHalves, kInTurn, kAccess, 1>>(p, stream)
                     : launch<T, Config<kStreamed, kHalves, kFree, kAccess, 1>>(p, stream);
}

template <typename T>
cudaError_t launch(const ConvParams& p, cudaStream_t stream) {
    return access(p) == kVector ? launch<T, kVector>(p, stream) : launch<T, kScalar>(p, stream);
}

template <typename T>
cudaError_t launch_staged(const ConvParams& p, cudaStream_t stream) {
    return p.ci <= kChannels ? launch<T, Config<kResident, kHalves, kInTurn, kVector, 1, kStaged>>(p, stream)
                             : launch<T, Config<kStreamed, kHalves, kFree, kVector, 1, kStaged>>(p, stream);
}

}  // namespace
}  // namespace sm90

// Why the Hopper kernel doesn't take a convolution; null if it does. Holds for any device of compute
// capability 9.0.
const char* conv2d_sm90_reason(const ConvParams& p) {
    using namespace sm90;
    if (p.dtype == kFloat32) return "dtype is not float16 or bfloat16";
    if (p.kh != 3 || p.kw != 3) return "kernel is not 3x3";
    if (p.stride_y != 1 || p.stride_x != 1 || p.dilation_y != 1 || p.dilation_x != 1)
        return "stride or dilation is not 1";
    if (p.ci % 8) return "input channels are not a multiple of 8";
    if (!copyable(p.x, p, p.h, p.w) || (p.ci1 && !copyable(p.x2, p, p.h, p.w)))
        return "input's address or strides are not multiples of 16 bytes";
    if (p.ci1 % kChannels) return "the first of two inputs is no multiple of 64 channels";
    if (stacked_rows(p) == 2 && p.ci > 3 * kChannels)
        return "more than 192 input channels for at most 32 outputs: their weights leave no room for tiles";
    if (p.act == kGelu || p.act == kTanh) return "activation is gelu or tanh";
    if (p.base_mode == kBaseBilinear) return "base is enlarged bilinearly";
    if (p.base_mode == kBaseNearest && (p.base_factor != p.shuffle || p.step != 1))
        return "base is not enlarged by the factor of the shuffle";
    if (p.base_mode == kBaseNearest && p.co > 4 * p.shuffle * p.shuffle)
        return "enlarged base has more than four channels";
    if (p.shuffle != 1 && (p.res1.data || p.res2.data)) return "residual under a shuffle";
    if (p.co % (p.shuffle * p.shuffle)) return "output channels are not a multiple of the shuffle's square";
    const int64_t limit = int64_t(1) << 31;
    const int64_t tiles = (p.oh / 28 + 1) * (p.ow / 8 + 1) * p.n;
    if (tiles >= limit || p.co * (p.step * p.shuffle) >= limit || p.h >= limit || p.w >= limit ||
        p.shuffle * (p.y.sy + p.y.sx) >= limit || p.shuffle * (p.base.sy + p.base.sx) >= limit)
        return "too large for 32-bit tile and row indices";
    return nullptr;
}

cudaError_t conv2d_sm90(const ConvParams& p, cudaStream_t stream) {
    if (conv2d_sm90_reason(p)) return cudaErrorInvalidValue;
    if (p.n == 0 || p.oh == 0 || p.ow == 0 || p.co == 0) return cudaSuccess;
    return p.dtype == kFloat16 ? sm90::launch<__half>(p, stream) : sm90::launch<__nv_bfloat16>(p, stream);
}

// The same with results staged, rows of its weights in the order of channels.
const char* conv2d_sm90_staged_reason(const ConvParams& p) {
    using namespace sm90;
    if (const char* reason = conv2d_sm90_reason(p)) return reason;
    if (stacked_rows(p) == 2) return "at most 32 output channels";
    if (p.base_mode != kBaseNone) return "there is a base";
    const int64_t s = p.shuffle, positions = p.step * s;
    if (s > 1 && (p.y.sx * s * s != p.co || p.co / s % kChannels))
        return "a row of sub-pixels is not adjacent or no multiple of 64 channels";
    const auto take = [&](const View& v, int64_t scale) {
        return !v.data || copyable(v, p, p.oh * scale, p.ow * scale);
    };
    if (!take(p.y, positions) || !take(p.res1, p.step) || !take(p.res2, p.step))
        return "output's or a residual's address or strides are not multiples of 16 bytes";
    return nullptr;
}

cudaError_t conv2d_sm90_staged(const ConvParams& p, cudaStream_t stream) {
    if (conv2d_sm90_staged_reason(p)) return cudaErrorInvalidValue;
    if (p.n == 0 || p.oh == 0 || p.ow == 0 || p.co == 0) return cudaSuccess;
    return p.dtype == kFloat16 ? sm90::launch_staged<__half>(p, stream)
                               : sm90::launch_staged<__nv_bfloat16>(p, stream);
}

}  // namespace srk
