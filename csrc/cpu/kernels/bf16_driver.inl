// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Convolutions by products of bfloat16 values. A product of two is exact in float32, where they are summed.
//
// A task is a strip of conv pixels. Its input is copied beforehand, rounded to bfloat16, zero outside x, channels
// padded to a multiple of the kernel's depth; then one block of outputs after the other runs over the whole strip, so
// that the block's weights stay in L1 or L2. Weights: [block][kh][kw][depth/2][channels][2], pairs of inputs together.

// What a micro-kernel reads: tap (ky, kx) of the pixel at x lies at x + ky*row + kx*tap, pixels are `pixel` apart.
struct Strides {
    int64_t row, tap, pixel;
};

struct StripPlan;
// Sums of `groups` rows of pixels, the first of each at x[group], into t[group][pixels][channels].
using Bf16Fn = void (*)(const StripPlan&, const uint16_t* const* x, const uint16_t* w, float* t);

struct Bf16Kernel {
    Bf16Fn block;
    int64_t channels, pixels, groups, depth;
};

struct StripPlan {
    const ConvParams* p;
    Bf16Kernel kernel;
    int64_t ci;             // padded
    int64_t rows, columns;  // of a strip; columns are whole rows of the kernel's pixels
    int64_t strips_y, strips_x;
    int64_t patch_rows, patch_columns;
    Strides strides;  // of the patch
    bool failed;

    int64_t sums() const { return kernel.groups * kernel.pixels * kernel.channels; }  // of a call
};

inline void round_values(const BFloat16* x, int64_t count, uint16_t* to) {
    __builtin_memcpy(to, x, static_cast<size_t>(count) * 2);
}

// Copies what conv pixels from (oy, ox) of image n read into patch [patch_rows][patch_columns][ci].
template <class T>
void copy_patch(const StripPlan& plan, int64_t n, int64_t oy, int64_t ox, uint16_t* patch) {
    const ConvParams& p = *plan.p;
    const int64_t columns = plan.patch_columns, first = ox * p.stride_x - p.pad_left;
    int64_t begin = first < 0 ? -first : 0, end = p.w - first < columns ? p.w - first : columns;
    if (begin > columns) begin = columns;
    if (end < begin) end = begin;
    const auto clear = [&](uint16_t* from, int64_t count) {
        __builtin_memset(from, 0, static_cast<size_t>(count) * 2);
    };
    for (int64_t r = 0; r < plan.patch_rows; ++r) {
        const int64_t iy = oy * p.stride_y - p.pad_top + r;
        uint16_t* row = patch + r * plan.strides.row;
        if (iy < 0 || iy >= p.h) {
            clear(row, columns * plan.ci);
            continue;
        }
        clear(row, begin * plan.ci);
        clear(row + end * plan.ci, (columns - end) * plan.ci);
        const T* x = at<T>(p.x, n, iy, first);
        if (p.x.sx == p.ci && p.ci == plan.ci) {
            round_values(x + begin * p.ci, (end - begin) * p.ci, row + begin * p.ci);
            continue;
        }
        for (int64_t j = begin; j < end; ++j) {
            round_values(x + j * p.x.sx, p.ci, row + j * plan.ci);
            clear(row + j * plan.ci + p.ci, plan.ci - p.ci);
        }
    }
}

// Where a task lies: conv pixels from (oy, ox) of image n.
struct Strip {
    int64_t n, oy, ox;
    Strip(const StripPlan& plan, int64_t task)
        : n(task / (plan.strips_y * plan.strips_x)),
          oy(task / plan.strips_x % plan.strips_y * plan.rows),
          ox(task % plan.strips_x * plan.columns) {}
};

constexpr int64_t kMaxGroups = 4;

// What a call of a kernel left in t.
struct Finished {
    Tile tiles[kMaxGroups];
    int64_t count = 0;

    void finish(const ConvParams& p) {
        for (int64_t g = 0; g < count; ++g) epilogue(p, tiles[g]);
        count = 0;
    }
};

