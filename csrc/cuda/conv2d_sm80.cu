// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Launcher of the portable convolution: which calls it takes, how shared memory is divided, grid.
#include "cuda/conv2d_sm80.cuh"

#include <algorithm>

#include "cuda/launch.h"

namespace srk::cuda {
namespace {

constexpr int64_t kSharedMemory = 99 << 10;  // of a block, that every chip from sm_80 on has
constexpr int64_t kLargest = 1 << 30;        // extents that 32-bit coordinates hold

int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }
int64_t aligned(int64_t bytes) { return (bytes + 127) / 128 * 128; }

// Pixels in a row and in all rows of a tile with its halo.
struct Halo {
    int64_t width, count;
    explicit Halo(const ConvParams& p)
        : width((kTile - 1) * p.stride_x + p.kw), count(((kTile - 1) * p.stride_y + p.kh) * width) {}
};

struct Device {
    int index, processors, block_memory, memory, reserved;
};

cudaError_t attributes_of(Device& d) {
    const std::pair<int*, cudaDeviceAttr> wanted[] = {
        {&d.processors, cudaDevAttrMultiProcessorCount},
        {&d.block_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin},
        {&d.memory, cudaDevAttrMaxSharedMemoryPerMultiprocessor},
        {&d.reserved, cudaDevAttrReservedSharedMemoryPerBlock},
    };
    for (const auto& [value, attribute] : wanted)
        if (const cudaError_t error = cudaDeviceGetAttribute(value, attribute, d.index)) return error;
    return cudaSuccess;
}

// A thread asks for the attributes of a device once as long as it stays there.
cudaError_t current_device(Device& d) {
    thread_local Device known{-1, 0, 0, 0, 0};
    int index;
    if (const cudaError_t error = cudaGetDevice(&index)) return error;
    if (known.index != index) {
        Device asked{index, 0, 0, 0, 0};
        if (const cudaError_t error = attributes_of(asked)) return error;
        known = asked;
    }
    d = known;
    return cudaSuccess;
}

// Divides shared memory: two buffers of pixels and the slots of the weights. Weights that stay are best where
// two blocks fit beside each other, then a ring of rows of taps, then one of taps; then the same with a
// single block.
bool divide(Conv2dArgs& a, const Conv2dKernel& kernel, const Device& d, size_t& bytes) {
    const int64_t tap = int64_t{kernel.channels} * kernel.depth * 2, rows = a.taps / a.columns;
    a.pixel_bytes = static_cast<int32_t>(aligned(int64_t{a.halo} * kernel.depth * 2));
    const int64_t half = std::min<int64_t>(d.memory / 2 - d.reserved, d.block_memory);
    for (const int64_t limit : {half, int64_t{d.block_memory}}) {
        const int64_t left = limit - 2 * int64_t{a.pixel_bytes};
        if (int64_t{a.chunks} * a.taps * tap <= left) {
            a.stages = 1, a.stage_taps = a.taps, a.slots = a.chunks;
        } else if (3 * a.columns * tap <= left) {
            a.stages = static_cast<int32_t>(rows), a.stage_taps = a.columns, a.slots = 3;
        } else if (2 * tap <= left) {
            a.stages = a.taps, a.stage_taps = 1,
            a.slots = static_cast<int32_t>(std::min<int64_t>(left / tap, 4));
        } else {
            continue;
        }
        a.slots = std::min(a.slots, a.chunks * a.stages);
        a.slot_bytes = static_cast<int32_t>(a.stage_taps * tap);
        bytes = static_cast<size_t>(2 * int64_t{a.pixel_bytes} + int64_t{a.slots} * a.slot_bytes);
        return true;
    }
    return false;
}

Conv2dArgs arguments(const ConvParams& p, const Conv2dKernel& kernel, int run) {
    Conv2dArgs a{};
    a.p = p;
    const int64_t colours = p.co / (int64_t{p.shuffle} * p.shuffle), s = int64_t{p.step} * p.shuffle;
    a.epilogue.colours = Divisor(static_cast<uint32_t>(colours));
    a.epilogue.shuffle = Divisor(static_cast<uint32_t>(p.shuffle));
    a.epilogue.base_factor = Divisor(static_cast<uint32_t>(std::max(p.base_factor, 1)));
    a.epilogue.y_whole = takes_runs(p.y, colours, p.shuffle, run, p.n, p.oh * s, p.ow * s);
    a.epilogue.res1_whole = takes_runs(p.res1, p.co, 1, run, p.n, p.oh, p.ow);
    a.epilogue.res2_whole = takes_runs(p.res2, p.co, 1, run, p.n, p.oh, p.ow);
    a.epilogue.base_whole =
        p.base_mode == kBaseSame && takes_runs(p.base, colours, p.shuffle, run, p.n, p.oh * s, p.ow * s);
    const int64_t tiles_x = ceil_div(p.ow, kTile), tiles_y = ceil_div(p.oh, kTile);
    a.tiles_x = Divisor(static_cast<uint32_t>(tiles_x));
    a.tiles_y = Divisor(static_cast<uint32_t>(tiles_y));
    a.tiles = static_cast<int32_t>(p.n * tiles_x * tiles_y);
    a.gathers = conv2d_gathers(p);
    if (a.gathers) {
        a.chunks = static_cast<int32_t>(ceil_div(p.ci * p.kh * p.kw, kernel.depth));
        a.taps = a.columns = a.step_y = a.step_x = 1;
        a.halo_w = kTile, a.halo = kTile * kTile;
    } else {
        const Halo halo(p);
        a.chunks = static_cast<int32_t>(ceil_div(p.ci, kernel.depth));
        a.taps = static_cast<int32_t>(p.kh * p.kw), a.columns = static_cast<int32_t>(p.kw);
        a.step_y = static_cast<int32_t>(p.stride_y), a.step_x = static_cast<int32_t>(p.stride_x);
        a.halo_w = static_cast<int32_t>(halo.width), a.halo = static_cast<int32_t>(halo.count);
    }
    return a;
}

int run_of(const Conv2dKernel& kernel) {
    const int groups = kernel.channels / (kernel.channels > 64 ? 2 : 1) / 8;
    return groups % 4 == 0 ? 8 : groups % 2 == 0 ? 4 : 2;
}

}  // namespace

