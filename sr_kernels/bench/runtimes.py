# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Runtimes that are not PyTorch. Each reads an exported file and answers in a buffer of its own or ours.

What is timed goes from float32 inputs that lie in memory to a float32 result that lies in memory, at the
settings that were found to be the fastest of each.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sr_kernels.bench import exchange
from sr_kernels.bench.contender import Call
from sr_kernels.bench.problem import Problem


def missing(*modules: str) -> str:
    """Which of the modules are not installed, with the command that installs them; "" where none is."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed: pip install {' '.join(absent)}" if absent else ""


def versions() -> dict[str, str]:
    """Of what is installed."""
    found = {}
    for name in ("onnx", "onnxruntime", "onnxscript", "openvino", "ncnn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def onnxruntime(problem: Problem) -> Call:
    """ONNX Runtime, every graph optimisation, inputs and output bound once."""
    ort = importlib.import_module("onnxruntime")

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    path = str(exchange.onnx_file(problem))
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = [x.numpy() for x in problem.inputs]
    output = np.empty(session.get_outputs()[0].shape, np.float32)
    binding = session.io_binding()
    for entry, x in zip(session.get_inputs(), inputs, strict=True):
        binding.bind_input(entry.name, "cpu", 0, x.dtype, x.shape, x.ctypes.data)
    binding.bind_output(exchange.OUTPUT, "cpu", 0, output.dtype, output.shape, output.ctypes.data)
    result = torch.from_numpy(output)

    def call() -> Tensor:
        session.run_with_iobinding(binding)
        assert inputs  # the binding knows their addresses only
        return result

    return Call(call)


def openvino(problem: Problem, precision: str) -> Call:
    """OpenVINO for the least latency, computing in `precision` (f32 or bf16), tensors shared."""
    ov = importlib.import_module("openvino")

    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": precision,
    }
    core = _core()
    compiled = core.compile_model(core.read_model(exchange.onnx_file(problem)), "CPU", settings)
    request = compiled.create_infer_request()
    for i, x in enumerate(problem.inputs):
        request.set_input_tensor(i, ov.Tensor(x.numpy(), shared_memory=True))
    output = np.empty(tuple(compiled.output(0).shape), np.float32)
    request.set_output_tensor(ov.Tensor(output, shared_memory=True))
    result = torch.from_numpy(output)

    def call() -> Tensor:
        request.infer()
        return result

    return Call(call)


@functools.cache
def _core() -> Any:
    ov = importlib.import_module("openvino")

    return ov.Core()


def openvino_lacks(precision: str) -> str:
    """Why OpenVINO cannot run in bf16 here; "" where it can."""
    if absent := missing("openvino", "onnx", "onnxscript"):
        return absent
    if precision == "f32" or "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return ""
    return "OpenVINO finds no bf16 instructions on this processor"


# From the fastest to the most exact: the Winograd kernels round more, those of large tiles most.
_NCNN: tuple[tuple[str, dict[str, bool]], ...] = (
    ("", {}),
    ("Winograd F(6,3) off: it has no parity", {"use_winograd63_convolution": False}),
    ("Winograd off: it has no parity", {"use_winograd_convolution": False}),
)


def ncnn(problem: Problem, bfloat16: bool) -> Iterator[Call]:
    """ncnn; the fastest settings first, then those that are the next more exact."""
    library = importlib.import_module("ncnn")

    path = exchange.ncnn_file(problem)
    for note, changes in _NCNN:
        net = library.Net()
        net.opt.num_threads = torch.get_num_threads()
        net.opt.use_vulkan_compute = False
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(net.opt, name, False)
        net.opt.use_bf16_storage = bfloat16
        for name, value in changes.items():
            setattr(net.opt, name, value)
        if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
            raise RuntimeError(f"ncnn does not read {path.name}")
        yield Call(_ncnn_call(library, net, problem), note)


def _ncnn_call(library: Any, net: Any, problem: Problem) -> Callable[[], Tensor]:
    # clones, since a layer that works in place crashes on memory that ncnn does not count
    mats = [library.Mat(np.ascontiguousarray(x[0].numpy())).clone() for x in problem.inputs]
    inputs = list(zip(net.input_names(), mats, strict=True))
    (output,) = net.output_names()

    def call() -> Tensor:
        extractor = net.create_extractor()
        for name, mat in inputs:
            extractor.input(name, mat)
        failed, result = extractor.extract(output)
        if failed:
            raise RuntimeError(f"ncnn fails with status {failed}")
        return torch.from_numpy(np.array(result, copy=False))[None]

    return call
