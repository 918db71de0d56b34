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

void check_chain(size_t layers) {
    if (layers < 1 || layers > kMaxChain)
        throw std::out_of_range("a chain has 1 to " + std::to_string(kMaxChain) + " layers");
}

void check_strips(int64_t rows, int64_t height, int64_t columns) {
    if (rows < 1 || height < 1 || columns < 1)
        throw std::out_of_range("a chain has strips of 1 pixel or more");
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

void Table::add(const Params& params) {
    if (const auto* conv = std::get_if<ConvParams>(&params)) bound(isa, *conv, {}, 1);
    if (const auto* strips = std::get_if<StripParams>(&params))
        check_strips(strips->rows, strips->height, strips->columns);
    params_.push_back(params);
}

void Program::note(const Layer& layer) {
    for (const Operand& operand : layer.operands) {
        if (operand.slot < 0) throw std::out_of_range("no slot " + std::to_string(operand.slot));
        if (operand.slot >= slots_) slots_ = operand.slot + 1;
    }
}

void Program::step(const Layer& layer) {
    note(layer);
    steps_.emplace_back(layer);
}

void Program::chain(int32_t strips, const std::vector<Layer>& layers) {
    check_chain(layers.size());
    for (const Layer& layer : layers) note(layer);
    steps_.emplace_back(Chain{strips, layers});
}

// What runs one step.
struct Program::Run {
    const Table& table;
    const std::vector<uintptr_t>& bases;
    int threads;

    Addresses addresses(const Operands& operands) const {
        Addresses out;
        for (size_t i = 0; i < out.size(); ++i) out[i] = bases[operands[i].slot] + operands[i].offset;
        return out;
    }
    ConvParams conv(const ConvParams& params, const Operands& operands) const {
        return bound(table.isa, params, addresses(operands), threads);
    }
    bool operator()(const Layer& step) const {
        const auto run = [&](const auto& params) { return one(params, step.operands); };
        return std::visit(run, table.at(step.params));
    }
    bool operator()(const Chain& step) const {
        const auto& strips = std::get<StripParams>(table.at(step.strips));
        ConvParams layers[kMaxChain];
        const auto count = static_cast<int32_t>(step.layers.size());
        for (int32_t i = 0; i < count; ++i) {
            const Layer& layer = step.layers[i];
            layers[i] = conv(std::get<ConvParams>(table.at(layer.params)), layer.operands);
        }
        const Isa& isa = table.isa;
        return isa.chain({isa.kernels, layers, count, strips.rows, strips.height, strips.columns, threads});
    }

    bool one(const ConvParams& params, const Operands& operands) const {
        const ConvParams p = conv(params, operands);
        return table.isa.kernels[p.kernel].run(p);
    }
    bool one(const StripParams&, const Operands&) const { throw std::bad_variant_access(); }
    bool one(const ShuffleParams& params, const Operands& operands) const {
        ShuffleParams p = params;
        place(p, addresses(operands));
        table.isa.shuffle(p);
        return true;
    }
    bool one(const AddParams& params, const Operands& operands) const {
        AddParams p = params;
        const Addresses to = addresses(operands);
        place(p, to);
        p.r1 = reinterpret_cast<const void*>(to[2]), p.r2 = reinterpret_cast<const void*>(to[3]);
        table.isa.add(p);
        return true;
    }
    bool one(const CopyParams& params, const Operands& operands) const {
        CopyParams p = params;
        place(p, addresses(operands));
        srk::copy(p);
        return true;
    }
    template <class Params>
    void place(Params& p, const Addresses& to) const {
        p.x = reinterpret_cast<const void*>(to[0]), p.y = reinterpret_cast<void*>(to[1]), p.threads = threads;
    }
};

bool Program::run(const Table& table, const std::vector<uintptr_t>& bases, int threads) const {
    if (bases.size() < static_cast<size_t>(slots_) || bases[0] != 0)
        throw std::out_of_range("the program has " + std::to_string(slots_) +
                                " slots, the first of them at address 0");
    const Run run{table, bases, threads};
    for (const auto& step : steps_)
        if (!std::visit(run, step)) return false;
    return true;
}

}  // namespace srk
