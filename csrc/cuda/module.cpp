// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Python's door to the CUDA kernels: addresses, a device and a stream in, errors as exceptions. Knows no
// torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind_params.h"
#include "cuda/launch.h"

namespace py = pybind11;

namespace {

using srk::ConvParams;
using srk::pointer;

void check(cudaError_t error, const std::string& what) {
    if (error != cudaSuccess) throw std::runtime_error(what + ": " + cudaGetErrorString(error));
}

// The device of a call, in its thread and for its time.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device) {
        check(cudaGetDevice(&before_), "the current device");
        if (device != before_) check(cudaSetDevice(device), "device " + std::to_string(device));
        changed_ = device != before_;
    }
    DeviceGuard(const DeviceGuard&) = delete;
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(before_);
    }

  private:
    int before_ = 0;
    bool changed_ = false;
};

// After an error: what was to be launched.
std::string launch() {
    const srk::cuda::Launch& last = srk::cuda::last_launch();
    if (!last.kernel) return ", before its launch";
    return ", launch of " + std::string(last.kernel) + " in " + std::to_string(last.grid.x) + "x" +
           std::to_string(last.grid.y) + " blocks of " + std::to_string(last.threads) + " threads with " +
           std::to_string(last.bytes) + " bytes of shared memory";
}

std::string sizes(std::initializer_list<int64_t> list) {
    std::string text = "(";
    for (const int64_t size : list) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + ")";
}

// A convolution kernel as Python sees it: a portable one by its index, or one made for some layers alone,
// with its reason against a layer. `capability`: the only one that it runs on, 10 * major + minor, or 0.
struct Kernel : srk::cuda::Conv2dKernel {
    int capability;
    bool wide, staged;  // for more inputs than `depth` alone; its results are staged in shared memory
    const char* (*reason)(const ConvParams&);
    cudaError_t (*launch)(const ConvParams&, cudaStream_t);
};

constexpr const char* kTwoInputs = "its inputs come from two tensors";

const char* tail_reason(const ConvParams& p) {
    if (p.ci1) return kTwoInputs;
    if (p.ci > 64 && p.ci <= 96) return "it reads four chunks of 32 inputs beyond 64, and there are three";
    return srk::cuda::conv2d_tail_reason(p);
}

#ifdef SRK_SM90
// The Hopper kernel's variants, by outputs that share an operand and by chunks of inputs.
template <bool stacked, bool wide, bool staged>
const char* sm90_reason(const ConvParams& p) {
    if (stacked != (p.co <= 32) || wide != (p.ci > 64))
        return "another variant of the kernel is for these channels";
    // The copy engine takes no dimension of stride 0.
    const auto expanded = [&p](const srk::View& v) {
        return (p.n > 1 && v.sn == 0) || (p.h > 1 && v.sy == 0) || (p.w > 1 && v.sx == 0);
    };
    if (expanded(p.x) || (p.ci1 && expanded(p.x2))) return "input is expanded";
    if (staged && ((p.res1.data && expanded(p.res1)) || (p.res2.data && expanded(p.res2))))
        return "a residual is expanded";
    return staged ? srk::conv2d_sm90_staged_reason(p) : srk::conv2d_sm90_reason(p);
}

template <bool stacked, bool wide, bool staged>
Kernel sm90(const char* name) {
    const auto launch = staged ? srk::conv2d_sm90_staged : srk::conv2d_sm90;
    return {{name, stacked ? 32 : 64, 64, false}, 90,    wide, staged,
            sm90_reason<stacked, wide, staged>,   launch};
}
#endif

// The portable ones first, where `ConvParams::kernel` is their own index too.
const std::vector<Kernel>& kernels() {
    static const std::vector<Kernel> list = [] {
        std::vector<Kernel> made;
        for (const auto& kernel : srk::cuda::conv2d_kernels())
            made.push_back({kernel, 0, false, false, nullptr, srk::cuda::conv2d});
        made.push_back({{"conv2d_tail", 4, 32, true}, 0, false, false, tail_reason, srk::cuda::conv2d_tail});
#ifdef SRK_SM90
        made.push_back(sm90<false, false, true>("conv2d_sm90/staged"));
        made.push_back(sm90<false, true, true>("conv2d_sm90/staged_wide"));
        made.push_back(sm90<false, false, false>("conv2d_sm90/resident"));
        made.push_back(sm90<false, true, false>("conv2d_sm90/streamed"));
        made.push_back(sm90<true, false, false>("conv2d_sm90/stacked"));
        made.push_back(sm90<true, true, false>("conv2d_sm90/stacked_wide"));
#endif
        return made;
    }();
    return list;
}

