// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Cuts a convolution into tiles of one row and feeds them to a micro-kernel. A tile whose windows lie inside x
// reads it in place; one that touches an edge, or whose input has 16 bits, reads a zero-filled copy of its patch in
// float32. Every output pixel sums in
// the same order wherever its tile lies, so that a picture cut into pieces gives the same bits.

// What a micro-kernel reads: tap (ky, kx) of pixel i starts at data + ky*row + kx*tap + i*pixel, channels follow.
struct Source {
    const float* data;
    int64_t row, tap, pixel;
};

// Copies the windows of `pixels` conv pixels from (oy, ox) of image n into patch [kh][columns][ci], zero-filled.
template <class T>
Source gather_as(const ConvParams& p, int64_t n, int64_t oy, int64_t ox, int64_t pixels, float* patch) {
    const int64_t columns = (pixels - 1) * p.stride_x + (p.kw - 1) * p.dilation_x + 1;
    const int64_t first = ox * p.stride_x - p.pad_left, pitch = columns * p.ci;
    int64_t begin = first < 0 ? -first : 0, end = p.w - first < columns ? p.w - first : columns;
    if (begin > columns) begin = columns;
    if (end < begin) end = begin;
    for (int64_t ky = 0; ky < p.kh; ++ky) {
        const int64_t iy = oy * p.stride_y - p.pad_top + ky * p.dilation_y;
        float* row = patch + ky * pitch;
        if (iy < 0 || iy >= p.h) {
            __builtin_memset(row, 0, static_cast<size_t>(pitch) * 4);
            continue;
        }
        __builtin_memset(row, 0, static_cast<size_t>(begin * p.ci) * 4);
        __builtin_memset(row + end * p.ci, 0, static_cast<size_t>((columns - end) * p.ci) * 4);
        const T* x = at<T>(p.x, n, iy, first);
        if (p.x.sx == p.ci) {
            widen(x + begin * p.ci, (end - begin) * p.ci, row + begin * p.ci);
        } else {
            for (int64_t j = begin; j < end; ++j) widen(x + j * p.x.sx, p.ci, row + j * p.ci);
        }
    }
    return {patch, pitch, p.dilation_x * p.ci, p.stride_x * p.ci};
}

Source gather(const ConvParams& p, int64_t n, int64_t oy, int64_t ox, int64_t pixels, float* patch) {
    return p.dtype == kFloat32    ? gather_as<float>(p, n, oy, ox, pixels, patch)
           : p.dtype == kBFloat16 ? gather_as<BFloat16>(p, n, oy, ox, pixels, patch)
                                  : gather_as<Float16>(p, n, oy, ox, pixels, patch);
}

// Brings what the tile below this one will read first, its last stride_y input rows.
inline void prefetch_below(const ConvParams& p, int64_t n, int64_t oy, int64_t ox, int64_t pixels) {
    const int64_t bottom = oy * p.stride_y - p.pad_top + (p.kh - 1) * p.dilation_y;
    int64_t first = ox * p.stride_x - p.pad_left, count = pixels * p.stride_x;
    if (first < 0) first = 0;
    if (first + count > p.w) count = p.w - first;
    for (int64_t iy = bottom + 1; iy <= bottom + p.stride_y && iy < p.h; ++iy) {
        if (iy < 0) continue;
        const char* x = address(p, p.x, n, iy, first);
        const int64_t bytes = count * p.x.sx * element_size(p.dtype);
        for (int64_t i = 0; i < bytes; i += 64) prefetch(x + i);
    }
}

// Brings what the epilogue will add into L1 while the sums are made.
inline void prefetch_residual(const ConvParams& p, const View& r, int64_t n, int64_t oy, int64_t ox,
                              int64_t count) {
    const char* pixel = address(p, r, n, oy * p.step + p.phase_y, ox * p.step + p.phase_x);
    const int64_t size = element_size(p.dtype);
    for (int64_t i = 0; i < count; ++i, pixel += p.step * r.sx * size)
        for (int64_t c = 0; c < p.co * size; c += 64) prefetch(pixel + c);
}

