// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// 3x3 convolutions of stride 1 by minimal filtering, F(M x M, 3 x 3) (Winograd 1980; Lavin and Gray 2016).
//
// A block of T tiles, each M x M outputs, goes through three steps that stay in L2: the input transform makes V
// [K/16][T][point][16], one small matrix product a point makes M [point][T][channels], and the inverse transform ends in
// the epilogue. Inputs are taken K = kDepth channels at a time, so that V stays small however wide the input is.

constexpr int64_t kDepth = 64;

// F(4, 3) with the points 0, +-sqrt(1/2), +-sqrt(2) and infinity: half the rounding error of 0, +-1, +-2, because
// the powers of a point and of its reciprocal counterpart are alike in size.
template <int N>
struct Index {
    static constexpr int value = N;
};

template <int M>
struct Winograd;

template <>
struct Winograd<4> {
    static constexpr int kEdge = 6;
    static constexpr float kA = 0.70710678f, kB = 1.41421356f;  // A = sqrt(1/2), B = sqrt(2)

    // Rows kFirst[Pair] and kSecond[Pair] of B^T d: they share most of their terms.
    static constexpr int kFirst[3] = {0, 1, 3}, kSecond[3] = {5, 2, 4};
    template <int Pair>
    static SRK_INLINE void input(const V (&d)[6], V& first, V& second) {
        if (Pair == 0) {
            first = d[0] - 2.5f * d[2] + d[4];
            second = d[1] - 2.5f * d[3] + d[5];
            return;
        }
        const V even = d[4] - (Pair == 1 ? 2.0f : 0.5f) * d[2];
        const V odd = Pair == 1 ? kA * d[3] - kB * d[1] : kB * d[3] - kA * d[1];
        first = even + odd;
        second = even - odd;
    }

    // y = A^T m
    static SRK_INLINE void output(const V (&m)[6], V (&y)[4]) {
        const V even_a = m[1] + m[2], odd_a = m[1] - m[2];
        const V even_b = m[3] + m[4], odd_b = m[3] - m[4];
        y[0] = m[0] + even_a + even_b;
        y[1] = kA * odd_a + kB * odd_b;
        y[2] = 0.5f * even_a + 2.0f * even_b;
        y[3] = 0.35355339f * odd_a + 2.82842712f * odd_b + m[5];
    }
};

// Where a tile of outputs lies: conv pixels (oy .. oy+M, ox .. ox+M) of image n.
struct WinogradTile {
    int64_t n, oy, ox;
};

struct WinogradBlock {
    WinogradTile* tiles;
    int64_t count;
};

// One matrix product: `tiles` by `channels` outputs, see winograd_product().
struct WinogradProduct {
    void (*run)(const float* v, int64_t slice, const float* u, int64_t count, bool add, float* m,
                const float* far);
    int64_t channels, tiles;
};

struct WinogradPlan {
    const ConvParams* p;
    WinogradProduct whole, half;  // half: of half as many tiles, the unit of blocks
    int64_t channels;             // outputs of a product
    int64_t units, tasks;         // of tiles; blocks of them
    int64_t pieces;               // runs of blocks, that threads take one after the other
    int64_t tiles;                // of a block, at most
    int64_t group;                // channel blocks whose sums are kept at a time
    int64_t rows, columns;        // of tiles
    int64_t slice, m_point;       // floats of 16 channels of V, of a point of M
    bool fetches;                 // the next block's input ahead
    bool failed;

    // Tiles of block `task`, M outputs a side.
    void list(int64_t task, int64_t edge, WinogradBlock& block) const {
        const int64_t total = p->n * rows * columns, first = units * task / tasks * half.tiles;
        const int64_t end = units * (task + 1) / tasks * half.tiles;
        block.count = (end < total ? end : total) - first;
        WinogradTile tile = {first / (rows * columns), first / columns % rows * edge, first % columns * edge};
        for (int64_t i = 0; i < block.count; ++i) {
            block.tiles[i] = tile;
            tile.ox += edge;
            if (tile.ox == columns * edge) tile.ox = 0, tile.oy += edge;
            if (tile.oy == rows * edge) tile.oy = 0, ++tile.n;
        }
    }
};

// V lies as the transform writes it and the products read it, whole cache lines one after the other: 16 channels of
// all points of a tile, kTile floats, those of the next tile, and behind all tiles the next 16 channels.
constexpr int64_t kLine = 16;
template <int M>
constexpr int64_t kTile = Winograd<M>::kEdge * Winograd<M>::kEdge * kLine;

