// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Memory-bound ops: pixel shuffle and its inverse, weighted sums, integers <-> floats.

// One coarse row: channel c*s*s + dy*s + dx of its pixel X is channel c of the fine pixel (y*s + dy, X*s + dx).
// x is the coarse side, y the fine one; the inverse reads y and writes x. S == 0 takes s from p, and the others let
// the compiler see the distances between elements.
template <class T, int S, bool ChannelsLast, bool Inverse>
void shuffle_rows(const void* context, int64_t begin, int64_t end) {
    const ShuffleParams& p = *static_cast<const ShuffleParams*>(context);
    const int64_t s = S ? S : p.s, ss = s * s;
    const auto move = [](T& coarse, T& fine) {
        if (Inverse)
            coarse = fine;
        else
            fine = coarse;
    };
    for (int64_t task = begin; task < end; ++task) {
        const int64_t n = task / p.h, row = task % p.h;
        T* coarse = static_cast<T*>(const_cast<void*>(p.x)) + n * p.xn + row * p.xy;
        T* fine = static_cast<T*>(p.y) + n * p.yn + row * s * p.yy;
        if (ChannelsLast) {
            for (int64_t X = 0; X < p.w; ++X) {
                T* a = coarse + X * p.xx;
                T* b = fine + X * s * p.yx;
                if constexpr (S == 2) {  // all sub-pixels of a channel at once: whole vectors, taken apart
                    T *b0 = b, *b1 = b + p.yx, *b2 = b + p.yy, *b3 = b + p.yy + p.yx;
#pragma GCC ivdep
                    for (int64_t c = 0; c < p.c; ++c) {
                        move(a[4 * c], b0[c]);
                        move(a[4 * c + 1], b1[c]);
                        move(a[4 * c + 2], b2[c]);
                        move(a[4 * c + 3], b3[c]);
                    }
                } else {
                    for (int64_t dy = 0; dy < s; ++dy)
                        for (int64_t dx = 0; dx < s; ++dx)
                            for (int64_t c = 0; c < p.c; ++c)
                                move(a[c * ss + dy * s + dx], b[dy * p.yy + dx * p.yx + c]);
                }
            }
        } else {
            for (int64_t c = 0; c < p.c; ++c)
                for (int64_t dy = 0; dy < s; ++dy) {
                    T* a = coarse + (c * ss + dy * s) * p.xc;
                    T* b = fine + c * p.yc + dy * p.yy;
                    for (int64_t X = 0; X < p.w; ++X)
                        for (int64_t dx = 0; dx < s; ++dx) move(a[dx * p.xc + X], b[X * s + dx]);
                }
        }
    }
}

template <class T, bool ChannelsLast, bool Inverse>
TaskFn shuffle_by_factor(int32_t s) {
    switch (s) {
        case 2:
            return shuffle_rows<T, 2, ChannelsLast, Inverse>;
        case 3:
            return shuffle_rows<T, 3, ChannelsLast, Inverse>;
        case 4:
            return shuffle_rows<T, 4, ChannelsLast, Inverse>;
        default:
            return shuffle_rows<T, 0, ChannelsLast, Inverse>;
    }
}

template <class T>
TaskFn shuffle_by_layout(const ShuffleParams& p) {
    if (p.xc == 1 && p.yc == 1)  // both: of a picture of one pixel either side alone may look so
        return p.inverse ? shuffle_by_factor<T, true, true>(p.s) : shuffle_by_factor<T, true, false>(p.s);
    return p.inverse ? shuffle_by_factor<T, false, true>(p.s) : shuffle_by_factor<T, false, false>(p.s);
}

void shuffle(const ShuffleParams& p) {
    const TaskFn fn = p.size == 8   ? shuffle_by_layout<uint64_t>(p)
                      : p.size == 4 ? shuffle_by_layout<uint32_t>(p)
                      : p.size == 2 ? shuffle_by_layout<uint16_t>(p)
                                    : shuffle_by_layout<uint8_t>(p);
    parallel_for(p.n * p.h, 4, p.threads, fn, &p);
}

constexpr int64_t kChunk = 1 << 14;  // elements of a flat task

