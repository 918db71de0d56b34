// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// What every ISA unit begins with. Everything of a unit lies in a namespace of its own, and no STL is included: an
// inline function shared with another unit could be the copy that this machine cannot run.
#if SRK_LANES >= 8
#include <immintrin.h>
#endif

#include "../isa.h"
#include "../threads.h"

#define SRK_CAT_(a, b) a##b
#define SRK_CAT(a, b) SRK_CAT_(a, b)
#define SRK_STR_(a) #a
#define SRK_STR(a) SRK_STR_(a)
