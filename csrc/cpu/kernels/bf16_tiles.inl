// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// AMX: products of tiles, 16 pixels by 32 inputs times 32 inputs by 16 outputs. Eight tile registers hold four tiles
// of sums, 0 to 3, and what is multiplied, 4 to 7. Tiles are read where they lie in the patch and in the weights.

constexpr int64_t kTile = 16, kDepth = 32;

// The compiler knows nothing of what tiles read and write.
#define SRK_BARRIER() __asm__ volatile("" : : : "memory")

// f(x offset, weights) for every 32 inputs of every tap.
template <class F>
SRK_INLINE void for_depths(const StripPlan& plan, const uint16_t* w, int64_t channels, const F& f) {
    const ConvParams& p = *plan.p;
    for (int64_t ky = 0; ky < p.kh; ++ky)
        for (int64_t kx = 0; kx < p.kw; ++kx) {
            const int64_t tap = ky * p.dilation_y * plan.strides.row + kx * plan.strides.tap;
            for (int64_t c = 0; c < plan.ci; c += kDepth, w += kDepth * channels) f(tap + c, w);
        }
}

// 2 x 16 pixels by 32 outputs.
void tiles_2x2(const StripPlan& plan, const uint16_t* const* x, const uint16_t* weights, float* t) {
    constexpr int64_t kChannels = 2 * kTile;
    const int64_t pixel = plan.strides.pixel * 2;
    SRK_BARRIER();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for_depths(plan, weights, kChannels, [&](int64_t offset, const uint16_t* w) {
        _tile_loadd(6, w, kChannels * 4);
        _tile_loadd(4, x[0] + offset, pixel);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, w + 2 * kTile, kChannels * 4);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, x[1] + offset, pixel);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    });
    _tile_stored(0, t, kChannels * 4);
    _tile_stored(1, t + kTile, kChannels * 4);
    _tile_stored(2, t + kTile * kChannels, kChannels * 4);
    _tile_stored(3, t + kTile * kChannels + kTile, kChannels * 4);
    SRK_BARRIER();
}

// 4 x 16 pixels by 16 outputs.
void tiles_4x1(const StripPlan& plan, const uint16_t* const* x, const uint16_t* weights, float* t) {
    const int64_t pixel = plan.strides.pixel * 2;
    SRK_BARRIER();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for_depths(plan, weights, kTile, [&](int64_t offset, const uint16_t* w) {
        _tile_loadd(7, w, kTile * 4);
        _tile_loadd(4, x[0] + offset, pixel);
        _tile_dpbf16ps(0, 4, 7);
        _tile_loadd(5, x[1] + offset, pixel);
        _tile_dpbf16ps(1, 5, 7);
        _tile_loadd(6, x[2] + offset, pixel);
        _tile_dpbf16ps(2, 6, 7);
        _tile_loadd(4, x[3] + offset, pixel);
        _tile_dpbf16ps(3, 4, 7);
    });
    _tile_stored(0, t, kTile * 4);
    _tile_stored(1, t + kTile * kTile, kTile * 4);
    _tile_stored(2, t + 2 * kTile * kTile, kTile * 4);
    _tile_stored(3, t + 3 * kTile * kTile, kTile * 4);
    SRK_BARRIER();
}

// What LDTILECFG reads: all tiles of 16 rows of 64 bytes.
struct TileShapes {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

void run_with_tiles(const void* context, int64_t begin, int64_t end) {
    TileShapes shapes{};
    shapes.palette = 1;
    for (int i = 0; i < 8; ++i) shapes.row_bytes[i] = 64, shapes.rows[i] = kTile;
    SRK_BARRIER();
    _tile_loadconfig(&shapes);
    run_strips(*static_cast<StripPlan*>(const_cast<void*>(context)), begin, end);
    _tile_release();
}

bool run_tiles_2x2(const ConvParams& p) {
    return drive(p, {tiles_2x2, 2 * kTile, kTile, 2, kDepth}, run_with_tiles);
}
bool run_tiles_4x1(const ConvParams& p) {
    return drive(p, {tiles_4x1, kTile, kTile, 4, kDepth}, run_with_tiles);
}

const ConvKernel kKernels[] = {
    {"bf16_tiles_2x2", SRK_STR(SRK_ISA), kBf16, 2 * kTile, kTile, 1, kDepth, run_tiles_2x2},
    {"bf16_tiles_4x1", SRK_STR(SRK_ISA), kBf16, kTile, kTile, 1, kDepth, run_tiles_4x1}};
