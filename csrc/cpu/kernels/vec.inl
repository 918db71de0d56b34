// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// A vector of SRK_LANES floats in the compiler's own vector type, and the few functions that arithmetic lacks.

constexpr int64_t L = SRK_LANES;
typedef float V __attribute__((vector_size(4 * SRK_LANES)));
typedef int32_t VI __attribute__((vector_size(4 * SRK_LANES)));
typedef float VU __attribute__((vector_size(4 * SRK_LANES), aligned(4), may_alias));

// Not a call a vector: passing registers costs more than most of these functions.
#define SRK_INLINE inline __attribute__((always_inline))

// Hides a vector's origin from the compiler.
#if defined(__x86_64__)
#define SRK_OPAQUE(v) __asm__("" : "+v"(v))
#else
#define SRK_OPAQUE(v) __asm__("" : "+w"(v))
#endif

// Brings a line into L1. Not __builtin_prefetch: GCC deletes a loop that does nothing else.
inline void prefetch(const void* p) {
#if defined(__x86_64__)
    __asm__ volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p)));
#else
    __asm__ volatile("prfm pldl1keep, %0" : : "Q"(*static_cast<const char*>(p)));
#endif
}

// Brings a line into L2.
inline void prefetch_far(const void* p) {
#if defined(__x86_64__)
    __asm__ volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
#else
    __asm__ volatile("prfm pldl2keep, %0" : : "Q"(*static_cast<const char*>(p)));
#endif
}

inline V load(const float* p) { return *reinterpret_cast<const VU*>(p); }
inline void store(float* p, V v) { *reinterpret_cast<VU*>(p) = v; }
inline V splat(float s) { return s - V{}; }

// The first `count` lanes (0 < count <= L); lanes behind it are read as zero and not written.
inline V load_n(const float* p, int64_t count) {
#if SRK_LANES == 16
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#elif SRK_LANES == 8
    static const int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_maskload_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + L - count)));
#else
    if (count == L) return load(p);
    V v{};
    __builtin_memcpy(&v, p, static_cast<size_t>(count) * 4);
    return v;
#endif
}
inline void store_n(float* p, V v, int64_t count) {
#if SRK_LANES == 16
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
#elif SRK_LANES == 8
    // By halves: AMD's masked stores are slow, a copy of a count that varies is a call.
    if (count == L) return store(p, v);
    __m128 rest = _mm256_castps256_ps128(v);
    if (count & 4) _mm_storeu_ps(p, rest), p += 4, rest = _mm256_extractf128_ps(v, 1);
    if (count & 2) _mm_storel_pi(reinterpret_cast<__m64*>(p), rest), p += 2, rest = _mm_movehl_ps(rest, rest);
    if (count & 1) _mm_store_ss(p, rest);
#else
    if (count == L) return store(p, v);
    __builtin_memcpy(p, &v, static_cast<size_t>(count) * 4);
#endif
}

// A store past the caches, p aligned to the vector; stream_fence() before another thread may read it. Whole lines
// alone: halves of lines, with others in between, took an Intel Xeon three times as long as what the caches take.
inline void stream(float* p, V v) {
#if SRK_LANES == 16
    _mm512_stream_ps(p, v);
#else
    store(p, v);
#endif
}
inline void stream_fence() {
#if SRK_LANES == 16
    _mm_sfence();
#endif
}

// Pairs of lanes D apart are added, those of a into the lanes without bit D, those of b into the lanes with it.
template <int D>
SRK_INLINE V fold(V a, V b) {
    VI lane, other;
    for (int i = 0; i < SRK_LANES; ++i) lane[i] = i, other[i] = i ^ D;
    const V keep = (lane & D) ? b : a, give = (lane & D) ? a : b;
    return keep + __builtin_shuffle(give, other);
}