// m[Tiles][Vectors*L] (+)= one point of v[count/kLine][Tiles][point][kLine], `slice` floats from one 16 channels to
// the next, by u[count][Vectors*L]. A sum is set aside after a line of v: the transforms have used up twice eager's
// error already; with sums of 16 terms the largest error stays below 3.3 times eager's, with 64 it reaches 5. With
// each term a line of the next point's v comes into L1 and one from `far` on into L2.
template <int M, int Vectors, int Tiles>
void winograd_product(const float* v, int64_t slice, const float* u, int64_t count, bool add, float* m,
                      const float* far) {
    constexpr int64_t kChannels = Vectors * L;
    constexpr int64_t kAhead = 512;  // floats, into the next point's weights too
    for (int64_t left = count; left > 0; left -= kLine, v += slice, add = true) {
        V sums[Tiles][Vectors];
#pragma GCC unroll 32
        for (int i = 0; i < Tiles; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < Vectors; ++j) sums[i][j] = V{};
        const float* x = v;
        const float* stop = v + (left < kLine ? left : kLine);
        const float* behind = v + kLine;
        for (; x < stop; ++x, u += kChannels, far += kLine, behind += kTile<M>) {
            if (x - v < Tiles) prefetch(behind);
            prefetch_far(far);
            V uv[Vectors];
#pragma GCC unroll 4
            for (int j = 0; j < Vectors; ++j) {
                prefetch(u + kAhead + j * L);
                uv[j] = load(u + j * L);
            }
#pragma GCC unroll 32
            for (int i = 0; i < Tiles; ++i) {
                const V vi = splat(x[i * kTile<M>]);
#pragma GCC unroll 4
                for (int j = 0; j < Vectors; ++j) sums[i][j] += vi * uv[j];
            }
        }
#pragma GCC unroll 32
        for (int i = 0; i < Tiles; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < Vectors; ++j) {
                float* at = m + i * kChannels + j * L;
                store(at, add ? load(at) + sums[i][j] : sums[i][j]);
            }
    }
}

// All points of one column of V from the six sums d over that column's taps.
template <int M>
SRK_INLINE void store_column(const V (&d)[Winograd<M>::kEdge], float* v) {
    using W = Winograd<M>;
    const auto pair = [&](auto number) __attribute__((always_inline)) {
        constexpr int P = decltype(number)::value;
        V first, second;
        W::template input<P>(d, first, second);
        store(v + W::kFirst[P] * W::kEdge * kLine, first);
        store(v + W::kSecond[P] * W::kEdge * kLine, second);
    };
    pair(Index<0>{}), pair(Index<1>{}), pair(Index<2>{});
}

// V of one tile and one vector of channels: x [kEdge][kEdge] with strides `row` and `pixel`.
// Two columns at a time, which registers hold, and x is read for each: loads are cheaper than stores in between.
template <int M, bool Whole, class T>
SRK_INLINE void input_transform(const T* x, int64_t row, int64_t pixel, int64_t lanes, float* v) {
    using W = Winograd<M>;
    constexpr int E = W::kEdge;
    const auto columns = [&](auto number) __attribute__((always_inline)) {
        constexpr int P = decltype(number)::value;
        const T* from = x;
        V a[E], b[E];
#pragma GCC unroll 8
        for (int i = 0; i < E; ++i, from += row) {
            __asm__ volatile("" : "+r"(from));  // or what was loaded for two columns is spilled for the next
            V d[E];
#pragma GCC unroll 8
            for (int j = 0; j < E; ++j)
                if (P == 0 || (j > 0 && j < 5))
                    d[j] = Whole ? load(from + j * pixel) : load_n(from + j * pixel, lanes);
            W::template input<P>(d, a[i], b[i]);
        }
        store_column<M>(a, v + W::kFirst[P] * kLine);
        store_column<M>(b, v + W::kSecond[P] * kLine);
    };
    columns(Index<0>{}), columns(Index<1>{}), columns(Index<2>{});
}