template <bool Two>
inline V weighted(const AddParams& p, V x, V r1, V r2) {
    const V y = p.scale * x + p.b1 * r1;
    return Two ? y + p.b2 * r2 : y;
}

template <class T, bool Two>
void add_chunk(const void* context, int64_t begin, int64_t end) {
    const AddParams& p = *static_cast<const AddParams*>(context);
    const auto *x = static_cast<const T*>(p.x), *r1 = static_cast<const T*>(p.r1),
               *r2 = static_cast<const T*>(p.r2);
    T* y = static_cast<T*>(p.y);
    const int64_t stop = end * kChunk < p.count ? end * kChunk : p.count;
    int64_t i = begin * kChunk;
    for (; i + L <= stop; i += L)
        store(y + i, weighted<Two>(p, load(x + i), load(r1 + i), Two ? load(r2 + i) : V{}));
    if (const int64_t rest = stop - i; rest > 0)
        store_n(y + i,
                weighted<Two>(p, load_n(x + i, rest), load_n(r1 + i, rest), Two ? load_n(r2 + i, rest) : V{}),
                rest);
}

template <class T>
TaskFn add_by_count(const AddParams& p) {
    return p.r2 ? add_chunk<T, true> : add_chunk<T, false>;
}

void add(const AddParams& p) {
    const TaskFn fn = p.dtype == kFloat32    ? add_by_count<float>(p)
                      : p.dtype == kBFloat16 ? add_by_count<BFloat16>(p)
                                             : add_by_count<Float16>(p);
    const int64_t chunks = (p.count + kChunk - 1) / kChunk;
    parallel_for(chunks, chunks / (2 * p.threads), p.threads, fn, &p);
}

template <class T>
void to_float_chunk(const void* context, int64_t begin, int64_t end) {
    const ImageParams& p = *static_cast<const ImageParams*>(context);
    const T* x = static_cast<const T*>(p.x);
    float* y = static_cast<float*>(p.y);
    const float full = sizeof(T) == 1 ? 255.0f : 65535.0f;
    const int64_t stop = end * kChunk < p.count ? end * kChunk : p.count;
    for (int64_t i = begin * kChunk; i < stop; ++i) y[i] = static_cast<float>(x[i]) / full;
}

// One vector of integers: clamped to [0, 1], scaled, rounded half to even; NaN becomes 0.
template <class T>
inline void to_integers(V x, T* y) {
    typedef T Integers __attribute__((vector_size(sizeof(T) * SRK_LANES), aligned(1), may_alias));
    x = x > 0.0f ? x : V{};
    x = (x < 1.0f ? x : splat(1.0f)) * (sizeof(T) == 1 ? 255.0f : 65535.0f);
    SRK_OPAQUE(
        x);  // the product is rounded by itself, as eager PyTorch's is: fused, ties would fall otherwise
    constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
    const VI integers = (VI)(x + kMagic) - 0x4b400000;
    *reinterpret_cast<Integers*>(y) = __builtin_convertvector(integers, Integers);
}

template <class T>
void to_image_chunk(const void* context, int64_t begin, int64_t end) {
    const ImageParams& p = *static_cast<const ImageParams*>(context);
    const float* x = static_cast<const float*>(p.x);
    T* y = static_cast<T*>(p.y);
    const int64_t stop = end * kChunk < p.count ? end * kChunk : p.count;
    int64_t i = begin * kChunk;
    for (; i + L <= stop; i += L) to_integers(load(x + i), y + i);
    if (i < stop) {
        T last[SRK_LANES];
        to_integers(load_n(x + i, stop - i), last);
        __builtin_memcpy(y + i, last, static_cast<size_t>(stop - i) * sizeof(T));
    }
}

void image_to_float(const ImageParams& p) {
    parallel_for((p.count + kChunk - 1) / kChunk, 1, p.threads,
                 p.bits == 8 ? to_float_chunk<uint8_t> : to_float_chunk<uint16_t>, &p);
}

void float_to_image(const ImageParams& p) {
    parallel_for((p.count + kChunk - 1) / kChunk, 1, p.threads,
                 p.bits == 8 ? to_image_chunk<uint8_t> : to_image_chunk<uint16_t>, &p);
}
