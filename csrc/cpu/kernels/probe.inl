// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// How fast this machine multiplies and adds where nothing is loaded or stored: what kernels are measured against.

// Chains of multiply-adds that don't wait for each other: two pipes of up to five cycles keep ten busy, and with
// the two factors these fit into sixteen registers.
constexpr int kChains = 12;
constexpr int64_t kProbeSteps = 4096;

void probe_steps(const void* context, int64_t begin, int64_t end) {
    // 2 is where x * 0.5 + 1 stays: no infinities, no denormals.
    V factor = splat(0.5f), term = splat(1.0f), chain[kChains];
    // All unrolled: an array that is indexed by a variable lies in memory.
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
        chain[c] = splat(*static_cast<const float*>(context));
        SRK_OPAQUE(chain[c]);
    }
    SRK_OPAQUE(factor);
    SRK_OPAQUE(term);
    for (int64_t i = begin * kProbeSteps; i < end * kProbeSteps; ++i) {
#pragma GCC unroll 12
        for (int c = 0; c < kChains; ++c) {
            chain[c] = chain[c] * factor + term;
            SRK_OPAQUE(chain[c]);
        }
    }
    V sum{};
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sum += chain[c];
    volatile float kept = sum[0];
    (void)kept;
}

int64_t probe(int64_t pieces, int threads) {
    const float start = 2.0f;
    parallel_for(pieces, 1, threads, probe_steps, &start);
    return pieces * kProbeSteps * kChains * L * 2;
}
