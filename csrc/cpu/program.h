// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// A list of steps that run one after the other, made once for all calls of the same shapes.
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

// Throws std::out_of_range unless the native chain takes so many layers in strips of this size.
void check_chain(size_t layers, int64_t rows, int64_t height, int64_t columns);

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

// Not written to once it runs, so that threads can share it.
class Program {
  public:
    explicit Program(const Isa& isa) : isa_(isa) {}

    using Operands = std::array<Operand, 8>;  // in the order of Addresses
    void conv2d(const ConvParams& params, const Operands& operands);
    void chain(const std::vector<const ConvParams*>& layers, const std::vector<Operands>& operands,
               int64_t rows, int64_t height, int64_t columns);
    // The addresses of the params stand for nothing, and so do their threads.
    void shuffle(const ShuffleParams& params, const Operand& x, const Operand& y);
    void add(const AddParams& params, const std::array<Operand, 4>& operands);  // x, r1, r2, y
    void copy(const CopyParams& params, const Operand& x, const Operand& y);

    // Runs all steps with the addresses of the slots; false if there is no memory. Throws std::out_of_range where a
    // slot has none.
    bool run(const std::vector<uintptr_t>& bases, int threads) const;
    size_t size() const { return steps_.size(); }

  private:
    struct Conv {
        ConvParams params;
        Operands operands;
    };
    struct Chain {
        std::vector<Conv> layers;
        int64_t rows, height, columns;
    };
    struct Shuffle {
        ShuffleParams params;
        Operand x, y;
    };
    struct Add {
        AddParams params;
        std::array<Operand, 4> operands;
    };
    struct Copy {
        CopyParams params;
        Operand x, y;
    };
    struct Run;

    void note(const Operand& operand);  // checks its slot

    const Isa& isa_;
    int32_t slots_ = 1;  // that run() needs addresses of
    std::vector<std::variant<Conv, Chain, Shuffle, Add, Copy>> steps_;
};

}  // namespace srk
