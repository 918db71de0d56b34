// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
#include "threads.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

namespace srk {
namespace {

// libgomp's entry point for `#pragma omp parallel`; LLVM's and Intel's runtimes export it too.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

struct Runtime {
    GompParallel parallel = nullptr;
    std::string path;
};

int visit(dl_phdr_info* info, size_t, void* out) {
    const char* path = info->dlpi_name;
    if (!path || !*path) return 0;
    const char* name = std::strrchr(path, '/');
    name = name ? name + 1 : path;
    const bool openmp = !std::strncmp(name, "libgomp", 7) || !std::strncmp(name, "libiomp5", 8) ||
                        !std::strncmp(name, "libomp.", 7) || !std::strncmp(name, "libomp-", 7);
    if (!openmp) return 0;
    auto* best = static_cast<std::string*>(out);
    // Where a process holds several, torch's own is the one that torch.set_num_threads governs.
    const bool torchs = std::strstr(path, "/torch/") || std::strstr(path, "/torch.libs/");
    if (best->empty() || torchs) *best = path;
    return torchs ? 1 : 0;
}

const Runtime& runtime() {
    static std::mutex mutex;
    static std::atomic<const Runtime*> found{nullptr};
    static const Runtime none;
    if (const Runtime* r = found.load(std::memory_order_acquire)) return *r;
    std::lock_guard<std::mutex> lock(mutex);
    if (const Runtime* r = found.load(std::memory_order_acquire)) return *r;
    std::string path;
    dl_iterate_phdr(visit, &path);
    if (path.empty()) return none;  // looked for again next time: torch may be imported later
    void* handle = dlopen(path.c_str(), RTLD_NOLOAD | RTLD_LAZY);
    void* symbol = handle ? dlsym(handle, "GOMP_parallel") : nullptr;
    if (!symbol) return none;
    auto* r = new Runtime;
    r->parallel = reinterpret_cast<GompParallel>(symbol);
    r->path = path;
    found.store(r, std::memory_order_release);
    return *r;
}

// A forked child has none of its parent's workers, and libgomp would wait for them for ever: stay serial there.
std::atomic<bool> forked{false};
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });

struct Job {
    std::atomic<int64_t> next{0};
    int64_t count, grain;
    TaskFn fn;
    const void* context;
};

void work(void* arg) {
    auto* job = static_cast<Job*>(arg);
    for (;;) {
        const int64_t begin = job->next.fetch_add(job->grain, std::memory_order_relaxed);
        if (begin >= job->count) return;
        const int64_t end = begin + job->grain < job->count ? begin + job->grain : job->count;
        job->fn(job->context, begin, end);
    }
}

struct Scratch {
    void* data = nullptr;
    size_t bytes = 0;
    ~Scratch() { std::free(data); }
};

}  // namespace

void parallel_for(int64_t count, int64_t grain, int threads, TaskFn fn, const void* context) {
    if (count <= 0) return;
    if (grain < 1) grain = 1;
    const int64_t pieces = (count + grain - 1) / grain;
    if (threads > pieces) threads = static_cast<int>(pieces);
    Job job;
    job.count = count;
    job.grain = grain;
    job.fn = fn;
    job.context = context;
    const Runtime& r = runtime();
    if (threads <= 1 || !r.parallel || forked.load()) {
        work(&job);
    } else {
        r.parallel(work, &job, static_cast<unsigned>(threads), 0);
    }
}

void* scratch(size_t bytes, int use) {
    thread_local Scratch all[2];
    Scratch& own = all[use];
    if (own.bytes < bytes) {
        std::free(own.data);
        const size_t rounded = (bytes + 4095) / 4096 * 4096;
        own.data = std::aligned_alloc(64, rounded);
        own.bytes = own.data ? rounded : 0;
    }
    return own.data;
}

const char* openmp_library() { return runtime().path.c_str(); }

}  // namespace srk
