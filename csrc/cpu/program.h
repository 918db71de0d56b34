// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Steps that run one after the other in one call.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include "isa.h"

namespace srk {

using Addresses = std::array<uintptr_t, 8>;  // x, y, res1, res2, base, weight, bias, prelu

// A copy of `step` at these addresses, on at most `threads` threads: steps themselves are shared by all calls. Throws
// std::out_of_range where the instruction set has no such kernel.
ConvParams bound(const Isa& isa, const ConvParams& step, const Addresses& to, int threads);

// Throw std::out_of_range unless the native chain takes so many layers, and strips of this size.
void check_chain(size_t layers);
void check_strips(int64_t rows, int64_t height, int64_t columns);

// Values as they are, from one layout into another. Strides are in elements of `size` bytes.
struct CopyParams {
    const void* x;
    void* y;
    int64_t n, h, w, c;
    int64_t xn, xc, xy, xx, yn, yc, yy, yx;
    int32_t size, threads;
};
void copy(const CopyParams& p);

// An address: so many bytes behind the one that a call gives for the slot. Slot 0 begins at address 0.
struct Operand {
    int32_t slot;
    int64_t offset;
};

// Pieces in which a chain runs, see ChainParams.
struct StripParams {
    int64_t rows, height, columns;
};

// What the size of the input decides of a program's steps, of one instruction set. Addresses in it stand for nothing,
// threads neither.
class Table {
  public:
    using Params = std::variant<ConvParams, StripParams, ShuffleParams, AddParams, CopyParams>;

    explicit Table(const Isa& isa) : isa(isa) {}
    // Throws std::out_of_range where the instruction set has no such kernel, and for strips without pixels.
    void add(const Params& params);
    const Params& at(int32_t index) const { return params_.at(static_cast<size_t>(index)); }
    size_t size() const { return params_.size(); }

    const Isa& isa;

  private:
    std::vector<Params> params_;
};

// What no size decides: which params of a table a step takes, and where its operands lie. Not written to once it runs,
// so that threads can share it.
class Program {
  public:
    using Operands = std::array<Operand, 8>;  // in the order of Addresses
    struct Layer {
        int32_t params;
        Operands operands;
    };
    void step(const Layer& layer);
    // Throws std::out_of_range unless the native chain takes so many layers.
    void chain(int32_t strips, const std::vector<Layer>& layers);

    // Runs all steps with the addresses of the slots; false if there is no memory. Throws std::out_of_range where a
    // slot has no address or the table no such params, std::bad_variant_access where these are of another sort.
    bool run(const Table& table, const std::vector<uintptr_t>& bases, int threads) const;
    size_t size() const { return steps_.size(); }

  private:
    struct Chain {
        int32_t strips;
        std::vector<Layer> layers;
    };
    struct Run;

    void note(const Layer& layer);  // checks its slots

    int32_t slots_ = 1;  // that run() needs addresses of
    std::vector<std::variant<Layer, Chain>> steps_;
};

}  // namespace srk