// Brings the columns that the next tile of the row adds into L1: for kernels whose weights leave it room.
inline void prefetch_right(const ConvParams& p, const Source& source, int64_t pixels) {
    const int64_t ahead = pixels * source.pixel + (p.kw - 1) * source.tap;
    for (int64_t ky = 0; ky < p.kh; ++ky) {
        const float* x = source.data + ky * source.row + ahead;
        for (int64_t i = 0; i < pixels * source.pixel; i += 16) prefetch(x + i);
    }
}

// Blocks of a kernel: sums of `Pixels` pixels by `Channels` packed channels of block b, into t[Pixels][Channels].
using BlockFn = void (*)(const ConvParams&, const Source&, int64_t block, float* t);

constexpr int64_t kLight = 24 << 10;  // bytes of weights: half of a small L1

struct Plan {
    const ConvParams* p;
    BlockFn block;
    int64_t channels, pixels, patch_bytes;
    bool light, failed;
};

void run_rows(const void* context, int64_t begin, int64_t end) {
    Plan& plan = *static_cast<Plan*>(const_cast<void*>(context));
    const ConvParams& p = *plan.p;
    const int64_t tile_bytes = plan.channels * plan.pixels * 4;
    char* memory = static_cast<char*>(scratch(static_cast<size_t>(tile_bytes + plan.patch_bytes)));
    if (!memory) {
        __atomic_store_n(&plan.failed, true, __ATOMIC_RELAXED);
        return;
    }
    float* t = reinterpret_cast<float*>(memory);
    float* patch = reinterpret_cast<float*>(memory + tile_bytes);
    const int64_t reach_y = (p.kh - 1) * p.dilation_y, reach_x = (p.kw - 1) * p.dilation_x;
    for (int64_t task = begin; task < end; ++task) {
        const int64_t n = task / p.oh, oy = task % p.oh;
        const int64_t iy = oy * p.stride_y - p.pad_top;
        const bool rows_inside = p.dtype == kFloat32 && iy >= 0 && iy + reach_y < p.h;
        for (int64_t ox = 0; ox < p.ow; ox += plan.pixels) {
            // The last tile is moved back so that it is full; what it computes twice is stored once.
            const int64_t start = ox + plan.pixels > p.ow && p.ow > plan.pixels ? p.ow - plan.pixels : ox;
            const int64_t ix = start * p.stride_x - p.pad_left;
            const int64_t last = ix + (plan.pixels - 1) * p.stride_x + reach_x;
            const Source source = rows_inside && ix >= 0 && last < p.w
                                      ? Source{at(p.x, n, iy, ix), p.dilation_y * p.x.sy,
                                               p.dilation_x * p.x.sx, p.stride_x * p.x.sx}
                                      : gather(p, n, oy, start, plan.pixels, patch);
            prefetch_below(p, n, oy, start, plan.pixels);
            if (plan.light) prefetch_right(p, source, plan.pixels);
            const int64_t count = start + plan.pixels < p.ow ? plan.pixels - (ox - start) : p.ow - ox;
            if (p.res1.data) prefetch_residual(p, p.res1, n, oy, ox, count);
            if (p.res2.data) prefetch_residual(p, p.res2, n, oy, ox, count);
            int64_t block = 0;
            for (int64_t q0 = 0; q0 < p.co; q0 += plan.channels, ++block) {
                plan.block(p, source, block, t);
                const int64_t channels = p.co - q0 < plan.channels ? p.co - q0 : plan.channels;
                epilogue(p,
                         {n, oy, ox, count, q0, channels, t + (ox - start) * plan.channels, plan.channels});
            }
        }
    }
}

// `weights`: how many there are for each input and tap of a block.
bool drive(const ConvParams& p, BlockFn block, int64_t channels, int64_t pixels, int64_t weights) {
    const int64_t columns = (pixels - 1) * p.stride_x + (p.kw - 1) * p.dilation_x + 1;
    // L spare floats: kernels that take channels by vectors may read behind the last one.
    const int64_t patch_bytes = (p.kh * columns * p.ci + L) * 4;
    const bool light = p.kh * p.kw * p.ci * weights * 4 <= kLight;
    Plan plan{&p, block, channels, pixels, patch_bytes, light, false};
    parallel_for(p.n * p.oh, 1, p.threads, run_rows, &plan);
    return !plan.failed;
}