// Lane i becomes the sum of v[i]'s lanes, by the same tree of additions for each; v is used up.
SRK_INLINE V sums_of(V (&v)[SRK_LANES]) {
#pragma GCC unroll 16
    for (int i = 0; i < SRK_LANES; i += 2) v[i] = fold<1>(v[i], v[i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < SRK_LANES; i += 4) v[i] = fold<2>(v[i], v[i + 2]);
#if SRK_LANES >= 8
#pragma GCC unroll 16
    for (int i = 0; i < SRK_LANES; i += 8) v[i] = fold<4>(v[i], v[i + 4]);
#endif
#if SRK_LANES >= 16
    v[0] = fold<8>(v[0], v[8]);
#endif
    return v[0];
}

// The comparisons below are written so that a NaN passes through.
inline V clamp(V x, float low, float high) {
    x = x > high ? splat(high) : x;
    return x < low ? splat(low) : x;
}
inline V abs(V x) { return (V)((VI)x & 0x7fffffff); }
inline V copy_sign(V magnitude, V sign) {
    return (V)(((VI)magnitude & 0x7fffffff) | ((VI)sign & static_cast<int32_t>(0x80000000u)));
}

// e^x within 1.1 units in the last place: x = n*log(2) + r, |r| <= log(2)/2, then the series to r^7.
SRK_INLINE V exp(V x) {
    x = clamp(x, -104.0f, 104.0f);         // beyond: zero and infinity, by the scaling below
    constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
    const V shifted = x * 1.44269504f + kMagic;
    const V n = shifted - kMagic;
    V r = x - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    V p = r * 1.9841270e-4f + 1.3888889e-3f;
    p = p * r + 8.3333333e-3f;
    p = p * r + 4.1666667e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    // 2^n may be no number of its own: scale by half of n twice.
    const VI ni = (VI)shifted - 0x4b400000;
    const VI half = ni >> 1;
    const V s1 = (V)((half + 127) << 23), s2 = (V)((ni - half + 127) << 23);
    return p * s1 * s2;
}

SRK_INLINE V sigmoid(V x) { return 1.0f / (1.0f + exp(-x)); }

// a/b within an ulp for b from 1 to 2^100: a vector of 16 takes an Intel processor 16 cycles to divide.
SRK_INLINE V ratio(V a, V b) {
#if SRK_LANES == 16
    V r = _mm512_maskz_rcp14_ps(0xffff, b);  // masked: GCC warns of the plain one
    r = r + r * (1.0f - b * r);
    const V q = a * r;
    return q + r * (a - b * q);
#else
    return a / b;
#endif
}

// tanh = u/(u + 2) with u = e^2x - 1 = 2^n*(e^r - 1) + (2^n - 1): nothing cancels, near zero neither.
SRK_INLINE V tanh(V x) {
    const V y = clamp(2.0f * x, -20.0f, 20.0f);  // beyond, tanh is 1 in single precision
    constexpr float kMagic = 12582912.0f;        // as in exp
    const V shifted = y * 1.44269504f + kMagic;
    const V n = shifted - kMagic;
    V r = y - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    V p = r * 1.9841270e-4f + 1.3888889e-3f;
    p = p * r + 8.3333333e-3f;
    p = p * r + 4.1666667e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    const V q = p * r * r + r;
    const V s = (V)(((VI)shifted - 0x4b400000 + 127) << 23);
    const V u = s * q + (s - 1.0f);
    return ratio(u, u + 2.0f);
}

// erfc(a) for a >= 1 and erf for |x| < 1 (Cephes' coefficients for single precision).
SRK_INLINE V erf(V x) {
    const V a = abs(x);
    const V s = x * x;
    V t = s * 7.853861353153693e-5f - 8.010193625184903e-4f;
    t = t * s + 5.188327685732524e-3f;
    t = t * s - 2.685381193529856e-2f;
    t = t * s + 1.128358514861418e-1f;
    t = t * s - 3.761262582423300e-1f;
    t = t * s + 1.128379165726710f;
    const V near = t * x;
    const V q = 1.0f / a, q2 = q * q;
    V p = q2 * 2.326819970068386e-2f - 1.387039388740657e-1f;
    p = p * q2 + 3.687424674597105e-1f;
    p = p * q2 - 5.824733027278666e-1f;
    p = p * q2 + 6.210004621745983e-1f;
    p = p * q2 - 4.944515323274145e-1f;
    p = p * q2 + 3.404879937665872e-1f;
    p = p * q2 - 2.741127028184656e-1f;
    p = p * q2 + 5.638259427386472e-1f;
    V r = q2 * -1.047766399936249e+1f + 1.297719955372516e+1f;
    r = r * q2 - 7.495518717768503f;
    r = r * q2 + 2.921019019210786f;
    r = r * q2 - 1.015265279202700f;
    r = r * q2 + 4.218463358204948e-1f;
    r = r * q2 - 2.820767439740514e-1f;
    r = r * q2 + 5.641895067754075e-1f;
    const V far = copy_sign(1.0f - exp(-s) * q * (a < 2.0f ? p : r), x);
    return a < 1.0f ? near : (x != x ? x : far);
}

template <int Act>
SRK_INLINE V activate(V z, V slope) {
    if constexpr (Act == kRelu) return z < 0.0f ? V{} : z;
    if constexpr (Act == kLeakyRelu || Act == kPrelu) return z > 0.0f ? z : z * slope;
    if constexpr (Act == kSilu) return z * sigmoid(z);
    if constexpr (Act == kGelu) return 0.5f * z * (1.0f + erf(z * 0.707106781f));
    if constexpr (Act == kTanh) return tanh(z);
    if constexpr (Act == kSigmoid) return sigmoid(z);
    return z;
}
