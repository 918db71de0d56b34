// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// What the kernels of bfloat16 products ask of AVX512-BF16; tests/native/bf16_plain.cpp says the same in plain C++.

// Values to bfloat16, to nearest even (infinities and NaNs stay, what has no leading one becomes zero).
inline void round_values(const float* x, int64_t count, uint16_t* to) {
    int64_t i = 0;
    for (; i + 2 * L <= count; i += 2 * L)
        _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(load(x + i + L), load(x + i)));
    for (; i < count; i += L) {
        const int64_t lanes = count - i < L ? count - i : L;
        const auto mask = static_cast<__mmask16>((1u << lanes) - 1);
        _mm256_mask_storeu_epi16(to + i, mask, (__m256i)_mm512_cvtneps_pbh(load_n(x + i, lanes)));
    }
}

// Each lane: sum + the products of two pairs of bfloat16 values.
SRK_INLINE V add_products(V sum, VI x, VI w) { return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w); }
