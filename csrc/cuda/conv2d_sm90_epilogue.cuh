// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The Hopper convolution's epilogue: from a warpgroup's sums, channels by pixels, to pixels in memory, with
// bias, activation, residuals and base. Either straight, transposed in registers, or by a buffer in shared
// memory and the copy engine.
#pragma once
#include "cuda/ptx_sm90.cuh"
#include "params.h"

namespace srk::sm90 {

constexpr int kChannels = 64;  // of a block of outputs, and of a chunk of inputs
constexpr uint32_t kPixelBytes = kChannels * 2;

// How a thread's four packed channels lie in every tensor of the epilogue: eight aligned bytes, or anywhere.
enum Access { kVector, kScalar };

// Whether a kernel knows gelu, tanh and a base that is enlarged bilinearly: their code would take registers
// from those that do not need it.
enum Finish { kUsual, kRare };

// Pixels of x and x2 by tiles with halo; of the others by a warpgroup's share of a tile, where results are
// staged: (channel, x, row of sub-pixels, y, n), all channels of a row of sub-pixels in the first.
struct Maps {
    CUtensorMap x, x2, y, res1, res2;
};

// Where a tile starts: image and conv pixel.
struct Corner {
    int n, y, x;
};

// Four packed channels of one pixel column of a tensor, as one thread stores and loads them.
template <typename T, Access kAccess>
struct Quad {
    T* first;           // of the tile's top row
    int64_t row;        // to the thread's next row
    int32_t offset[4];  // of the channels, from `first`
    int count;          // channels that exist
    int rows;           // of the tile inside the picture; none if the column lies outside

    __device__ uint2 load(const T* p, bool inside) const {
        if constexpr (kAccess == kVector) {
            return inside ? *reinterpret_cast<const uint2*>(p) : make_uint2(0, 0);
        } else {
            uint32_t v[4];
            SRK_UNROLL
            for (int i = 0; i < 4; ++i)
                v[i] = inside && i < count ? *reinterpret_cast<const unsigned short*>(p + offset[i]) : 0;
            return make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
        }
    }

    __device__ void store(T* p, bool inside, uint2 v) const {
        if constexpr (kAccess == kVector) {
            if (inside) *reinterpret_cast<uint2*>(p) = v;
        } else {
            const uint32_t words[2] = {v.x, v.y};
            SRK_UNROLL
            for (int i = 0; i < 4; ++i)
                if (inside && i < count)
                    *reinterpret_cast<unsigned short*>(p + offset[i]) =
                        static_cast<unsigned short>(words[i / 2] >> 16 * (i % 2));
        }
    }
};

// A tile's column of a thread: image n, `rows` conv pixels (y, x), (y + stride, x).., packed channels q..q+3.
struct Place {
    int64_t n, y, x;
    int q, co, rows, stride;
};

// Where packed channel q of conv pixel (0, 0) lies in a view.
__host__ __device__ inline int64_t channel_offset(const View& v, int q, int co, int shuffle) {
    const int group = co / (shuffle * shuffle), sub = q / group;
    return (sub / shuffle) * v.sy + (sub % shuffle) * v.sx + q % group;
}

// `step`, `py`, `px`: conv pixel to position of the view; `shuffle`: packed channels to sub-pixels.
template <typename T, Access kAccess>
__device__ inline Quad<T, kAccess> quad(const View& v, const Place& at, int step, int py, int px,
                                        int shuffle) {
    Quad<T, kAccess> r;
    const int64_t first = channel_offset(v, at.q, at.co, shuffle);
    if constexpr (kAccess == kScalar) {
        SRK_UNROLL
        for (int i = 0; i < 4; ++i)
            r.offset[i] = static_cast<int32_t>(channel_offset(v, at.q + i, at.co, shuffle) - first);
    }
    r.count = min(max(at.co - at.q, 0), 4);
    r.rows = r.count > 0 ? at.rows : 0;
    r.row = v.sy * step * at.stride;
    r.first =
        static_cast<T*>(v.data) + at.n * v.sn + (at.y * step + py) * v.sy + (at.x * step + px) * v.sx + first;
    return r;
}

// Walks down a tensor's rows, in a form that the compiler doesn't turn into one address a row: those would
// fill the registers.
template <typename T>
struct Walk {
    size_t address, pitch;  // in the global window

    template <typename Q>
    __device__ explicit Walk(const Q& q)
        : address(__cvta_generic_to_global(q.first)), pitch(q.row * sizeof(T)) {}