template <int M, class T>
void transform_tile(const T* x, int64_t row, int64_t pixel, int64_t count, float* v, int64_t slice) {
    for (int64_t c = 0; c < count; c += L) {
        float* to = v + c / kLine * slice + c % kLine;
        if (c + L <= count)
            input_transform<M, true>(x + c, row, pixel, L, to);
        else
            input_transform<M, false>(x + c, row, pixel, count - c, to);
    }
}

// Channels [k, k+count) of all tiles of a block, zero outside x.
template <int M, class T>
void transform_block_as(const WinogradPlan& plan, const WinogradBlock& block, int64_t k, int64_t count,
                        float* v, float* patch) {
    constexpr int64_t E = Winograd<M>::kEdge;
    const ConvParams& p = *plan.p;
    for (int64_t t = 0; t < block.count; ++t, v += kTile<M>) {
        const WinogradTile tile = block.tiles[t];
        const int64_t iy = tile.oy - p.pad_top, ix = tile.ox - p.pad_left;
        const T* x = at<T>(p.x, tile.n, iy, ix) + k;
        const int64_t row = p.x.sy, pixel = p.x.sx;
        if (iy < 0 || ix < 0 || iy + E > p.h || ix + E > p.w) {
            for (int64_t i = 0; i < E; ++i)
                for (int64_t j = 0; j < E; ++j) {
                    float* to = patch + (i * E + j) * kDepth;
                    if (iy + i >= 0 && iy + i < p.h && ix + j >= 0 && ix + j < p.w)
                        widen(x + i * row + j * pixel, count, to);
                    else
                        __builtin_memset(to, 0, static_cast<size_t>(count) * 4);
                }
            transform_tile<M>(patch, E * kDepth, kDepth, count, v, plan.slice);
        } else {
            transform_tile<M>(x, row, pixel, count, v, plan.slice);
        }
    }
    // A product's tiles that do not exist: nobody reads their sums, but what lies there by chance is often denormal,
    // and each of those costs a hundred cycles.
    for (int64_t t = block.count; t % plan.half.tiles; ++t, v += kTile<M>)
        for (int64_t c = 0; c < count; c += kLine)
            __builtin_memset(v + c / kLine * plan.slice, 0, kTile<M> * 4);
}

template <int M>
void transform_block(const WinogradPlan& plan, const WinogradBlock& block, int64_t k, int64_t count, float* v,
                     float* patch) {
    const int32_t dtype = plan.p->dtype;
    dtype == kFloat32    ? transform_block_as<M, float>(plan, block, k, count, v, patch)
    : dtype == kBFloat16 ? transform_block_as<M, BFloat16>(plan, block, k, count, v, patch)
                         : transform_block_as<M, Float16>(plan, block, k, count, v, patch);
}

// Sums m[point*m_point] of one tile and one channel block to finished outputs.
template <int M>
struct InverseTransform {
    const WinogradPlan& plan;
    const WinogradBlock& block;
    int64_t q0;
    const float* m;
    float* t;  // [M][kMaxPixels][channels], for stores that are shuffled or get a base

    template <int Act, bool Plain>
    void run() const {
        const ConvParams& p = *plan.p;
        const bool at_once = stored_at_once(p);
        const Factors f(p);
        const int64_t channels = p.co - q0 < plan.channels ? p.co - q0 : plan.channels;
        for (int64_t i = 0, count = 0; i < block.count; ++i) {
            const WinogradTile tile = block.tiles[i];
            const float* sums = m + i * plan.channels;
            const int64_t rows = p.oh - tile.oy < M ? p.oh - tile.oy : M;
            const int64_t columns = p.ow - tile.ox < M ? p.ow - tile.ox : M;
            const Target to = {tile, rows, columns, at_once, t + count * plan.channels};
            int64_t c = 0;
            for (; c + L <= channels; c += L) {
                if (at_once && p.stream)
                    vector<Act, Plain, true, true>(f, to, sums + c, q0 + c, L);
                else
                    vector<Act, Plain, true, false>(f, to, sums + c, q0 + c, L);
            }
            if (c < channels) vector<Act, Plain, false, false>(f, to, sums + c, q0 + c, channels - c);
            if (at_once) continue;
            // Tiles that lie side by side are scattered together.
            count += columns;
            const bool more = i + 1 < block.count && count + M <= kMaxPixels && columns == M;
            if (more && block.tiles[i + 1].n == tile.n && block.tiles[i + 1].oy == tile.oy) continue;
            for (int64_t y = 0; y < rows; ++y)
                scatter(p, {tile.n, tile.oy + y, tile.ox + columns - count, count, q0, channels,
                            t + y * kMaxPixels * plan.channels, plan.channels});
            count = 0;
        }
    }

