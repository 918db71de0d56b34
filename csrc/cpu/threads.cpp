// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
#include "threads.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

namespace srk {
namespace {

// libgomp's entry point for `#pragma omp parallel`; LLVM's and Intel's runtimes export it too.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
using ThreadNumber = int (*)();

struct Runtime {
    GompParallel parallel = nullptr;
    ThreadNumber thread_number = nullptr;
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
    void* number = handle ? dlsym(handle, "omp_get_thread_num") : nullptr;
    if (!symbol || !number) return none;
    auto* r = new Runtime;
    r->parallel = reinterpret_cast<GompParallel>(symbol);
    r->thread_number = reinterpret_cast<ThreadNumber>(number);
    r->path = path;
    found.store(r, std::memory_order_release);
    return *r;
}

// A forked child has none of its parent's workers, and libgomp would wait for them for ever: stay serial there.
std::atomic<bool> forked{false};
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });

// Pieces [next, end) that nobody has begun.
struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
};

constexpr int kMaxShares = 64;  // more threads than that share them

// A thread does its own share of the pieces first, the same one in every layer of a network, so that what it reads
// is what it has written and lies in its caches; then what is left of the others'.
struct Job {
    int shares;
    ThreadNumber number;
    int64_t count, grain;
    TaskFn fn;
    const void* context;
    Share share[kMaxShares];
};

void work(void* arg) {
    auto* job = static_cast<Job*>(arg);
    const int own = job->shares > 1 ? job->number() : 0;
    for (int i = 0; i < job->shares; ++i) {
        Share& share = job->share[(own + i) % job->shares];
        for (;;) {
            const int64_t piece = share.next.fetch_add(1, std::memory_order_relaxed);
            if (piece >= share.end) break;
            const int64_t begin = piece * job->grain, end = begin + job->grain;
            job->fn(job->context, begin, end < job->count ? end : job->count);
        }
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
    const Runtime& r = runtime();
    if (threads < 1 || !r.parallel || forked.load()) threads = 1;
    Job job{threads < kMaxShares ? threads : kMaxShares, r.thread_number, count, grain, fn, context, {}};
    for (int64_t i = 0; i < job.shares; ++i) {
        job.share[i].next.store(pieces * i / job.shares, std::memory_order_relaxed);
        job.share[i].end = pieces * (i + 1) / job.shares;
    }
    if (threads <= 1) {
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

int64_t second_cache() {
#ifdef _SC_LEVEL2_CACHE_SIZE  // glibc's
    static const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (bytes > 0) return bytes;
#endif
    return 512 << 10;
}

const char* openmp_library() { return runtime().path.c_str(); }

}  // namespace srk
