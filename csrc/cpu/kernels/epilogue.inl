// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The one epilogue: every kernel leaves a tile of sums t[pixel][channel] in L1 and this finishes it.

// Where one tile lies: conv pixels (oy, ox .. ox+count) of image n, packed channels [q0, q0+channels).
struct Tile {
    int64_t n, oy, ox, count, q0, channels;
    float* t;       // [count][pitch]
    int64_t pitch;  // a multiple of L, at least channels rounded up to L
};

constexpr int64_t kMaxPixels = 24;  // of a tile

template <class T = float>
inline T* at(const View& v, int64_t n, int64_t y, int64_t x) {
    return static_cast<T*>(v.data) + n * v.sn + y * v.sy + x * v.sx;
}

// Whether vectors of packed channels lie side by side in y and get no base nor conversion: they are stored as they
// are finished.
inline bool stored_at_once(const ConvParams& p) {
    return p.base_mode == kBaseNone && p.dtype == kFloat32 &&
           (p.shuffle == 1 || p.co / (int64_t{p.shuffle} * p.shuffle) % L == 0);
}

// Where packed channel q of conv pixel (oy, ox) is stored.
inline float* destination(const ConvParams& p, int64_t n, int64_t oy, int64_t ox, int64_t q) {
    const int64_t s = p.shuffle, py = (oy * p.step + p.phase_y) * s, px = (ox * p.step + p.phase_x) * s;
    if (s == 1) return at(p.y, n, py, px) + q;
    const int64_t colours = p.co / (s * s), sub = q / colours;
    return at(p.y, n, py + sub / s, px + sub % s) + q % colours;
}

// The same whatever the type.
inline const char* address(const ConvParams& p, const View& v, int64_t n, int64_t y, int64_t x) {
    return static_cast<const char*>(v.data) + (n * v.sn + y * v.sy + x * v.sx) * element_size(p.dtype);
}

// Packed channels [q, q+lanes) of one pixel of a residual, as floats; with a shuffle they lie s*s apart.
template <class T>
void residual_as(const ConvParams& p, const T* pixel, int64_t q, int64_t lanes, float* to) {
    const int64_t ss = int64_t{p.shuffle} * p.shuffle, colours = p.co / ss;
    if (ss == 1) return widen(pixel + q, lanes, to);
    for (int64_t i = 0; i < lanes; ++i) to[i] = value(pixel[(q + i) % colours * ss + (q + i) / colours]);
}
const float* residual(const ConvParams& p, const char* pixel, int64_t q, int64_t lanes, float* to) {
    p.dtype == kFloat32    ? residual_as(p, reinterpret_cast<const float*>(pixel), q, lanes, to)
    : p.dtype == kBFloat16 ? residual_as(p, reinterpret_cast<const BFloat16*>(pixel), q, lanes, to)
                           : residual_as(p, reinterpret_cast<const Float16*>(pixel), q, lanes, to);
    return to;
}

// Whether residuals can be added as they lie in memory: in packed order and as floats.
inline bool residuals_ready(const ConvParams& p) { return p.shuffle == 1 && p.dtype == kFloat32; }

// Bilinear taps of torch's interpolate(align_corners=False) along one axis.
struct Taps {
    int64_t i0, i1;
    float w1;
};
inline Taps taps(int64_t position, int32_t factor, int64_t size) {
    // (position + 0.5)/factor - 0.5 in whole numbers: the same weight at every period, wherever a tile begins.
    const int64_t twice = 2 * position + 1 - factor;
    if (twice <= 0) return {0, size > 1 ? 1 : 0, 0.0f};
    const int64_t i0 = twice / (2 * factor), rest = twice % (2 * factor);
    return {i0, i0 + 1 < size ? i0 + 1 : i0, static_cast<float>(rest) / static_cast<float>(2 * factor)};
}

// base at output pixels (Y, X ..), `length` consecutive values from channel c0 on, into run.
template <class T>
void base_run(const ConvParams& p, int64_t n, int64_t Y, int64_t X, int64_t c0, int64_t length, float* run) {
    const int64_t colours = p.co / (int64_t{p.shuffle} * p.shuffle);
    int64_t done = 0, c = c0;
    for (; done < length; ++X, c = 0) {
        const int64_t m = colours - c < length - done ? colours - c : length - done;
        if (p.base_mode == kBaseSame) {
            widen(at<T>(p.base, n, Y, X) + c, m, run + done);
        } else if (p.base_mode == kBaseNearest) {
            const T* b = at<T>(p.base, n, Y / p.base_factor, X / p.base_factor) + c;
            for (int64_t i = 0; i < m; ++i) run[done + i] = value(b[i]);
        } else {
            const Taps v = taps(Y, p.base_factor, p.base_h), h = taps(X, p.base_factor, p.base_w);
            const T *b00 = at<T>(p.base, n, v.i0, h.i0) + c, *b01 = at<T>(p.base, n, v.i0, h.i1) + c;
            const T *b10 = at<T>(p.base, n, v.i1, h.i0) + c, *b11 = at<T>(p.base, n, v.i1, h.i1) + c;
            for (int64_t i = 0; i < m; ++i)
                run[done + i] = (1.0f - v.w1) * ((1.0f - h.w1) * value(b00[i]) + h.w1 * value(b01[i])) +
                                v.w1 * ((1.0f - h.w1) * value(b10[i]) + h.w1 * value(b11[i]));
        }
        done += m;
    }
}