    // The pixels of a tile that exist, and where they wait for scatter().
    struct Target {
        WinogradTile tile;
        int64_t rows, columns;
        bool at_once;
        float* t;
    };

    // Copies of the residuals of a tile and a vector, [M*M][L] each.
    void hold_residuals(const Target& to, int64_t q, int64_t lanes, float* r1, float* r2) const {
        const ConvParams& p = *plan.p;
        for (int64_t i = 0; i < to.rows; ++i)
            for (int64_t j = 0; j < to.columns; ++j) {
                const int64_t py = (to.tile.oy + i) * p.step + p.phase_y;
                const int64_t px = (to.tile.ox + j) * p.step + p.phase_x, slot = (i * M + j) * L;
                if (p.res1.data) residual(p, address(p, p.res1, to.tile.n, py, px), q, lanes, r1 + slot);
                if (p.res2.data) residual(p, address(p, p.res2, to.tile.n, py, px), q, lanes, r2 + slot);
            }
    }

    template <int Act, bool Plain, bool Whole, bool Stream>
    SRK_INLINE void vector(const Factors& f, const Target& to, const float* sums, int64_t q,
                           int64_t lanes) const {
        using W = Winograd<M>;
        constexpr int E = W::kEdge;
        const ConvParams& p = *plan.p;
        const WinogradTile& tile = to.tile;
        float held[2][Plain ? 1 : M * M * L];
        if (!Plain && !residuals_ready(p)) hold_residuals(to, q, lanes, held[0], held[1]);
        V half[M][E];
#pragma GCC unroll 8
        for (int j = 0; j < E; ++j) {
            V d[E], r[M];
#pragma GCC unroll 8
            for (int i = 0; i < E; ++i) d[i] = load(sums + (i * E + j) * plan.m_point);
            W::output(d, r);
#pragma GCC unroll 8
            for (int i = 0; i < M; ++i) half[i][j] = r[i];
        }
        const V bias = load(p.bias + q), slopes = Act == kPrelu ? load(p.prelu + q) : V{};
        const int64_t px = tile.ox * p.step + p.phase_x;
        const bool ready = residuals_ready(p);
        const int64_t step_1 = ready ? p.step * p.res1.sx : L, step_2 = ready ? p.step * p.res2.sx : L;
        const auto vector_of = [&](const View& r, const float* copy, int64_t py, int row) -> const float* {
            if (Plain || !r.data) return nullptr;
            return ready ? at(r, tile.n, py, px) + q : copy + row * M * L;
        };
        float* line = to.at_once ? destination(p, tile.n, tile.oy, tile.ox, q) : to.t + (q - q0);
        const int64_t down = to.at_once ? p.step * p.shuffle * p.y.sy : kMaxPixels * plan.channels;
        const int64_t right = to.at_once ? p.step * p.shuffle * p.y.sx : plan.channels;
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i, line += down) {
            if (i >= to.rows) break;
            V y[M];
            W::output(half[i], y);
            const int64_t py = (tile.oy + i) * p.step + p.phase_y;
            const float* r1 = vector_of(p.res1, held[0], py, i);
            const float* r2 = vector_of(p.res2, held[1], py, i);
            float* out = line;
#pragma GCC unroll 8
            for (int j = 0; j < M; ++j) {
                if (j >= to.columns) break;
                const V v = finished<Act, Plain, Whole>(f, y[j], bias, slopes, lanes, r1, r2);
                if (Stream)
                    stream(out, v);
                else if (Whole || !to.at_once)
                    store(out, v);
                else
                    store_n(out, v, lanes);
                out += right;
                if (!Plain && r1) r1 += step_1;
                if (!Plain && r2) r2 += step_2;
            }
        }
    }
};

// Brings bytes [first, first+bytes) of the M pixels at (y, x), as far as they lie in a picture of h x w, into the
// caches.
template <int M>
inline void prefetch_pixels(const View& view, int64_t size, int64_t n, int64_t y, int64_t x, int64_t h,
                            int64_t w, int64_t step, int64_t first, int64_t bytes) {
    if (y < 0 || y >= h || x < 0 || x + M * step > w) return;
    const char* from =
        static_cast<const char*>(view.data) + (n * view.sn + y * view.sy + x * view.sx) * size + first;
    const int64_t pixel = step * view.sx * size;
    for (int64_t j = 0; j < M; ++j, from += pixel)
        for (int64_t c = 0; c < bytes; c += 64) prefetch(from + c);
}