const Kernel* kernel_of(const ConvParams& p) {
    return p.kernel >= 0 && p.kernel < static_cast<int>(kernels().size()) ? &kernels()[p.kernel] : nullptr;
}

// Why p cannot run by its kernel; empty where it can.
std::string refusal(const ConvParams& p) {
    const Kernel* kernel = kernel_of(p);
    if (!kernel || !kernel->reason) return p.ci1 ? kTwoInputs : srk::cuda::conv2d_refusal(p);
    const char* reason = kernel->reason(p);
    return reason ? reason : "";
}

std::string described(const ConvParams& p) {
    const Kernel* kernel = kernel_of(p);
    return "conv2d of input " + sizes({p.n, p.ci, p.h, p.w}) + ", weight " + sizes({p.co, p.ci, p.kh, p.kw}) +
           ", output " + sizes({p.n, p.co, p.oh, p.ow}) + ", stride " + sizes({p.stride_y, p.stride_x}) +
           ", kernel " + (kernel ? kernel->name : std::to_string(p.kernel));
}

using Addresses = std::array<uintptr_t, 9>;  // x, y, res1, res2, base, x2, weight, bias, prelu

ConvParams bound(const ConvParams& step, const Addresses& to) {
    ConvParams p = step;
    p.x.data = pointer<void>(to[0]);
    p.y.data = pointer<void>(to[1]);
    p.res1.data = pointer<void>(to[2]);
    p.res2.data = pointer<void>(to[3]);
    p.base.data = pointer<void>(to[4]);
    p.x2.data = pointer<void>(to[5]);
    p.weight = pointer<const float>(to[6]);
    p.bias = pointer<const float>(to[7]);
    p.prelu = pointer<const float>(to[8]);
    return p;
}

// One convolution after the other on the stream.
void conv2d_steps(int device, uintptr_t stream, const std::vector<const ConvParams*>& steps,
                  const std::vector<Addresses>& addresses) {
    if (steps.size() != addresses.size()) throw std::invalid_argument("one list of addresses per step");
    std::vector<ConvParams> run;
    run.reserve(steps.size());
    for (size_t i = 0; i < steps.size(); ++i) run.push_back(bound(*steps[i], addresses[i]));
    py::gil_scoped_release released;
    const DeviceGuard guard(device);
    for (const ConvParams& p : run) {
        const std::string reason = refusal(p);
        if (!reason.empty()) throw std::runtime_error(described(p) + ": " + reason);
        srk::cuda::last_launch() = {};
        if (const cudaError_t error =
                kernel_of(p)->launch(p, pointer<std::remove_pointer_t<cudaStream_t>>(stream)))
            check(error, described(p) + launch());
    }
}

template <class Params>
void run(const char* op, cudaError_t (*launcher)(const Params&, cudaStream_t), const Params& p, int device,
         uintptr_t stream, const std::string& shape) {
    py::gil_scoped_release released;
    const DeviceGuard guard(device);
    srk::cuda::last_launch() = {};
    if (const cudaError_t error = launcher(p, pointer<std::remove_pointer_t<cudaStream_t>>(stream)))
        check(error, op + (" of " + shape) + launch());
}

using Four = std::array<int64_t, 4>;

srk::ShuffleParams shuffle_params(Four shape, Four xs, Four ys, int s, int size) {
    srk::ShuffleParams p{};
    p.n = shape[0], p.h = shape[1], p.w = shape[2], p.c = shape[3];
    p.xn = xs[0], p.xc = xs[1], p.xy = xs[2], p.xx = xs[3];
    p.yn = ys[0], p.yc = ys[1], p.yy = ys[2], p.yx = ys[3];
    p.s = s, p.size = size;
    return p;
}

std::string shuffle_refusal(Four shape, Four xs, Four ys, int s, int size) {
    const char* reason = srk::cuda::shuffle_reason(shuffle_params(shape, xs, ys, s, size));
    return reason ? reason : "";
}

