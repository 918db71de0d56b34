// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The process's one OpenMP runtime, found at run time (torch brings it); serial where there is none.
#pragma once
#include <cstddef>
#include <cstdint>

namespace srk {

// Work on tasks [begin, end); called from several workers at once.
using TaskFn = void (*)(const void* context, int64_t begin, int64_t end);

// Runs fn over [0, count) in pieces of `grain` tasks on at most `threads` workers. Never throws.
void parallel_for(int64_t count, int64_t grain, int threads, TaskFn fn, const void* context);

// At least `bytes` of 64-byte aligned memory of this worker's own, valid until its next call for the same use (0: of a
// kernel, 1: of what runs kernels); null if none is left.
void* scratch(size_t bytes, int use = 0);

// Bytes of a core's second cache; 512 KB where the system does not tell.
int64_t second_cache();

// Path of the OpenMP runtime in use, "" for none.
const char* openmp_library();

}  // namespace srk
