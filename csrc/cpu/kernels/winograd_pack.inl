// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Weights as the Winograd kernels read them, one after the other: U = G w G^T of every 3x3 kernel, for each kDepth
// inputs [blocks][edge*edge][inputs][channels].
// In double: rounded before the sum over inputs, U would be off by the layer's largest error.

void pack_winograd(const WinogradPack& p) {
    const int64_t blocks = (p.co + p.channels - 1) / p.channels;
    const int64_t points = p.edge * p.edge;
    for (int64_t q = 0; q < blocks * p.channels; q += L) {
        // outputs beyond co are zero
        const int64_t block = q / p.channels, at = q % p.channels;
        const int64_t count = p.co - q < L ? p.co - q : L;
        for (int64_t c = 0; c < p.ci; ++c) {
            const float* w = p.w + q * p.so + c * p.si;
            double rows[8][3][L], taps[3][3][L] = {};
            for (int64_t i = 0; i < count; ++i)
                for (int64_t y = 0; y < 3; ++y)
                    for (int64_t x = 0; x < 3; ++x) taps[y][x][i] = w[i * p.so + y * p.sy + x * p.sx];
            for (int64_t a = 0; a < p.edge; ++a)
                for (int64_t x = 0; x < 3; ++x)
                    for (int64_t i = 0; i < L; ++i)
                        rows[a][x][i] =
                            p.g[a][0] * taps[0][x][i] + p.g[a][1] * taps[1][x][i] + p.g[a][2] * taps[2][x][i];
            const int64_t k = c / kDepth * kDepth, depth = p.ci - k < kDepth ? p.ci - k : kDepth;
            const int64_t point = depth * p.channels;  // from one point of U to the next
            float* u = p.u + (k * blocks + block * depth) * points * p.channels + (c - k) * p.channels + at;
            for (int64_t a = 0; a < p.edge; ++a)
                for (int64_t b = 0; b < p.edge; ++b, u += point)
                    for (int64_t i = 0; i < L; ++i)
                        u[i] = static_cast<float>(p.g[b][0] * rows[a][0][i] + p.g[b][1] * rows[a][1][i] +
                                                  p.g[b][2] * rows[a][2][i]);
        }
    }
}