    __device__ T* at() const { return static_cast<T*>(__cvta_global_to_generic(address)); }
    __device__ void next() {
        address += pitch;
        opaque(address);
    }
};

// acc += weight * tensor. Values come as (pixel, channel) and are transposed to the accumulators' (channel,
// pixel).
template <typename T, Access kAccess, int kSums>
__device__ inline void add(float (&acc)[kSums], const Quad<T, kAccess>& from, float weight) {
    constexpr int kBatch = 16;  // loads in flight
    Walk<T> walk(from);
    SRK_UNROLL
    for (int y0 = 0; y0 < kSums / 4; y0 += kBatch) {
        uint2 v[kBatch];
        SRK_UNROLL
        for (int i = 0; i < kBatch; ++i, walk.next()) v[i] = from.load(walk.at(), y0 + i < from.rows);
        SRK_UNROLL
        for (int i = 0; i < kBatch; ++i) {
            float* a = acc + 4 * (y0 + i);
            const float2 top = unpack<T>(transpose8x8(v[i].x)), bottom = unpack<T>(transpose8x8(v[i].y));
            a[0] = fmaf(weight, top.x, a[0]);
            a[1] = fmaf(weight, top.y, a[1]);
            a[2] = fmaf(weight, bottom.x, a[2]);
            a[3] = fmaf(weight, bottom.y, a[3]);
        }
    }
}

// acc += base of one position a conv pixel, `colours` <= 4 channels. Lane pixel * colours + c loads channel c
// of the warp's eight pixels, two rows in one word; the accumulators of each pixel and channel fetch it from
// there.
template <typename T, int kSums>
__device__ inline void add_nearest(float (&acc)[kSums], const ConvParams& p, const Place& at, int top,
                                   int bottom) {
    const int lane = threadIdx.x % 32, colours = at.co / (p.shuffle * p.shuffle), pixel = lane / colours;
    const int64_t x = at.x - lane / 4 + pixel;
    const int rows = pixel < 8 && x < p.ow ? (static_cast<int>(p.oh - at.y) + at.stride - 1) / at.stride : 0;
    const auto* from = static_cast<const unsigned short*>(p.base.data) + at.n * p.base.sn + at.y * p.base.sy +
                       x * p.base.sx + lane % colours;
    const int64_t pitch = at.stride * p.base.sy;
    const int first = 2 * (lane % 4) * colours;
    const int lanes[4] = {first + top % colours, first + colours + top % colours, first + bottom % colours,
                          first + colours + bottom % colours};
    SRK_UNROLL
    for (int y = 0; y < kSums / 4; y += 2, from += 2 * pitch) {
        const uint32_t even = y < rows ? from[0] : 0, odd = y + 1 < rows ? from[pitch] : 0;
        SRK_UNROLL
        for (int i = 0; i < 4; ++i) {
            const float2 v = unpack<T>(__shfl_sync(~0u, even | odd << 16, lanes[i]));
            acc[4 * y + i] += v.x;
            acc[4 * y + 4 + i] += v.y;
        }
    }
}

// Bilinear taps of a sub-pixel along one axis: a position and the next one.
struct Taps {
    int before;    // 1 if the first is the position before
    float weight;  // of the second
    __device__ Taps(int sub, int factor) {
        const int twice =
            2 * sub + 1 - factor;  // from the position's centre to the sub-pixel's, in half ones
        before = twice < 0;
        weight = static_cast<float>(twice + 2 * factor * before) / static_cast<float>(2 * factor);
    }
};
__device__ inline int inside(int i, int64_t size) { return max(min(i, static_cast<int>(size) - 1), 0); }

// acc += base, enlarged bilinearly by the factor of the shuffle. Each accumulator reads its four pixels.
template <typename T, int kSums>
__device__ inline void add_bilinear(float (&acc)[kSums], const ConvParams& p, const Place& at, int top,
                                    int bottom) {
    const int s = p.shuffle, colours = at.co / (s * s);
    const int x0 = static_cast<int>(at.x) - threadIdx.x % 32 / 4 + 2 * (threadIdx.x % 4);
    const auto* base = static_cast<const unsigned short*>(p.base.data) + at.n * p.base.sn;
    SRK_UNROLL
    for (int half = 0; half < 2; ++half) {
        SRK_UNROLL
        for (int i = 0; i < 2; ++i) {
            int q = min(half ? bottom : top, at.co - 1);
            opaque(q);  // what all rows and columns read, computed at once, would fill the registers
            const int sub = q / colours;
            const Taps v(sub / s, s), h(sub % s, s);
            const int pitch = static_cast<int>(p.base.sx), x = x0 + i - h.before;
            const int left = q % colours + inside(x, p.ow) * pitch;
            const int right = q % colours + inside(x + 1, p.ow) * pitch;
            const auto row = [&](int y) {
                const auto* from = base + inside(y, p.oh) * p.base.sy;
                const float a = unpack<T>(from[left]).x, b = unpack<T>(from[right]).x;
                return fmaf(h.weight, b - a, a);
            };
            int y0 = static_cast<int>(at.y) - v.before;
            float above = row(y0);
            SRK_UNROLL
            for (int y = 0; y < kSums / 4; ++y, y0 += at.stride) {
                opaque(y0);
                const float below = row(y0 + 1);
                acc[4 * y + 2 * half + i] += fmaf(v.weight, below - above, above);
                above = at.stride == 1 ? below : row(y0 + at.stride);
            }
        }
    }
}

template <typename T, Access kAccess, int kSums>
__device__ inline void store(const float (&acc)[kSums], const Quad<T, kAccess>& to) {
    Walk<T> walk(to);
    SRK_UNROLL
    for (int y = 0; y < kSums / 4; ++y, walk.next()) {
        const float* a = acc + 4 * y;
        const uint32_t top = transpose8x8(pack<T>(a[0], a[1])), bottom = transpose8x8(pack<T>(a[2], a[3]));
        to.store(walk.at(), y < to.rows, make_uint2(top, bottom));
    }
}

template <int kSums, typename F>
__device__ inline void each(float (&acc)[kSums], F f) {
    SRK_UNROLL
    for (int i = 0; i < kSums; ++i) acc[i] = f(acc[i], (i & 2) != 0);
}

// x * Phi(x), the tail of Phi by formula 7.1.26 of Abramowitz and Stegun (1964): off by up to 1e-7 * |x|.
__device__ inline float gelu(float x) {
    const float z = fabsf(x) * 0.70710678f, t = fast_divide(1.f, fmaf(0.3275911f, z, 1.f));
    float tail = fmaf(t, 1.061405429f, -1.453152027f);
    tail = fmaf(t, tail, 1.421413741f);
    tail = fmaf(t, tail, -0.284496736f);
    tail = fmaf(t, tail, 0.254829592f);
    tail *= 0.5f * t * fast_exp(-z * z);
    return x * (x < 0 ? tail : 1 - tail);
}

// By its series where the other form would lose the digits of small values.
__device__ inline float tanh_of(float x) {
    const float square = x * x, series = fmaf(square, fmaf(square, 0.13333333f, -0.33333333f), 1.f);
    return square < 0.01f ? x * series : 1 - fast_divide(2.f, 1 + fast_exp(2 * x));
}

// Slopes are those of the thread's two output channels.
template <Finish kFinish, int kSums>
__device__ inline void activate(float (&acc)[kSums], int act, float top, float bottom) {
    if (kFinish == kRare && act == kGelu) each(acc, [](float v, bool) { return gelu(v); });
    if (kFinish == kRare && act == kTanh) each(acc, [](float v, bool) { return tanh_of(v); });
    switch (act) {
        case kRelu:
            each(acc, [](float v, bool) { return max_nan(v, 0.f); });
            break;
        case kLeakyRelu:
        case kPrelu:
            each(acc, [=](float v, bool low) { return v < 0 ? (low ? bottom : top) * v : v; });
            break;
        case kSilu:
            each(acc, [](float v, bool) { return fast_divide(v, 1 + fast_exp(-v)); });
            break;
        case kSigmoid:
            each(acc, [](float v, bool) { return fast_divide(1.f, 1 + fast_exp(-v)); });
            break;
    }
}

// The bias and slopes of a thread's two output channels.
struct Channel {
    float bias, slope;
    __device__ Channel(const ConvParams& p, int q)
        : bias(p.bias[q]), slope(p.act == kPrelu ? p.prelu[q] : p.slope) {}
};

// What comes before residuals.
template <Finish kFinish, int kSums>
__device__ inline void finish(float (&acc)[kSums], const ConvParams& p, Channel top, Channel bottom) {
    each(acc, [=](float v, bool low) { return v + (low ? bottom.bias : top.bias); });
    if (!p.act_after_add) activate<kFinish>(acc, p.act, top.slope, bottom.slope);
    if (p.scale != 1) each(acc, [&](float v, bool) { return v * p.scale; });
}

// Results and residuals straight between registers and memory. `top`, `bottom`: the thread's two output
// channels as accumulated.
template <typename T, Access kAccess, Finish kFinish, int kSums>
__device__ inline void epilogue(float (&acc)[kSums], const ConvParams& p, const Place& at, int top,
                                int bottom) {
    const Channel a(p, top), b(p, bottom);
    finish<kFinish>(acc, p, a, b);
    const int s = p.shuffle, out_step = p.step * s;
    SRK_ROLL
    for (int i = 0; i < 2; ++i) {
        const View& v = i ? p.res2 : p.res1;
        if (v.data) add(acc, quad<T, kAccess>(v, at, p.step, p.phase_y, p.phase_x, 1), i ? p.b2 : p.b1);
    }
    if (p.act_after_add) activate<kFinish>(acc, p.act, a.slope, b.slope);
    if (p.base_mode == kBaseSame)
        add(acc, quad<T, kAccess>(p.base, at, out_step, p.phase_y * s, p.phase_x * s, s), 1.f);
    if (p.base_mode == kBaseNearest) add_nearest<T>(acc, p, at, top, bottom);
    if (kFinish == kRare && p.base_mode == kBaseBilinear) add_bilinear<T>(acc, p, at, top, bottom);
    store(acc, quad<T, kAccess>(p.y, at, out_step, p.phase_y * s, p.phase_x * s, s));
}

// A warpgroup's buffer in shared memory, its pixels by 64 channels as the copy engine swizzles them:
// residuals come into it, the results leave from it. One thread orders the copies.
template <typename T>
class Staging {
  public:
    // `first`: packed channel of the block's first row; `full`: a barrier of one arrival; `id`: a named one.
    __device__ Staging(const Maps& maps, const ConvParams& p, int first, uint32_t buffer, uint32_t bytes,
                       uint32_t full, int id)
        : maps_(maps), p_(p), buffer_(buffer), bytes_(bytes), full_(full), id_(id) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, pixel = lane % 8;
        const int line = static_cast<int>(p.co) / p.shuffle;  // channels of a row of sub-pixels
        leads_ = threadIdx.x % 128 == 0;
        sub_ = first / line, channel_ = first - sub_ * line;
        rows_ = buffer + (lane / 16 * 8 + pixel) * kPixelBytes + (((2 * warp + lane / 8 % 2) ^ pixel) << 4);
        residuals_ = (p.res1.data ? 1 : 0) + (p.res2.data ? 1 : 0);
    }

