// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
#include "program.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "threads.h"

namespace srk {

ConvParams bound(const Isa& isa, const ConvParams& step, const Addresses& to, int threads) {
    if (step.kernel < 0 || step.kernel >= isa.kernel_count)
        throw std::out_of_range("no kernel " + std::to_string(step.kernel) + " in " + isa.name);
    ConvParams p = step;
    p.x.data = reinterpret_cast<void*>(to[0]);
    p.y.data = reinterpret_cast<void*>(to[1]);
    p.res1.data = reinterpret_cast<void*>(to[2]);
    p.res2.data = reinterpret_cast<void*>(to[3]);
    p.base.data = reinterpret_cast<void*>(to[4]);
    p.weight = reinterpret_cast<const float*>(to[5]);
    p.bias = reinterpret_cast<const float*>(to[6]);
    p.prelu = reinterpret_cast<const float*>(to[7]);
    if (to[1] % (sizeof(float) * isa.lanes)) p.stream = 0;  // needs whole, aligned vectors
    if (p.threads > threads) p.threads = threads;
    return p;
}

void check_chain(size_t layers, int64_t rows, int64_t height, int64_t columns) {
    if (layers < 1 || layers > kMaxChain || rows < 1 || height < 1 || columns < 1)
        throw std::out_of_range("a chain has 1 to " + std::to_string(kMaxChain) +
                                " layers and strips of 1 pixel or more");
}

namespace {

constexpr int64_t kSerialBytes =
    1 << 18;                     // of a copy: below, waking a second thread costs more than it saves
constexpr int64_t kPixels = 16;  // that are brought from one order into the other at a time

template <class T>
void copy_rows(const void* context, int64_t begin, int64_t end) {
    const CopyParams& p = *static_cast<const CopyParams*>(context);
    for (int64_t task = begin; task < end; ++task) {
        const int64_t n = task / p.h, row = task % p.h;
        const T* x = static_cast<const T*>(p.x) + n * p.xn + row * p.xy;
        T* y = static_cast<T*>(p.y) + n * p.yn + row * p.yy;
        if (p.xc == 1 && p.yc == 1) {
            const bool dense = p.xx == p.c && p.yx == p.c;
            const int64_t count = dense ? 1 : p.w, length = dense ? p.w * p.c : p.c;
            for (int64_t X = 0; X < count; ++X)
                std::memcpy(y + X * p.yx, x + X * p.xx, static_cast<size_t>(length) * sizeof(T));
            continue;
        }
        for (int64_t first = 0; first < p.w; first += kPixels) {
            const int64_t last = first + kPixels < p.w ? first + kPixels : p.w;
            for (int64_t c = 0; c < p.c; ++c)
                for (int64_t X = first; X < last; ++X) y[c * p.yc + X * p.yx] = x[c * p.xc + X * p.xx];
        }
    }
}

}  // namespace

void copy(const CopyParams& p) {
    const TaskFn fn = p.size == 8   ? copy_rows<uint64_t>
                      : p.size == 4 ? copy_rows<uint32_t>
                      : p.size == 2 ? copy_rows<uint16_t>
                                    : copy_rows<uint8_t>;
    const int64_t rows = p.n * p.h;
    const bool serial = rows * p.w * p.c * p.size < kSerialBytes;
    parallel_for(rows, rows / (4 * p.threads), serial ? 1 : p.threads, fn, &p);
}

void Program::note(const Operand& operand) {
    if (operand.slot < 0) throw std::out_of_range("no slot " + std::to_string(operand.slot));
    if (operand.slot >= slots_) slots_ = operand.slot + 1;
}

void Program::conv2d(const ConvParams& params, const Operands& operands) {
    bound(isa_, params, {}, 1);
    for (const Operand& operand : operands) note(operand);
    steps_.emplace_back(Conv{params, operands});
}

void Program::chain(const std::vector<const ConvParams*>& layers, const std::vector<Operands>& operands,
                    int64_t rows, int64_t height, int64_t columns) {
    check_chain(layers.size(), rows, height, columns);
    if (layers.size() != operands.size()) throw std::invalid_argument("one list of operands per layer");
    Chain chain{{}, rows, height, columns};
    for (size_t i = 0; i < layers.size(); ++i) {
        bound(isa_, *layers[i], {}, 1);
        for (const Operand& operand : operands[i]) note(operand);
        chain.layers.push_back({*layers[i], operands[i]});
    }
    steps_.emplace_back(std::move(chain));
}

void Program::shuffle(const ShuffleParams& params, const Operand& x, const Operand& y) {
    note(x), note(y);
    steps_.emplace_back(Shuffle{params, x, y});
}

void Program::add(const AddParams& params, const std::array<Operand, 4>& operands) {
    for (const Operand& operand : operands) note(operand);
    steps_.emplace_back(Add{params, operands});
}

void Program::copy(const CopyParams& params, const Operand& x, const Operand& y) {
    note(x), note(y);
    steps_.emplace_back(Copy{params, x, y});
}

// What runs one step.
struct Program::Run {
    const Isa& isa;
    const std::vector<uintptr_t>& bases;
    int threads;

    uintptr_t at(const Operand& operand) const { return bases[operand.slot] + operand.offset; }
    void* to(const Operand& operand) const { return reinterpret_cast<void*>(at(operand)); }

    ConvParams layer(const Conv& conv) const {
        Addresses addresses;
        for (size_t i = 0; i < addresses.size(); ++i) addresses[i] = at(conv.operands[i]);
        return bound(isa, conv.params, addresses, threads);
    }
    bool operator()(const Conv& step) const {
        const ConvParams p = layer(step);
        return isa.kernels[p.kernel].run(p);
    }
    bool operator()(const Chain& step) const {
        ConvParams layers[kMaxChain];
        const auto count = static_cast<int32_t>(step.layers.size());
        for (int32_t i = 0; i < count; ++i) layers[i] = layer(step.layers[i]);
        return isa.chain({isa.kernels, layers, count, step.rows, step.height, step.columns, threads});
    }
    bool operator()(const Shuffle& step) const {
        ShuffleParams p = step.params;
        p.x = to(step.x), p.y = to(step.y), p.threads = threads;
        isa.shuffle(p);
        return true;
    }
    bool operator()(const Add& step) const {
        AddParams p = step.params;
        p.x = to(step.operands[0]), p.r1 = to(step.operands[1]), p.r2 = to(step.operands[2]);
        p.y = to(step.operands[3]), p.threads = threads;
        isa.add(p);
        return true;
    }
    bool operator()(const Copy& step) const {
        CopyParams p = step.params;
        p.x = to(step.x), p.y = to(step.y), p.threads = threads;
        srk::copy(p);
        return true;
    }
};

bool Program::run(const std::vector<uintptr_t>& bases, int threads) const {
    if (bases.size() < static_cast<size_t>(slots_) || bases[0] != 0)
        throw std::out_of_range("the program has " + std::to_string(slots_) +
                                " slots, the first of them at address 0");
    const Run step{isa_, bases, threads};
    for (const auto& one : steps_)
        if (!std::visit(step, one)) return false;
    return true;
}

}  // namespace srk