const std::vector<Conv2dKernel>& conv2d_kernels() {
#define SRK_KERNEL(name, channels, depth, full) {name, channels, depth, full},
    static const std::vector<Conv2dKernel> kernels{SRK_CONV2D_KERNELS(SRK_KERNEL)};
#undef SRK_KERNEL
    return kernels;
}

bool conv2d_gathers(const ConvParams& p) {
    const auto off = [](int64_t stride, int64_t extent) { return extent > 1 && stride % 8 != 0; };
    if (off(p.x.sn, p.n) || off(p.x.sy, p.h) || off(p.x.sx, p.w)) return true;
    if (p.ci <= 4 || std::max(p.dilation_y, p.dilation_x) > 1 || std::max(p.stride_y, p.stride_x) > 2)
        return true;
    // Both buffers of 32 channels, and two taps of the widest kernel.
    return 2 * aligned(Halo(p).count * 64) + 2 * 128 * 64 > kSharedMemory;
}

bool conv2d_is_plain(const ConvParams& p) {
    return p.act < kSilu && p.base_mode == kBaseNone && (p.shuffle == 1 || (!p.res1.data && !p.res2.data));
}

std::string conv2d_refusal(const ConvParams& p) {
    const auto& kernels = conv2d_kernels();
    if (p.kernel < 0 || p.kernel >= static_cast<int>(kernels.size())) return "no such kernel";
    const Conv2dKernel& kernel = kernels[p.kernel];
    if (p.dtype != kFloat16 && p.dtype != kBFloat16) return "tensors must be float16 or bfloat16";
    if (!kernel.full && !conv2d_is_plain(p)) return "this kernel has no such epilogue";
    for (const int64_t extent :
         {p.h, p.w, p.oh * p.step * p.shuffle, p.ow * p.step * p.shuffle, p.ci * p.kh * p.kw, p.co})
        if (extent < 1 || extent >= kLargest) return "an extent is out of range";
    if (std::max(p.oh * p.stride_y, p.ow * p.stride_x) >= kLargest)
        return "the window leaves the range of coordinates";
    if (std::max(std::abs(p.pad_top), std::abs(p.pad_left)) >= kLargest / 2)
        return "the padding is out of range";
    if (p.n * ceil_div(p.ow, kTile) * ceil_div(p.oh, kTile) >= kLargest) return "there are too many tiles";
    if (ceil_div(p.co, kernel.channels) > 65535) return "there are too many outputs";
    if (!conv2d_gathers(p) && reinterpret_cast<uintptr_t>(p.x.data) % 16)
        return "the input is not at a multiple of 16 bytes";
    Device d;
    if (current_device(d) != cudaSuccess) return "the device does not answer";
    size_t bytes;
    Conv2dArgs a = arguments(p, kernel, run_of(kernel));
    if (!divide(a, kernel, d, bytes)) return "the window does not fit into shared memory";
    return "";
}

cudaError_t conv2d(const ConvParams& p, cudaStream_t stream) {
    const Conv2dKernel& kernel = conv2d_kernels()[p.kernel];
    Device d;
    if (const cudaError_t error = current_device(d)) return error;
    Conv2dArgs a = arguments(p, kernel, run_of(kernel));
    size_t bytes;
    if (!divide(a, kernel, d, bytes)) return cudaErrorInvalidValue;
    const Conv2dFunction function = (p.dtype == kFloat16 ? conv2d_float16 : conv2d_bfloat16)[p.kernel];
    int resident;
    if (const cudaError_t error =
            resident_blocks(&resident, function, d.index, kThreads, bytes, d.block_memory))
        return error;
    const int64_t blocks = ceil_div(p.co, kernel.channels);
    const int64_t each = ceil_div(int64_t{d.processors} * std::max(resident, 1), blocks);
    const dim3 grid{static_cast<unsigned>(std::min<int64_t>(a.tiles, each)), static_cast<unsigned>(blocks)};
    return launch({"conv2d_sm80", grid, kThreads, bytes}, function, stream, a);
}

}  // namespace srk::cuda
