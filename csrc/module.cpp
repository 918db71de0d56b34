// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Python's door: pointers and sizes in, status out. Knows no torch; the GIL is released while kernels run.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bind_facts.h"
#include "bind_params.h"
#include "cpu/isa.h"
#include "cpu/program.h"
#include "cpu/threads.h"

namespace py = pybind11;

namespace {

using srk::pointer;

const srk::Isa& isa(int index) {
    const srk::Isa* const* list;
    const int count = srk::supported_isas(&list);
    if (index < 0 || index >= count) throw std::out_of_range("no instruction set " + std::to_string(index));
    return *list[index];
}

py::list isas() {
    const srk::Isa* const* list;
    const int count = srk::supported_isas(&list);
    static const char* const kinds[] = {"direct", "thin", "depthwise", "winograd", "bf16"};
    py::list out;
    for (int i = 0; i < count; ++i) {
        py::list kernels;
        for (int k = 0; k < list[i]->kernel_count; ++k) {
            const srk::ConvKernel& kernel = list[i]->kernels[k];
            kernels.append(py::make_tuple(kernel.name, kernel.unit, kinds[kernel.kind], kernel.channels,
                                          kernel.pixels, kernel.depth));
        }
        out.append(py::make_tuple(list[i]->name, list[i]->lanes, list[i]->fast_bf16, kernels));
    }
    return out;
}

void check_kernel(const srk::Isa& isa, const srk::ConvParams& p) {
    if (p.kernel < 0 || p.kernel >= isa.kernel_count)
        throw std::out_of_range("no kernel " + std::to_string(p.kernel) + " in " + isa.name);
}

void conv2d(int index, const srk::ConvParams& p) {
    const srk::Isa& chosen = isa(index);
    check_kernel(chosen, p);
    bool done;
    {
        py::gil_scoped_release released;
        done = chosen.kernels[p.kernel].run(p);
    }
    if (!done) throw std::bad_alloc();
}

using srk::Addresses;

std::vector<srk::ConvParams> bound(const srk::Isa& chosen, const std::vector<const srk::ConvParams*>& steps,
                                   const std::vector<Addresses>& addresses, int threads) {
    if (steps.size() != addresses.size()) throw std::invalid_argument("one list of addresses per step");
    std::vector<srk::ConvParams> out;
    out.reserve(steps.size());
    for (size_t i = 0; i < steps.size(); ++i)
        out.push_back(srk::bound(chosen, *steps[i], addresses[i], threads));
    return out;
}

// One convolution after the other.
void conv2d_steps(int index, const std::vector<const srk::ConvParams*>& steps,
                  const std::vector<Addresses>& addresses, int threads) {
    const srk::Isa& chosen = isa(index);
    const std::vector<srk::ConvParams> run = bound(chosen, steps, addresses, threads);
    bool done = true;
    {
        py::gil_scoped_release released;
        for (size_t i = 0; i < run.size() && done; ++i) done = chosen.kernels[run[i].kernel].run(run[i]);
    }
    if (!done) throw std::bad_alloc();
}

void conv2d_chain(int index, const std::vector<const srk::ConvParams*>& steps,
                  const std::vector<Addresses>& addresses, int64_t rows, int64_t height, int64_t columns,
                  int threads) {
    const srk::Isa& chosen = isa(index);
    srk::check_chain(steps.size());
    srk::check_strips(rows, height, columns);
    std::vector<srk::ConvParams> layers = bound(chosen, steps, addresses, threads);
    bool done;
    {
        py::gil_scoped_release released;
        done = chosen.chain({chosen.kernels, layers.data(), static_cast<int32_t>(layers.size()), rows, height,
                             columns, threads});
    }
    if (!done) throw std::bad_alloc();
}

void pack_winograd(int index, uintptr_t w, uintptr_t u, std::array<int64_t, 2> size,
                   std::array<int64_t, 4> strides, int64_t channels,
                   const std::vector<std::array<double, 3>>& g) {
    const srk::Isa& chosen = isa(index);
    srk::WinogradPack p{pointer<const float>(w),
                        pointer<float>(u),
                        size[0],
                        size[1],
                        strides[0],
                        strides[1],
                        strides[2],
                        strides[3],
                        channels,
                        static_cast<int64_t>(g.size()),
                        {}};
    if (g.size() > std::size(p.g)) throw std::out_of_range("at most 8 points");
    for (size_t i = 0; i < g.size(); ++i)
        for (size_t k = 0; k < 3; ++k) p.g[i][k] = g[i][k];
    py::gil_scoped_release released;
    chosen.pack_winograd(p);
}

using Strides = std::array<int64_t, 4>;  // of n, c, y, x
using PyOperand = std::pair<int32_t, int64_t>;

srk::ShuffleParams shuffle_params(const Strides& shape, const Strides& coarse, const Strides& fine, int s,
                                  int size, bool inverse) {
    return {nullptr,   nullptr, shape[0], shape[1], shape[2], shape[3], coarse[0], coarse[1], coarse[2],
            coarse[3], fine[0], fine[1],  fine[2],  fine[3],  s,        size,      inverse,   1};
}

srk::Program::Layer layer(int32_t params, const std::array<PyOperand, 8>& operands) {
    srk::Program::Layer out{params, {}};
    for (size_t i = 0; i < operands.size(); ++i) out.operands[i] = {operands[i].first, operands[i].second};
    return out;
}

void bind_program(py::module_& m) {
    using srk::Program;
    using srk::Table;
    py::class_<Table>(m, "Table", "What a size decides of a program's steps; see csrc/cpu/program.h.")
        .def(py::init([](int index) { return new Table(isa(index)); }), py::arg("isa"))
        .def(
            "conv2d", [](Table& t, const srk::ConvParams& params) { t.add(params); }, py::arg("params"))
        .def(
            "strips",
            [](Table& t, int64_t rows, int64_t height, int64_t columns) {
                t.add(srk::StripParams{rows, height, columns});
            },
            py::arg("rows"), py::arg("height"), py::arg("columns"))
        .def(
            "shuffle",
            [](Table& t, const Strides& shape, const Strides& coarse, const Strides& fine, int s, int size,
               bool inverse) { t.add(shuffle_params(shape, coarse, fine, s, size, inverse)); },
            py::arg("shape"), py::arg("coarse_strides"), py::arg("fine_strides"), py::arg("factor"),
            py::arg("size"), py::arg("inverse"))
        .def(
            "add",
            [](Table& t, int64_t count, float scale, float b1, float b2, int dtype) {
                t.add(srk::AddParams{nullptr, nullptr, nullptr, nullptr, count, scale, b1, b2, dtype, 1});
            },
            py::arg("count"), py::arg("scale"), py::arg("b1"), py::arg("b2"), py::arg("dtype"))
        .def(
            "copy",
            [](Table& t, const Strides& shape, const Strides& xs, const Strides& ys, int size) {
                t.add(srk::CopyParams{nullptr, nullptr, shape[0], shape[2], shape[3], shape[1], xs[0], xs[1],
                                      xs[2], xs[3], ys[0], ys[1], ys[2], ys[3], size, 1});
            },
            py::arg("shape"), py::arg("x_strides"), py::arg("y_strides"), py::arg("size"))
        .def("__len__", &Table::size);
    py::class_<Program>(m, "Program", "Steps that run one after the other; see csrc/cpu/program.h.")
        .def(py::init<>())
        .def(
            "step",
            [](Program& p, int32_t params, const std::array<PyOperand, 8>& operands) {
                p.step(layer(params, operands));
            },
            py::arg("params"), py::arg("operands"))
        .def(
            "chain",
            [](Program& p, int32_t strips,
               const std::vector<std::pair<int32_t, std::array<PyOperand, 8>>>& layers) {
                std::vector<Program::Layer> all;
                for (const auto& [params, operands] : layers) all.push_back(layer(params, operands));
                p.chain(strips, all);
            },
            py::arg("strips"), py::arg("layers"))
        .def(
            "run",
            [](const Program& p, const Table& table, const std::vector<uintptr_t>& bases, int threads) {
                bool done;
                {
                    py::gil_scoped_release released;
                    done = p.run(table, bases, threads);
                }
                if (!done) throw std::bad_alloc();
            },
            py::arg("table"), py::arg("bases"), py::arg("threads"))
        .def("__len__", &Program::size);
}

template <void (*srk::Isa::*Member)(const srk::ImageParams&)>
void image(int index, uintptr_t x, uintptr_t y, int64_t count, int bits, int threads) {
    const srk::Isa& chosen = isa(index);
    py::gil_scoped_release released;
    (chosen.*Member)({pointer<void>(x), pointer<void>(y), count, bits, threads});
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Native kernels of sr_kernels; see csrc/params.h for the contract.";
    m.attr("build_id") = SRK_BUILD_ID;
    m.def("isas", &isas,
          "[(name, lanes, fast_bf16, [(kernel, unit, kind, channels, pixels, depth), ...]), ...] that run "
          "here, best last.");
    m.def("openmp_library", &srk::openmp_library, "Path of the OpenMP runtime in use, '' for none.");

    srk::bind_params(m);
    bind_program(m);
    srk::facts::bind(m);

    m.def("conv2d", &conv2d, py::arg("isa"), py::arg("params"));
    m.def("conv2d_chain", &conv2d_chain, py::arg("isa"), py::arg("steps"), py::arg("addresses"),
          py::arg("rows"), py::arg("height"), py::arg("columns"), py::arg("threads"));
    m.def("conv2d_steps", &conv2d_steps, py::arg("isa"), py::arg("steps"), py::arg("addresses"),
          py::arg("threads"));

    m.def("pack_winograd", &pack_winograd, py::arg("isa"), py::arg("weight"), py::arg("packed"),
          py::arg("size"), py::arg("strides"), py::arg("channels"), py::arg("transform"));

    m.def(
        "shuffle",
        [](int index, uintptr_t coarse, uintptr_t fine, const Strides& shape, const Strides& xs,
           const Strides& ys, int s, int size, bool inverse, int threads) {
            srk::ShuffleParams p = shuffle_params(shape, xs, ys, s, size, inverse);
            p.x = pointer<void>(coarse), p.y = pointer<void>(fine), p.threads = threads;
            const srk::Isa& chosen = isa(index);
            py::gil_scoped_release released;
            chosen.shuffle(p);
        },
        py::arg("isa"), py::arg("coarse"), py::arg("fine"), py::arg("shape"), py::arg("coarse_strides"),
        py::arg("fine_strides"), py::arg("factor"), py::arg("size"), py::arg("inverse"), py::arg("threads"));
    m.def(
        "add",
        [](int index, uintptr_t x, uintptr_t r1, uintptr_t r2, uintptr_t y, int64_t count, float scale,
           float b1, float b2, int dtype, int threads) {
            const srk::Isa& chosen = isa(index);
            py::gil_scoped_release released;
            chosen.add({pointer<void>(x), pointer<void>(r1), pointer<void>(r2), pointer<void>(y), count,
                        scale, b1, b2, dtype, threads});
        },
        py::arg("isa"), py::arg("x"), py::arg("r1"), py::arg("r2"), py::arg("y"), py::arg("count"),
        py::arg("scale"), py::arg("b1"), py::arg("b2"), py::arg("dtype"), py::arg("threads"));
    m.def("image_to_float", &image<&srk::Isa::image_to_float>);
    m.def("float_to_image", &image<&srk::Isa::float_to_image>);
    m.def(
        "probe",
        [](int index, int64_t pieces, int threads) {
            const srk::Isa& chosen = isa(index);
            py::gil_scoped_release released;
            return chosen.probe(pieces, threads);
        },
        py::arg("isa"), py::arg("pieces"), py::arg("threads"),
        "Multiply-adds in registers; the floating-point operations done.");
}