// t has room for the sums of two calls: the first ones' epilogue comes behind the second's products, which don't wait
// for it then, nor it for sums that have only just been stored.
void run_strip(const StripPlan& plan, const Strip& strip, uint16_t* patch, float* t) {
    const ConvParams& p = *plan.p;
    const Bf16Kernel& kernel = plan.kernel;
    p.dtype == kFloat32 ? copy_patch<float>(plan, strip.n, strip.oy, strip.ox, patch)
                        : copy_patch<BFloat16>(plan, strip.n, strip.oy, strip.ox, patch);
    const int64_t rows = p.oh - strip.oy < plan.rows ? p.oh - strip.oy : plan.rows;
    const int64_t columns = p.ow - strip.ox < plan.columns ? p.ow - strip.ox : plan.columns;
    const int64_t across = (columns + kernel.pixels - 1) / kernel.pixels, count = rows * across;
    const int64_t blocks = (p.co + kernel.channels - 1) / kernel.channels;
    const int64_t block_size = p.kh * p.kw * plan.ci * kernel.channels;
    const auto* weights = reinterpret_cast<const uint16_t*>(p.weight);
    Finished before, now;
    float* other = t + plan.sums();
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t q0 = b * kernel.channels;
        const int64_t channels = p.co - q0 < kernel.channels ? p.co - q0 : kernel.channels;
        for (int64_t i = 0; i < count; i += kernel.groups) {
            const uint16_t* x[kMaxGroups];
            now.count = count - i < kernel.groups ? count - i : kernel.groups;
            for (int64_t g = 0; g < kernel.groups; ++g) {
                const int64_t j = i + g < count ? i + g : count - 1;  // what is computed twice is stored once
                const int64_t y = j / across, ox = j % across * kernel.pixels;
                const int64_t pixels = columns - ox < kernel.pixels ? columns - ox : kernel.pixels;
                x[g] = patch + y * p.stride_y * plan.strides.row + ox * plan.strides.pixel;
                now.tiles[g] = {strip.n,
                                strip.oy + y,
                                strip.ox + ox,
                                pixels,
                                q0,
                                channels,
                                t + g * kernel.pixels * kernel.channels,
                                kernel.channels};
            }
            kernel.block(plan, x, weights + b * block_size, t);
            before.finish(p);
            before = now;
            float* const last = t;
            t = other, other = last;
        }
    }
    before.finish(p);
}

void run_strips(StripPlan& plan, int64_t begin, int64_t end) {
    const int64_t sums = 2 * plan.sums(), values = plan.patch_rows * plan.strides.row;
    auto* t = static_cast<float*>(scratch(static_cast<size_t>(sums * 4 + values * 2)));
    if (!t) return __atomic_store_n(&plan.failed, true, __ATOMIC_RELAXED);
    auto* patch = reinterpret_cast<uint16_t*>(t + sums);
    for (int64_t task = begin; task < end; ++task) run_strip(plan, Strip(plan, task), patch, t);
    if (plan.p->stream) stream_fence();
}

constexpr int64_t kPatch = 160 << 10;  // bytes of a strip's input: they lie in L2 beside a block's weights
constexpr int64_t kWidest = 64, kFewest = 4;  // pixels across, rows

StripPlan strips_of(const ConvParams& p, const Bf16Kernel& kernel) {
    StripPlan plan{};
    plan.p = &p;
    plan.kernel = kernel;
    plan.ci = (p.ci + kernel.depth - 1) / kernel.depth * kernel.depth;
    const int64_t pieces = (p.ow + kWidest - 1) / kWidest, even = (p.ow + pieces - 1) / pieces;
    plan.columns = (even + kernel.pixels - 1) / kernel.pixels * kernel.pixels;
    plan.strips_x = (p.ow + plan.columns - 1) / plan.columns;
    plan.patch_columns = (plan.columns - 1) * p.stride_x + (p.kw - 1) * p.dilation_x + 1;
    const int64_t line = plan.patch_columns * plan.ci * 2, reach = (p.kh - 1) * p.dilation_y;
    // As many rows as fit, but several strips for each thread.
    const int64_t fitting = (kPatch / line - reach) / p.stride_y;
    const int64_t shared = p.n * p.oh * plan.strips_x / (4 * p.threads);
    const int64_t most = fitting < shared ? fitting : shared;
    plan.rows = most > kFewest ? most : kFewest;
    plan.strips_y = (p.oh + plan.rows - 1) / plan.rows;
    plan.rows = (p.oh + plan.strips_y - 1) / plan.strips_y;
    plan.patch_rows = (plan.rows - 1) * p.stride_y + reach + 1;
    plan.strides = {plan.patch_columns * plan.ci, p.dilation_x * plan.ci, p.stride_x * plan.ci};
    return plan;
}

bool drive(const ConvParams& p, const Bf16Kernel& kernel, TaskFn run) {
    StripPlan plan = strips_of(p, kernel);
    parallel_for(p.n * plan.strips_y * plan.strips_x, 1, p.threads, run, &plan);
    return !plan.failed;
}
