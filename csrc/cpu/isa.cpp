// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
#include "isa.h"

namespace srk {

extern const Isa isa_scalar;
#if defined(__x86_64__)
extern const Isa isa_avx2, isa_avx512;
#endif

int supported_isas(const Isa* const** list) {
    static const Isa* found[3];
    static const int count = [] {
        int n = 0;
        found[n++] = &isa_scalar;
#if defined(__x86_64__)
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
            __builtin_cpu_supports("f16c")) {
            found[n++] = &isa_avx2;
            if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
                found[n++] = &isa_avx512;
        }
#endif
        return n;
    }();
    *list = found;
    return count;
}

}  // namespace srk
