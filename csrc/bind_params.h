// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// params.h as Python sees it, in each extension module its own.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>

#include "params.h"

namespace srk {

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

inline void bind_params(pybind11::module_& m) {
    namespace py = pybind11;
    py::class_<View>(m, "View", py::module_local())
        .def(py::init([](uintptr_t data, int64_t sn, int64_t sy, int64_t sx) {
                 return View{pointer<void>(data), sn, sy, sx};
             }),
             py::arg("data") = 0, py::arg("sn") = 0, py::arg("sy") = 0, py::arg("sx") = 0);

    using P = ConvParams;
    py::class_<P>(m, "ConvParams", py::module_local())
        .def(py::init([] {
            P p{};
            p.step = p.shuffle = p.stride_y = p.stride_x = p.dilation_y = p.dilation_x = p.threads = 1;
            p.scale = 1.0f;
            p.chain = 1 << 30;
            return p;
        }))
        .def_readwrite("x", &P::x)
        .def_readwrite("y", &P::y)
        .def_readwrite("res1", &P::res1)
        .def_readwrite("res2", &P::res2)
        .def_readwrite("base", &P::base)
        .def_readwrite("x2", &P::x2)
        .def_readwrite("ci1", &P::ci1)
        .def("set_weights",
             [](P& p, uintptr_t weight, uintptr_t bias, uintptr_t prelu) {
                 p.weight = pointer<const float>(weight);
                 p.bias = pointer<const float>(bias);
                 p.prelu = pointer<const float>(prelu);
             })
        .def("set_input",
             [](P& p, int64_t n, int64_t h, int64_t w, int64_t ci) { p.n = n, p.h = h, p.w = w, p.ci = ci; })
        .def("set_output", [](P& p, int64_t oh, int64_t ow, int64_t co) { p.oh = oh, p.ow = ow, p.co = co; })
        .def("set_window",
             [](P& p, int64_t kh, int64_t kw, int64_t sy, int64_t sx, int64_t dy, int64_t dx, int64_t top,
                int64_t left) {
                 p.kh = kh, p.kw = kw, p.stride_y = sy, p.stride_x = sx, p.dilation_y = dy, p.dilation_x = dx;
                 p.pad_top = top, p.pad_left = left;
             })
        .def("set_phase",
             [](P& p, int32_t step, int32_t y, int32_t x) { p.step = step, p.phase_y = y, p.phase_x = x; })
        .def("set_epilogue",
             [](P& p, int32_t act, bool after_add, float slope, float scale, float b1, float b2,
                int32_t shuffle) {
                 p.act = act, p.act_after_add = after_add, p.slope = slope, p.scale = scale;
                 p.b1 = b1, p.b2 = b2, p.shuffle = shuffle;
             })
        .def("set_base",
             [](P& p, int32_t mode, int32_t factor, int64_t h, int64_t w) {
                 p.base_mode = mode, p.base_factor = factor, p.base_h = h, p.base_w = w;
             })
        .def_readwrite("dtype", &P::dtype)
        .def_readwrite("kernel", &P::kernel)
        .def_readwrite("chain", &P::chain)
        .def_readwrite("stream", &P::stream)
        .def_readwrite("threads", &P::threads);
}

}  // namespace srk
