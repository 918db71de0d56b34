// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Elements of 16 bits: widened to float32 where they enter a kernel, rounded to nearest even where they leave it.
// A NaN stays one, what is too large becomes an infinity.

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

typedef uint16_t VH __attribute__((vector_size(2 * SRK_LANES)));
typedef uint16_t VHU __attribute__((vector_size(2 * SRK_LANES), aligned(2), may_alias));

inline V widened(VH bits, const BFloat16*) { return (V)(__builtin_convertvector(bits, VI) << 16); }
#ifdef __AVX512BF16__
// What has no leading one becomes zero, as in the unit's products.
inline VH narrowed(V x, const BFloat16*) { return (VH)_mm512_cvtneps_pbh(x); }
#else
inline VH narrowed(V x, const BFloat16*) {
    const VI bits = (VI)x;
    const VI rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return __builtin_convertvector(x == x ? rounded : bits >> 16 | 0x40, VH);
}
#endif

#if SRK_LANES == 16
inline V widened(VH bits, const Float16*) { return (V)_mm512_maskz_cvtph_ps(0xffff, (__m256i)bits); }
inline VH narrowed(V x, const Float16*) {
    return (VH)_mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT);
}
#elif SRK_LANES == 8
inline V widened(VH bits, const Float16*) { return (V)_mm256_cvtph_ps((__m128i)bits); }
inline VH narrowed(V x, const Float16*) { return (VH)_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
#else
inline V widened(VH half, const Float16*) {
    const VI bits = __builtin_convertvector(half, VI), rest = (bits & 0x7fff) << 13;
    // The exponents differ by 112; the product also normalises what had no leading one.
    const VI finite = (VI)((V)rest * 5.192296858534828e33f);
    return (V)((rest < 0x0f800000 ? finite : rest | 0x7f800000) | (bits & 0x8000) << 16);
}
inline VH narrowed(V x, const Float16*) {
    const VI bits = (VI)abs(x), sign = (VI)x >> 16 & 0x8000;
    const VI capped = bits < 0x47800000 ? bits : VI{} + 0x47800000;
    const VI normal = (capped - 0x38000000 + 0xfff + (capped >> 13 & 1)) >> 13;
    const VI small = (VI)(abs(x) + 0.5f) - 0x3f000000;  // half's units in the last place are 2^-24
    const VI finite = bits < 0x38800000 ? small : normal;
    return __builtin_convertvector((x == x ? finite : VI{} + 0x7e00) | sign, VH);
}
#endif

inline VH load_bits(const void* p, int64_t count) {
#if SRK_LANES == 16
    return (VH)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), p);
#else
    VH v{};
    __builtin_memcpy(&v, p, static_cast<size_t>(count) * 2);
    return v;
#endif
}

// As of floats, see vec.inl.
#define SRK_HALF(T)                                                                        \
    SRK_INLINE V load(const T* p) { return widened(*reinterpret_cast<const VHU*>(p), p); } \
    SRK_INLINE V load_n(const T* p, int64_t count) {                                       \
        return count == L ? load(p) : widened(load_bits(p, count), p);                     \
    }                                                                                      \
    SRK_INLINE void store(T* p, V v) { *reinterpret_cast<VHU*>(p) = narrowed(v, p); }      \
    SRK_INLINE void store_n(T* p, V v, int64_t count) {                                    \
        if (count == L) return store(p, v);                                                \
        const VH bits = narrowed(v, p);                                                    \
        __builtin_memcpy(p, &bits, static_cast<size_t>(count) * 2);                        \
    }                                                                                      \
    inline float value(T x) { return widened(VH{} + x.bits, &x)[0]; }                      \
    inline void widen(const T* x, int64_t count, float* to) {                              \
        int64_t i = 0;                                                                     \
        for (; i + L <= count; i += L) store(to + i, load(x + i));                         \
        if (i < count) store_n(to + i, load_n(x + i, count - i), count - i);               \
    }
SRK_HALF(BFloat16)
SRK_HALF(Float16)
#undef SRK_HALF

inline float value(float x) { return x; }
inline void widen(const float* x, int64_t count, float* to) {
    __builtin_memcpy(to, x, static_cast<size_t>(count) * 4);
}