    // The residuals of the tile at `at` come while its products are summed.
    __device__ void prepare(const Corner& at) {
        if (leads_ && residuals_) fetch(p_.res1.data ? 0 : 1, at);
    }

    template <int kSums>
    __device__ void finish(float (&acc)[kSums], const Corner& at, Channel top, Channel bottom) {
        sm90::finish<kUsual>(acc, p_, top, bottom);
        if (!residuals_) {
            if (leads_) bulk_wait_read();
            named_sync(id_, 128);
        }
        SRK_ROLL
        for (int i = 0; i < residuals_; ++i) {
            const int which = i || !p_.res1.data;
            if (i) {
                named_sync(id_, 128);
                if (leads_) fetch(which, at);
            }
            mbarrier_wait(full_, parity_);
            parity_ ^= 1;
            add(acc, which ? p_.b2 : p_.b1);
        }
        if (p_.act_after_add) activate<kUsual>(acc, p_.act, top.slope, bottom.slope);
        SRK_UNROLL
        for (int y = 0; y < kSums / 4; y += 2) {
            const float* a = acc + 4 * y;
            store_matrices(rows_ + y * 8 * kPixelBytes, pack<T>(a[0], a[1]), pack<T>(a[2], a[3]),
                           pack<T>(a[4], a[5]), pack<T>(a[6], a[7]));
        }
        fence_async_proxy();
        named_sync(id_, 128);
        if (leads_) {
            tensor_store(&maps_.y, buffer_, channel_, at.x, sub_, at.y, at.n);
            bulk_commit();
        }
    }

    // Before the buffer ends with its block.
    __device__ void end() const {
        if (leads_) bulk_wait_read();
    }

  private:
    __device__ void fetch(int which, const Corner& at) const {
        bulk_wait_read();
        mbarrier_expect(full_, bytes_);
        tensor_copy(buffer_, which ? &maps_.res2 : &maps_.res1, channel_, at.x, 0, at.y, at.n, full_);
    }

    template <int kSums>
    __device__ void add(float (&acc)[kSums], float weight) const {
        SRK_UNROLL
        for (int y = 0; y < kSums / 4; y += 2) {
            uint32_t v[4];
            load_matrices(v, rows_ + y * 8 * kPixelBytes);
            SRK_UNROLL
            for (int i = 0; i < 4; ++i) {
                float* a = acc + 4 * y + 2 * i;
                const float2 r = unpack<T>(v[i]);
                a[0] = fmaf(weight, r.x, a[0]);
                a[1] = fmaf(weight, r.y, a[1]);
            }
        }
    }

    const Maps& maps_;
    const ConvParams& p_;
    uint32_t buffer_, bytes_, full_, rows_;
    uint32_t parity_ = 0;
    int id_, residuals_, sub_, channel_;
    bool leads_;
};

}  // namespace srk::sm90