// Part `part` of `parts` of channels [k, k+kDepth) of the input rows that a block adds to those of the one before.
template <int M>
void prefetch_input(const WinogradPlan& plan, const WinogradBlock& block, int64_t k, int64_t part,
                    int64_t parts) {
    constexpr int64_t E = Winograd<M>::kEdge;
    const ConvParams& p = *plan.p;
    const int64_t jobs = block.count * E, end = jobs * (part + 1) / parts, size = element_size(p.dtype);
    const int64_t bytes = (p.ci - k < kDepth ? p.ci - k : kDepth) * size;
    for (int64_t job = jobs * part / parts; job < end; ++job) {
        const WinogradTile tile = block.tiles[job / E];
        prefetch_pixels<M>(p.x, size, tile.n, tile.oy - p.pad_top + job % E, tile.ox - p.pad_left + E - M,
                           p.h, p.w, 1, k * size, bytes);
    }
}

// The same of what the epilogue adds to channels [q0, q0 + channels).
template <int M>
void prefetch_residual(const WinogradPlan& plan, const View& view, const WinogradBlock& block, int64_t q0,
                       int64_t part, int64_t parts) {
    const ConvParams& p = *plan.p;
    const int64_t jobs = block.count * M, end = jobs * (part + 1) / parts, size = element_size(p.dtype);
    const int64_t bytes = (p.co - q0 < plan.channels ? p.co - q0 : plan.channels) * size;
    for (int64_t job = jobs * part / parts; job < end; ++job) {
        const WinogradTile tile = block.tiles[job / M];
        prefetch_pixels<M>(view, size, tile.n, (tile.oy + job % M) * p.step + p.phase_y,
                           tile.ox * p.step + p.phase_x, p.oh * p.step, p.ow * p.step, p.step, q0 * size,
                           bytes);
    }
}

template <int M>
void run_winograd(const void* context, int64_t first_piece, int64_t last_piece) {
    constexpr int64_t E = Winograd<M>::kEdge, kPoints = E * E;
    WinogradPlan& plan = *static_cast<WinogradPlan*>(const_cast<void*>(context));
    const ConvParams& p = *plan.p;
    const int64_t begin = first_piece * plan.tasks / plan.pieces, end = last_piece * plan.tasks / plan.pieces;
    const int64_t m_block = kPoints * plan.m_point;
    const int64_t depth = p.ci < kDepth ? p.ci : kDepth;
    const int64_t v_size = (depth + kLine - 1) / kLine * plan.slice, m_size = plan.group * m_block;
    const int64_t patch_size = kPoints * kDepth, t_size = M * kMaxPixels * plan.channels;
    const int64_t floats = v_size + m_size + patch_size + t_size;
    const int64_t lists = 2 * plan.tiles * static_cast<int64_t>(sizeof(WinogradTile));
    char* memory = static_cast<char*>(scratch(static_cast<size_t>(floats * 4 + lists)));
    if (!memory) {
        __atomic_store_n(&plan.failed, true, __ATOMIC_RELAXED);
        return;
    }
    float* v = reinterpret_cast<float*>(memory);
    float* m = v + v_size;
    float* patch = m + m_size;
    float* t = patch + patch_size;
    WinogradBlock block{reinterpret_cast<WinogradTile*>(memory + floats * 4), 0};
    WinogradBlock next{block.tiles + plan.tiles, 0};
    const int64_t blocks = (p.co + plan.channels - 1) / plan.channels;
    plan.list(begin, M, block);
    for (int64_t task = begin; task < end; ++task) {
        next.count = 0;
        if (task + 1 < end) plan.list(task + 1, M, next);
        for (int64_t b0 = 0; b0 < blocks; b0 += plan.group) {
            const int64_t b1 = b0 + plan.group < blocks ? b0 + plan.group : blocks;
            for (int64_t k = 0; k < p.ci; k += kDepth) {
                const int64_t count = p.ci - k < kDepth ? p.ci - k : kDepth;
                if (b0 == 0 || p.ci > kDepth) transform_block<M>(plan, block, k, count, v, patch);
                const bool deepest = k + kDepth >= p.ci, last = deepest && p.shuffle == 1;
                // What the next transform will read: these tiles' next channels, or the next tiles' first ones.
                const bool through = deepest && b1 >= blocks, transforms = through || p.ci > kDepth;
                const WinogradBlock& coming = through ? next : block;
                const int64_t coming_k = deepest ? 0 : k + kDepth;
                for (int64_t b = b0; b < b1; ++b) {
                    const int64_t q0 = b * plan.channels;
                    for (int64_t point = 0; point < kPoints; ++point) {
                        const float* u =
                            p.weight + ((k * blocks + b * count) * kPoints + point * count) * plan.channels;
                        float* sums = m + (b - b0) * m_block + point * plan.m_point;
                        const float* far = u + count * plan.channels;
                        for (int64_t i = 0; i < block.count; far += count * kLine) {
                            const WinogradProduct& product =
                                block.count - i > plan.half.tiles ? plan.whole : plan.half;
                            product.run(v + i * kTile<M> + point * kLine, plan.slice, u, count, k > 0,
                                        sums + i * plan.channels, far);
                            i += product.tiles;
                        }
                        if (plan.fetches && transforms && b == b0)
                            prefetch_input<M>(plan, coming, coming_k, point, kPoints);
                        if (last && p.res1.data)
                            prefetch_residual<M>(plan, p.res1, block, q0, point, kPoints);
                        if (last && p.res2.data)
                            prefetch_residual<M>(plan, p.res2, block, q0, point, kPoints);
                    }
                }
            }
            for (int64_t b = b0; b < b1; ++b)
                with_epilogue(p,
                              InverseTransform<M>{plan, block, b * plan.channels, m + (b - b0) * m_block, t});
        }
        const WinogradBlock done = block;
        block = next, next = done;
    }
    if (p.stream) stream_fence();
}

