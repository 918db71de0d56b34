// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// What Hopper does beside its threads, as emulate.h keeps it: barriers in shared memory and by number, what
// the copy engine and the tensor cores have been ordered to do, registers that warpgroups hand over.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace srk::emulate {

// A phase is over when no arrival and no byte is outstanding.
struct MBarrier {
    int expected, pending;
    int64_t bytes;
    uint32_t phase;
    int owner;
    bool published;  // to the copy engine
};

struct NamedBarrier {
    int threads, arrived, turn;
};

// A matrix product of a warpgroup, as one of its threads has ordered it.
struct Product {
    float* d;
    int sums, group;
    uint64_t a, b, digest;  // of the operands when it was ordered
    bool accumulate;
    float (*value)(uint16_t);
};

struct BulkStore {
    int group;
    std::function<void()> carry_out;
};

// By one thread, which has not waited for it yet.
struct Ordered {
    std::deque<Product> products;
    std::deque<BulkStore> stores;
    std::vector<uint32_t> stored;  // units of `Async::unseen`
    int product_group = 0, store_group = 0, registers = 0;
    bool fenced = false;

    const char* unfinished() const {
        if (!products.empty()) return "a thread ends before its matrix products";
        return stores.empty() ? nullptr : "a thread ends before its results have been read";
    }
};

// Bytes on their way into shared memory.
struct Transfer {
    uint32_t barrier, bytes;
    std::function<void()> land;
};

// Of a block.
struct Async {
    std::map<uint32_t, MBarrier> barriers;  // by address
    NamedBarrier named[16] = {};
    std::deque<Transfer> transfers;
    // By 16 bytes of shared memory, the threads whose ordinary stores tensor cores and copies do not see yet.
    std::vector<std::vector<int>> unseen;
    int registers = 0;  // that nobody has

    Async() = default;
    explicit Async(size_t bytes) : unseen(bytes / 16 + 1) {}

    std::string unfinished() const {
        for (const NamedBarrier& barrier : named)
            if (barrier.arrived) return "a block ends while threads have arrived at a barrier alone";
        return transfers.empty() ? "" : "a block ends before what it has copied is there";
    }
};

}  // namespace srk::emulate