bool shuffle(int device, uintptr_t stream, uintptr_t coarse, uintptr_t fine, Four shape, Four xs, Four ys,
             int s, int size, bool inverse) {
    srk::ShuffleParams p = shuffle_params(shape, xs, ys, s, size);
    p.x = pointer<void>(coarse), p.y = pointer<void>(fine), p.inverse = inverse;
    run(inverse ? "pixel_unshuffle" : "pixel_shuffle", &srk::cuda::shuffle, p, device, stream,
        sizes({p.n, p.c * s * s, p.h, p.w}));
    return srk::cuda::shuffles_in_pieces(p);
}

void add(int device, uintptr_t stream, uintptr_t x, uintptr_t r1, uintptr_t r2, uintptr_t y, int64_t count,
         float scale, float b1, float b2, int dtype) {
    const srk::AddParams p{pointer<void>(x),
                           pointer<void>(r1),
                           pointer<void>(r2),
                           pointer<void>(y),
                           count,
                           scale,
                           b1,
                           b2,
                           dtype,
                           1};
    run("residual_add", &srk::cuda::add, p, device, stream, std::to_string(count) + " elements");
}

template <cudaError_t (*Launcher)(const srk::ImageParams&, cudaStream_t)>
void image(int device, uintptr_t stream, uintptr_t x, uintptr_t y, int64_t count, int bits) {
    const srk::ImageParams p{pointer<void>(x), pointer<void>(y), count, bits, 1};
    const char* op = Launcher == srk::cuda::image_to_float ? "image_to_float" : "float_to_image";
    run(op, Launcher, p, device, stream, std::to_string(count) + " elements");
}

}  // namespace

PYBIND11_MODULE(SRK_MODULE, m) {
    m.doc() = "CUDA kernels of sr_kernels; see csrc/params.h and csrc/cuda/launch.h for the contract.";
    m.attr("build_id") = SRK_BUILD_ID;
    m.attr("archs") = SRK_CUDA_ARCHS;
    srk::bind_params(m);
    m.def(
        "conv2d_kernels",
        [] {
            py::list list;
            for (const auto& kernel : kernels())
                list.append(py::make_tuple(kernel.name, kernel.channels, kernel.depth, kernel.full,
                                           kernel.reason != nullptr, kernel.capability, kernel.wide,
                                           kernel.staged));
            return list;
        },
        "[(name, output channels of a block, input channels of a step, takes every epilogue, made for some "
        "layers alone, the only compute capability that it runs on or 0, for more inputs than one step's, "
        "stages its results), ...]");
    m.def("conv2d_refusal", &refusal, py::arg("params"),
          "Why the kernel does not take the parameters on the current device; empty where it does.");
    m.def("conv2d_gathers", &srk::cuda::conv2d_gathers, py::arg("params"));
    m.def("conv2d_steps", &conv2d_steps, py::arg("device"), py::arg("stream"), py::arg("steps"),
          py::arg("addresses"));
    m.def("shuffle", &shuffle, py::arg("device"), py::arg("stream"), py::arg("coarse"), py::arg("fine"),
          py::arg("shape"), py::arg("coarse_strides"), py::arg("fine_strides"), py::arg("factor"),
          py::arg("size"), py::arg("inverse"), "Whether 16 bytes were moved at a time.");
    m.def("shuffle_refusal", &shuffle_refusal, py::arg("shape"), py::arg("coarse_strides"),
          py::arg("fine_strides"), py::arg("factor"), py::arg("size"),
          "Why no kernel takes these, whatever the addresses; empty where one does.");
    m.def("add", &add, py::arg("device"), py::arg("stream"), py::arg("x"), py::arg("r1"), py::arg("r2"),
          py::arg("y"), py::arg("count"), py::arg("scale"), py::arg("b1"), py::arg("b2"), py::arg("dtype"));
#ifdef SRK_EMULATE
    m.def(
        "take_launched",
        [] {
            std::vector<uintptr_t> found;
            for (const void* kernel : srk::emulate::launched)
                found.push_back(reinterpret_cast<uintptr_t>(kernel));
            srk::emulate::launched.clear();
            return found;
        },
        "The addresses of the kernels that have been launched since the last call.");
#endif
    m.def("image_to_float", &image<srk::cuda::image_to_float>);
    m.def("float_to_image", &image<srk::cuda::float_to_image>);
}
