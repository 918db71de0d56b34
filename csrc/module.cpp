// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Python's door: pointers and sizes in, status out. Knows no torch; the GIL is released while kernels run.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind_params.h"
#include "cpu/isa.h"
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

using Addresses = std::array<uintptr_t, 8>;  // x, y, res1, res2, base, weight, bias, prelu

// Copies of `steps` with these addresses: the steps themselves are shared by all calls and threads.
std::vector<srk::ConvParams> bound(const srk::Isa& chosen, const std::vector<const srk::ConvParams*>& steps,
                                   const std::vector<Addresses>& addresses, int threads) {
    if (steps.size() != addresses.size()) throw std::invalid_argument("one list of addresses per step");
    std::vector<srk::ConvParams> out;
    out.reserve(steps.size());
    for (size_t i = 0; i < steps.size(); ++i) {
        out.push_back(*steps[i]);
        srk::ConvParams& p = out.back();
        check_kernel(chosen, p);
        const Addresses& to = addresses[i];
        p.x.data = pointer<void>(to[0]);
        p.y.data = pointer<void>(to[1]);
        p.res1.data = pointer<void>(to[2]);
        p.res2.data = pointer<void>(to[3]);
        p.base.data = pointer<void>(to[4]);
        p.weight = pointer<const float>(to[5]);
        p.bias = pointer<const float>(to[6]);
        p.prelu = pointer<const float>(to[7]);
        if (to[1] % (sizeof(float) * chosen.lanes)) p.stream = 0;  // needs whole, aligned vectors
        if (p.threads > threads) p.threads = threads;
    }
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
    if (steps.empty() || steps.size() > srk::kMaxChain || rows < 1 || height < 1 || columns < 1)
        throw std::out_of_range("a chain has 1 to " + std::to_string(srk::kMaxChain) +
                                " layers and strips of 1 pixel or more");
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

    m.def("conv2d", &conv2d, py::arg("isa"), py::arg("params"));
    m.def("conv2d_chain", &conv2d_chain, py::arg("isa"), py::arg("steps"), py::arg("addresses"),
          py::arg("rows"), py::arg("height"), py::arg("columns"), py::arg("threads"));
    m.def("conv2d_steps", &conv2d_steps, py::arg("isa"), py::arg("steps"), py::arg("addresses"),
          py::arg("threads"));

    m.def("pack_winograd", &pack_winograd, py::arg("isa"), py::arg("weight"), py::arg("packed"),
          py::arg("size"), py::arg("strides"), py::arg("channels"), py::arg("transform"));

    m.def(
        "shuffle",
        [](int index, uintptr_t coarse, uintptr_t fine, py::tuple shape, py::tuple xs, py::tuple ys, int s,
           int size, bool inverse, int threads) {
            const auto at = [](const py::tuple& t, size_t i) { return t[i].cast<int64_t>(); };
            const srk::ShuffleParams p{pointer<void>(coarse),
                                       pointer<void>(fine),
                                       at(shape, 0),
                                       at(shape, 1),
                                       at(shape, 2),
                                       at(shape, 3),
                                       at(xs, 0),
                                       at(xs, 1),
                                       at(xs, 2),
                                       at(xs, 3),
                                       at(ys, 0),
                                       at(ys, 1),
                                       at(ys, 2),
                                       at(ys, 3),
                                       s,
                                       size,
                                       inverse,
                                       threads};
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