// Stores a tile of finished sums, shuffled, with base added: sub-row by sub-row, each a run of packed channels that
// lies side by side in y, where y is dense over the pixels of the sub-row too.
template <class T>
void scatter_as(const ConvParams& p, const Tile& tile) {
    const int64_t s = p.shuffle, colours = p.co / (s * s), end = tile.q0 + tile.channels;
    const int64_t run_length = p.y.sx == colours ? s * colours : colours;
    const int64_t Y0 = (tile.oy * p.step + p.phase_y) * s, X0 = (tile.ox * p.step + p.phase_x) * s;
    const int64_t step_x = p.step * s;
    constexpr int64_t kRun = 64;
    // A nearest base whose pixels cover whole conv pixels adds the same run in every sub-row: made once.
    const bool repeated = p.base_mode == kBaseNearest && p.base_factor % p.shuffle == 0 && run_length <= kRun;
    float repeats[kMaxPixels * kRun + L];  // L: whole vectors are read, here and in t
    if (repeated) {
        const int64_t ratio = p.base_factor / s, by = (tile.oy * p.step + p.phase_y) / ratio;
        for (int64_t i = 0; i < tile.count; ++i) {
            const int64_t px = (tile.ox + i) * p.step + p.phase_x;
            const T* pixel = at<T>(p.base, tile.n, by, ratio == 1 ? px : px / ratio);
            for (int64_t j = 0; j < run_length; j += colours)
                for (int64_t c = 0; c < colours; ++c) repeats[i * kRun + j + c] = value(pixel[c]);
        }
    }
    for (int64_t q = tile.q0; q < end;) {
        const int64_t within = q % run_length, sub = q / colours, c = q % colours;
        int64_t m = run_length - within < end - q ? run_length - within : end - q;
        if (m > kRun) m = kRun;
        const int64_t Y = Y0 + sub / s, X = X0 + sub % s;
        T* out = at<T>(p.y, tile.n, Y, X) + c;
        const float* in = tile.t + (q - tile.q0);
        // What a whole vector writes too much is the next pixel's, which is written after it.
        const int64_t overlapping = step_x * p.y.sx == m ? tile.count - (L + m - 1) / m : 0;
        for (int64_t i = 0; i < tile.count; ++i, out += step_x * p.y.sx, in += tile.pitch) {
            float own[kRun + L];
            const float* base = repeats + i * kRun + within;
            if (!repeated && p.base_mode != kBaseNone) {
                base_run<T>(p, tile.n, Y, X + i * step_x, c, m, own);
                base = own;
            }
            if (i < overlapping) {
                for (int64_t j = 0; j < m; j += L) {
                    V r = load(in + j);
                    if (p.base_mode != kBaseNone) r += load(base + j);
                    store(out + j, r);
                }
                continue;
            }
            for (int64_t j = 0; j < m; j += L) {
                const int64_t lanes = m - j < L ? m - j : L;
                V r = load_n(in + j, lanes);
                if (p.base_mode != kBaseNone) r += load_n(base + j, lanes);
                store_n(out + j, r, lanes);
            }
        }
        q += m;
    }
}

void scatter(const ConvParams& p, const Tile& tile) {
    p.dtype == kFloat32    ? scatter_as<float>(p, tile)
    : p.dtype == kBFloat16 ? scatter_as<BFloat16>(p, tile)
                           : scatter_as<Float16>(p, tile);
}

// What the epilogue takes from p, in variables of a function's own: a store of results might change p for all that
// the compiler knows, and everything would be read again for each vector.
struct Factors {
    float slope, scale, b1, b2;
    bool after;
    explicit Factors(const ConvParams& p)
        : slope(p.slope), scale(p.scale), b1(p.b1), b2(p.b2), after(p.act_after_add) {}
};