// Bytes of V and M of a block: what L2 holds beside the weights, or where those are streamed from L3 anyway.
constexpr int64_t kBlockBeside = 256 << 10, kBlockAlone = 640 << 10, kResident = 640 << 10;

template <int M>
bool drive_winograd(const ConvParams& p, const WinogradProduct& whole, const WinogradProduct& half) {
    constexpr int64_t kPoints = Winograd<M>::kEdge * Winograd<M>::kEdge;
    const int64_t channels = whole.channels, blocks = (p.co + channels - 1) / channels;
    const int64_t depth = p.ci < kDepth ? (p.ci + kLine - 1) / kLine * kLine : kDepth;
    // With one depth V serves all channel blocks, one after the other; else their sums wait side by side.
    const int64_t wide = 256 / channels;
    const int64_t group = p.ci <= kDepth ? 1 : (blocks < wide ? blocks : wide);
    const int64_t weights = kPoints * p.ci * blocks * channels * 4;
    const int64_t budget = weights <= kResident ? kBlockBeside : kBlockAlone;
    const int64_t rows = (p.oh + M - 1) / M, columns = (p.ow + M - 1) / M;
    const int64_t units = (p.n * rows * columns + half.tiles - 1) / half.tiles;
    const int64_t input =
        p.n * p.h * p.w * p.ci * element_size(p.dtype);  // what lies in L2 already needs no fetching
    // As few blocks as fit, and as many for each thread: all are done at the same time.
    const int64_t most = budget / (kPoints * 4 * (depth + group * channels)) / half.tiles;
    const auto whole_turns = [&](int64_t count) {
        count += p.threads - 1 - (count - 1) % p.threads;
        return count < units ? count : units;
    };
    const int64_t tasks = whole_turns((units + (most > 2 ? most : 2) - 1) / (most > 2 ? most : 2));
    const int64_t pieces = tasks < 8 * p.threads ? tasks : 8 * p.threads;
    const int64_t tiles = (units + tasks - 1) / tasks * half.tiles;
    // M's points: one vector beside a power of two, or all would share a few sets of L1.
    WinogradPlan plan{&p,
                      whole,
                      half,
                      channels,
                      units,
                      tasks,
                      pieces,
                      tiles,
                      group,
                      rows,
                      columns,
                      tiles * kTile<M>,
                      tiles * channels + L,
                      input > second_cache() * p.threads,
                      false};
    parallel_for(pieces, 1, p.threads, run_winograd<M>, &plan);
    return !plan.failed;
}
