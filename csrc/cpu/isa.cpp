// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace srk {

extern const Isa isa_scalar;
#if defined(__x86_64__)
extern const Isa isa_avx2, isa_avx512;
// Null where the compiler was too old for them, see setup.py.
extern const ConvKernels kernels_avx512bf16 __attribute__((weak));
extern const ConvKernels kernels_amx __attribute__((weak));

namespace {

constexpr int kMostKernels = 32;

// All that `below` has, and a few kernels more.
struct Extended {
    Isa isa;
    ConvKernel kernels[kMostKernels];

    const Isa* of(const Isa& below, const ConvKernels& added, bool fast) {
        isa = below;
        isa.fast_bf16 = fast;
        isa.name = added.name;
        isa.kernels = kernels;
        for (int i = 0; i < below.kernel_count; ++i) kernels[i] = below.kernels[i];
        for (int i = 0; i < added.count && isa.kernel_count < kMostKernels; ++i)
            kernels[isa.kernel_count++] = added.kernels[i];
        return &isa;
    }
};

bool has_avx512bf16() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

// A process asks the kernel for tiles before it uses them: they make its threads' saved state 8 KB larger.
bool has_amx() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;
#if defined(__linux__)
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

}  // namespace
#endif

int supported_isas(const Isa* const** list) {
    static const Isa* found[5];
    static const int count = [] {
        int n = 0;
        found[n++] = &isa_scalar;
#if defined(__x86_64__)
        __builtin_cpu_init();
        if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
            !__builtin_cpu_supports("f16c"))
            return n;
        found[n++] = &isa_avx2;
        if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
            !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
            return n;
        found[n++] = &isa_avx512;
        static Extended bf16, amx;
        // Two VDPBF16PS a cycle on Zen 5, each of twice as many products as a multiply-add; one in two on Intel's.
        if (!&kernels_avx512bf16 || !has_avx512bf16()) return n;
        found[n++] = bf16.of(isa_avx512, kernels_avx512bf16, __builtin_cpu_is("amd"));
        if (&kernels_amx && has_amx()) found[n++] = amx.of(bf16.isa, kernels_amx, true);
#endif
        return n;
    }();
    *list = found;
    return count;
}

}  // namespace srk