// One vector of one pixel: its sums to finished values. `Plain` ones have no sum and no scale; `Whole` vectors need
// no mask. r1 and r2 point at the pixel's vectors of the residuals, or are null.
template <int Act, bool Plain, bool Whole>
SRK_INLINE V finished(const Factors& f, V sums, V bias, V slopes, int64_t lanes, const float* r1,
                      const float* r2) {
    const V slope = Act == kPrelu ? slopes : splat(f.slope);
    V r = sums + bias;
    if (Plain || !f.after) r = activate<Act>(r, slope);
    if (!Plain) {
        r *= f.scale;
        if (r1) r += f.b1 * (Whole ? load(r1) : load_n(r1, lanes));
        if (r2) r += f.b2 * (Whole ? load(r2) : load_n(r2, lanes));
        if (f.after) r = activate<Act>(r, slope);
    }
    return r;
}

// r1 and r2 point at the pixel in the residuals.
template <int Act, bool Plain, bool Whole>
inline void finish_vector(const ConvParams& p, const Factors& f, const float* sums, int64_t q, int64_t lanes,
                          const char* r1, const char* r2, bool streams, float* out) {
    float held[2][L];
    const auto vector = [&](const char* pixel, float* to) -> const float* {
        if (Plain || !pixel) return nullptr;
        if (residuals_ready(p)) return reinterpret_cast<const float*>(pixel) + q;
        return residual(p, pixel, q, lanes, to);
    };
    const V slopes = Act == kPrelu ? load(p.prelu + q) : V{};
    const V r = finished<Act, Plain, Whole>(f, load(sums), load(p.bias + q), slopes, lanes,
                                            vector(r1, held[0]), vector(r2, held[1]));
    if (Whole && streams)
        stream(out, r);
    else if (Whole)
        store(out, r);
    else
        store_n(out, r, lanes);
}

template <int Act, bool Plain>
void finish_tile(const ConvParams& p, const Tile& tile) {
    const int64_t py = tile.oy * p.step + p.phase_y, px = tile.ox * p.step + p.phase_x;
    const bool at_once = stored_at_once(p), scattered = at_once && p.shuffle > 1;
    const bool streams = at_once && p.stream;
    const Factors f(p);
    const int64_t whole = tile.channels / L * L;
    const int64_t step_y = p.step * p.shuffle * p.y.sx;
    const int64_t size = p.step * element_size(p.dtype), step_1 = size * p.res1.sx, step_2 = size * p.res2.sx;
    float* out = at_once ? destination(p, tile.n, tile.oy, tile.ox, tile.q0) : nullptr;
    const char* r1 = p.res1.data ? address(p, p.res1, tile.n, py, px) : nullptr;
    const char* r2 = p.res2.data ? address(p, p.res2, tile.n, py, px) : nullptr;
    for (int64_t i = 0; i < tile.count; ++i) {
        float* sums = tile.t + i * tile.pitch;
        const char* r1i = r1 ? r1 + i * step_1 : nullptr;
        const char* r2i = r2 ? r2 + i * step_2 : nullptr;
        float* to = at_once ? out + i * step_y : sums;
        int64_t c = 0;
        for (; c < whole; c += L) {
            float* vector = scattered ? destination(p, tile.n, tile.oy, tile.ox + i, tile.q0 + c) : to + c;
            finish_vector<Act, Plain, true>(p, f, sums + c, tile.q0 + c, L, r1i, r2i, streams, vector);
        }
        if (c < tile.channels)
            finish_vector<Act, Plain, false>(p, f, sums + c, tile.q0 + c, tile.channels - c, r1i, r2i, false,
                                             to + c);
    }
    // Behind the loop, so that the sums lie in L1 by then and no load waits for a store.
    if (!at_once) scatter(p, tile);
}

// Runs f.run<Act, Plain>() of the epilogue that p asks for.
template <class F>
inline void with_epilogue(const ConvParams& p, const F& f) {
    const bool plain = p.scale == 1.0f && !p.res1.data && !p.res2.data;
    switch (p.act) {
#define SRK_CASE(act) \
    case act:         \
        return plain ? f.template run<act, true>() : f.template run<act, false>();
        SRK_CASE(kRelu)
        SRK_CASE(kLeakyRelu)
        SRK_CASE(kPrelu)
        SRK_CASE(kSilu)
        SRK_CASE(kGelu)
        SRK_CASE(kTanh)
        SRK_CASE(kSigmoid)
#undef SRK_CASE
        default:
            return plain ? f.template run<kNone, true>() : f.template run<kNone, false>();
    }
}

struct TileEpilogue {
    const ConvParams& p;
    const Tile& tile;
    template <int Act, bool Plain>
    void run() const {
        finish_tile<Act, Plain>(p, tile);
    }
};

void epilogue(const ConvParams& p, const Tile& tile) { with_epilogue(p, TileEpilogue{p, tile}); }
