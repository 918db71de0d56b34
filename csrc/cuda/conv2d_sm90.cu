// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Launcher of the Hopper convolution: which shapes it takes, tensor maps, grid.
#include "cuda/conv2d_sm90.cuh"

namespace srk {
namespace sm90 {
namespace {

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

cudaError_t encode_input(CUtensorMap& map, const ConvParams& p, Layout layout) {
    const Encode encode = encoder();
    if (!encode) return cudaErrorNotSupported;
    const auto u = [](int64_t v) { return static_cast<cuuint64_t>(v); };
    // The stride of a dimension of extent one is free; the copy engine still wants a sensible one.
    const cuuint64_t sx = 2 * u(p.w > 1 ? p.x.sx : p.ci), sy = p.h > 1 ? 2 * u(p.x.sy) : sx * u(p.w),
                     sn = p.n > 1 ? 2 * u(p.x.sn) : sy * u(p.h);
    const cuuint64_t pixel_dims[4] = {u(p.ci), u(p.w), u(p.h), u(p.n)}, pixel_strides[3] = {sx, sy, sn};
    const cuuint64_t plane_dims[5] = {8, u(p.w), u(p.h), u(p.ci / 8), u(p.n)},
                     plane_strides[4] = {sx, sy, 16, sn};
    const cuuint32_t pixel_box[4] = {kChannels, kHaloX, kHaloY, 1}, plane_box[5] = {8, kHaloX, kHaloY, 8, 1};
    const cuuint32_t ones[5] = {1, 1, 1, 1, 1};
    const bool pixels = layout == kSwizzled;
    const CUresult r = encode(
        &map, p.dtype == kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        pixels ? 4 : 5, p.x.data, pixels ? pixel_dims : plane_dims, pixels ? pixel_strides : plane_strides,
        pixels ? pixel_box : plane_box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
        pixels ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
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

template <typename T, class C>
cudaError_t launch(const ConvParams& p, cudaStream_t stream) {
    int device = 0, multiprocessors = 0, shared = 0;
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (e != cudaSuccess) return e;
    if (shared < static_cast<int>(kSharedBytes)) return cudaErrorInvalidConfiguration;
    const auto kernel = conv3x3<T, C>;
    e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
    if (e != cudaSuccess) return e;
    CUtensorMap map;
    e = encode_input(map, p, C::kLayout);
    if (e != cudaSuccess) return e;
    Plan plan;
    plan.tiles_x = static_cast<int>((p.ow + kTileX - 1) / kTileX);
    plan.tiles_y = static_cast<int>((p.oh + kTileY - 1) / kTileY);
    plan.tiles = static_cast<int>(plan.tiles_x * plan.tiles_y * p.n);
    plan.blocks = static_cast<int>((p.co + C::kBlock - 1) / C::kBlock);
    plan.chunks = static_cast<int>((p.ci + kChannels - 1) / kChannels);
    const int lanes = std::min(plan.tiles, std::max(1, multiprocessors / plan.blocks));
    kernel<<<lanes * plan.blocks, kThreads, kSharedBytes, stream>>>(map, p, plan);
    return cudaGetLastError();
}

template <typename T, Access kAccess, int kStack>
cudaError_t launch(const ConvParams& p, cudaStream_t stream) {
    if (p.ci <= kChannels)
        return launch<T, Config<kSwizzled, kResident, kInTurn, kAccess, kStack>>(p, stream);
    return launch<T, Config<kSwizzled, kStreamed, kFree, kAccess, kStack>>(p, stream);
}

template <typename T, Access kAccess>
cudaError_t launch(const ConvParams& p, cudaStream_t stream) {
    return stacked_rows(p) == 2 ? launch<T, kAccess, 2>(p, stream) : launch<T, kAccess, 1>(p, stream);
}

template <typename T>
cudaError_t launch(const ConvParams& p, cudaStream_t stream) {
    return access(p) == kVector ? launch<T, kVector>(p, stream) : launch<T, kScalar>(p, stream);
}

bool aligned16(const View& v) { return reinterpret_cast<uintptr_t>(v.data) % 16 == 0; }

}  // namespace
}  // namespace sm90

// Why the Hopper kernel doesn't take a convolution; null if it does. Holds for any device of compute capability 9.0.
const char* conv2d_sm90_reason(const ConvParams& p) {
    using namespace sm90;
    if (p.dtype == kFloat32) return "dtype is not float16 or bfloat16";
    if (p.kh != 3 || p.kw != 3) return "kernel is not 3x3";
    if (p.stride_y != 1 || p.stride_x != 1 || p.dilation_y != 1 || p.dilation_x != 1)
        return "stride or dilation is not 1";
    if (p.ci % 8) return "input channels are not a multiple of 8";
    if (!aligned16(p.x)) return "input is not aligned to 16 bytes";
    if ((p.w > 1 && p.x.sx % 8) || (p.h > 1 && p.x.sy % 8) || (p.n > 1 && p.x.sn % 8))
        return "input strides are not multiples of 16 bytes";
    if (p.act == kGelu || p.act == kTanh) return "activation is gelu or tanh";
    if (p.base_mode == kBaseBilinear) return "base is enlarged bilinearly";
    if (p.base_mode == kBaseNearest && (p.base_factor != p.shuffle || p.step != 1))
        return "base is not enlarged by the factor of the shuffle";
    if (p.co % (p.shuffle * p.shuffle)) return "output channels are not a multiple of the shuffle's square";
    const int64_t limit = int64_t(1) << 31;
    const int64_t tiles = (p.oh / kTileY + 1) * (p.ow / kTileX + 1) * p.n;
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

}  // namespace srk
