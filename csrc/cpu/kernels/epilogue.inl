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

inline float* at(const View& v, int64_t n, int64_t y, int64_t x) {
    return v.data + n * v.sn + y * v.sy + x * v.sx;
}

// Whether vectors of packed channels lie side by side in y and get no base: they are stored as they are finished.
inline bool stored_at_once(const ConvParams& p) {
    return p.base_mode == kBaseNone && (p.shuffle == 1 || p.co / (int64_t{p.shuffle} * p.shuffle) % L == 0);
}

// Where packed channel q of conv pixel (oy, ox) is stored.
inline float* destination(const ConvParams& p, int64_t n, int64_t oy, int64_t ox, int64_t q) {
    const int64_t s = p.shuffle, py = (oy * p.step + p.phase_y) * s, px = (ox * p.step + p.phase_x) * s;
    if (s == 1) return at(p.y, n, py, px) + q;
    const int64_t colours = p.co / (s * s), sub = q / colours;
    return at(p.y, n, py + sub / s, px + sub % s) + q % colours;
}

// One residual vector in packed order under a shuffle: the op's channels lie s*s apart.
inline V shuffled_residual(const float* pixel, const ConvParams& p, int64_t q, int64_t lanes) {
    const int64_t ss = int64_t{p.shuffle} * p.shuffle, colours = p.co / ss;
    V v{};
    for (int64_t i = 0; i < lanes; ++i) v[i] = pixel[(q + i) % colours * ss + (q + i) / colours];
    return v;
}

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

// base at output pixels (Y, X ..), `length` consecutive floats from channel c0 on, into run.
void base_run(const ConvParams& p, int64_t n, int64_t Y, int64_t X, int64_t c0, int64_t length, float* run) {
    const int64_t colours = p.co / (int64_t{p.shuffle} * p.shuffle);
    int64_t done = 0, c = c0;
    for (; done < length; ++X, c = 0) {
        const int64_t m = colours - c < length - done ? colours - c : length - done;
        if (p.base_mode == kBaseSame) {
            __builtin_memcpy(run + done, at(p.base, n, Y, X) + c, static_cast<size_t>(m) * 4);
        } else if (p.base_mode == kBaseNearest) {
            const float* b = at(p.base, n, Y / p.base_factor, X / p.base_factor) + c;
            for (int64_t i = 0; i < m; ++i) run[done + i] = b[i];
        } else {
            const Taps v = taps(Y, p.base_factor, p.base_h), h = taps(X, p.base_factor, p.base_w);
            const float *b00 = at(p.base, n, v.i0, h.i0) + c, *b01 = at(p.base, n, v.i0, h.i1) + c;
            const float *b10 = at(p.base, n, v.i1, h.i0) + c, *b11 = at(p.base, n, v.i1, h.i1) + c;
            for (int64_t i = 0; i < m; ++i)
                run[done + i] = (1.0f - v.w1) * ((1.0f - h.w1) * b00[i] + h.w1 * b01[i]) +
                                v.w1 * ((1.0f - h.w1) * b10[i] + h.w1 * b11[i]);
        }
        done += m;
    }
}

// Stores a tile of finished sums, shuffled, with base added: sub-row by sub-row, each a run of packed channels that
// lies side by side in y, where y is dense over the pixels of the sub-row too.
inline void scatter(const ConvParams& p, const Tile& tile) {
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
            const float* pixel = at(p.base, tile.n, by, ratio == 1 ? px : px / ratio);
            for (int64_t j = 0; j < run_length; j += colours)
                for (int64_t c = 0; c < colours; ++c) repeats[i * kRun + j + c] = pixel[c];
        }
    }
    for (int64_t q = tile.q0; q < end;) {
        const int64_t within = q % run_length, sub = q / colours, c = q % colours;
        int64_t m = run_length - within < end - q ? run_length - within : end - q;
        if (m > kRun) m = kRun;
        const int64_t Y = Y0 + sub / s, X = X0 + sub % s;
        float* out = at(p.y, tile.n, Y, X) + c;
        const float* in = tile.t + (q - tile.q0);
        // What a whole vector writes too much is the next pixel's, which is written after it.
        const int64_t overlapping = step_x * p.y.sx == m ? tile.count - (L + m - 1) / m : 0;
        for (int64_t i = 0; i < tile.count; ++i, out += step_x * p.y.sx, in += tile.pitch) {
            float own[kRun + L];
            const float* base = repeats + i * kRun + within;
            if (!repeated && p.base_mode != kBaseNone) {
                base_run(p, tile.n, Y, X + i * step_x, c, m, own);
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

// What the epilogue takes from p, in variables of a function's own: a store of results might change p for all that
// the compiler knows, and everything would be read again for each vector.
struct Factors {
    float slope, scale, b1, b2;
    int32_t shuffle;
    bool after;
    explicit Factors(const ConvParams& p)
        : slope(p.slope), scale(p.scale), b1(p.b1), b2(p.b2), shuffle(p.shuffle), after(p.act_after_add) {}
};

// One vector of one pixel: its sums to finished values. `Plain` ones have no sum and no scale; `Whole` vectors need
// no mask. r1 and r2 point at the pixel's residuals, or are null.
template <int Act, bool Plain, bool Whole>
SRK_INLINE V finished(const ConvParams& p, const Factors& f, V sums, V bias, V slopes, int64_t q,
                      int64_t lanes, const float* r1, const float* r2) {
    const V slope = Act == kPrelu ? slopes : splat(f.slope);
    V r = sums + bias;
    if (Plain || !f.after) r = activate<Act>(r, slope);
    if (!Plain) {
        r *= f.scale;
        if (f.shuffle == 1) {
            if (r1) r += f.b1 * (Whole ? load(r1 + q) : load_n(r1 + q, lanes));
            if (r2) r += f.b2 * (Whole ? load(r2 + q) : load_n(r2 + q, lanes));
        } else {
            if (r1) r += f.b1 * shuffled_residual(r1, p, q, lanes);
            if (r2) r += f.b2 * shuffled_residual(r2, p, q, lanes);
        }
        if (f.after) r = activate<Act>(r, slope);
    }
    return r;
}

template <int Act, bool Plain, bool Whole>
inline void finish_vector(const ConvParams& p, const Factors& f, const float* sums, int64_t q, int64_t lanes,
                          const float* r1, const float* r2, float* out) {
    const V slopes = Act == kPrelu ? load(p.prelu + q) : V{};
    const V r = finished<Act, Plain, Whole>(p, f, load(sums), load(p.bias + q), slopes, q, lanes, r1, r2);
    if (Whole)
        store(out, r);
    else
        store_n(out, r, lanes);
}

template <int Act, bool Plain>
void finish_tile(const ConvParams& p, const Tile& tile) {
    const int64_t py = tile.oy * p.step + p.phase_y, px = tile.ox * p.step + p.phase_x;
    const bool at_once = stored_at_once(p), scattered = at_once && p.shuffle > 1;
    const Factors f(p);
    const int64_t whole = tile.channels / L * L;
    const int64_t step_y = p.step * p.shuffle * p.y.sx;
    const int64_t step_1 = p.step * p.res1.sx, step_2 = p.step * p.res2.sx;
    float* out = at_once ? destination(p, tile.n, tile.oy, tile.ox, tile.q0) : nullptr;
    const float* r1 = p.res1.data ? at(p.res1, tile.n, py, px) : nullptr;
    const float* r2 = p.res2.data ? at(p.res2, tile.n, py, px) : nullptr;
    for (int64_t i = 0; i < tile.count; ++i) {
        float* sums = tile.t + i * tile.pitch;
        const float* r1i = r1 ? r1 + i * step_1 : nullptr;
        const float* r2i = r2 ? r2 + i * step_2 : nullptr;
        float* to = at_once ? out + i * step_y : sums;
        int64_t c = 0;
        for (; c < whole; c += L) {
            float* vector = scattered ? destination(p, tile.n, tile.oy, tile.ox + i, tile.q0 + c) : to + c;
            finish_vector<Act, Plain, true>(p, f, sums + c, tile.q0 + c, L, r1i, r2i, vector);
        }
        if (c < tile.channels)
            finish_vector<Act, Plain, false>(p, f, sums + c, tile.q0 + c, tile.channels - c, r1i, r2i,
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
