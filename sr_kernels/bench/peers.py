# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Who is measured: ours, and what a user could run instead. Each turns a Problem into a callable.

A further runtime is one more build function and one more row of CONTENDERS.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sr_kernels.backends import use_backend
from sr_kernels.bench import machine, runtimes
from sr_kernels.bench.contender import Call, Contender
from sr_kernels.bench.exchange import ncnn_file, onnx_file
from sr_kernels.bench.problem import Problem, Run
from sr_kernels.bench.results import MEDIUM, OURS
from sr_kernels.config import get_precision, set_precision
from sr_kernels.optimizer import optimize


def channels_last(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the inputs; pictures of (N, C, H, W) pixel-major."""
    return [x.clone(memory_format=torch.channels_last) if x.dim() == 4 else x.clone() for x in inputs]


def ours(problem: Problem, backend: str = "auto") -> Call:
    """This package, channels_last inputs."""
    inputs, run = channels_last(problem.inputs), _built(problem)
    if backend == "auto":
        return Call(lambda: run(*inputs))

    def call() -> Tensor:
        with use_backend(backend):
            return run(*inputs)

    return Call(call)


def ours_medium(problem: Problem) -> Call:
    """This package under precision "medium", float32 tensors as before."""
    inputs, run = channels_last(problem.inputs), _built(problem)

    def call() -> Tensor:
        with set_precision("medium"):
            return run(*inputs)

    return Call(call)


def _built(problem: Problem) -> Run:
    return optimize(problem.plain) if problem.ours is problem.plain else problem.ours


def eager(problem: Problem) -> Call:
    """PyTorch as it comes."""
    inputs = [x.clone() for x in problem.inputs]
    return Call(lambda: problem.plain(*inputs))


def eager_channels_last(problem: Problem) -> Call:
    """PyTorch with weights and inputs in channels_last."""
    inputs, module = channels_last(problem.inputs), _pixel_major(problem)
    return Call(lambda: module(*inputs))


def eager_bfloat16(problem: Problem) -> Call:
    """PyTorch with weights and activations in bfloat16, channels_last; float32 in and out."""
    inputs, module = channels_last(problem.inputs), _pixel_major(problem).bfloat16()
    return Call(lambda: module(*(x.bfloat16() for x in inputs)).float())


def compiled(problem: Problem) -> Call:
    """torch.compile with Inductor's freezing, which packs the weights as it likes; channels_last inputs.

    Without freezing where the frozen result is wrong, as RRDBNet's is with torch 2.13.
    """
    inputs, module = channels_last(problem.inputs), _pixel_major(problem)
    function, y = _inductor(module, inputs, freezing=True)
    expected = module(*inputs).float()
    if (y.float() - expected).abs().max() <= 1e-3 * expected.abs().max():
        return Call(lambda: function(*inputs))
    plain, _ = _inductor(module, inputs, freezing=False)
    return Call(lambda: plain(*inputs), "not frozen: the frozen result is wrong")


def _inductor(
    module: torch.nn.Module, inputs: Sequence[Tensor], freezing: bool
) -> tuple[Callable[..., Tensor], Tensor]:
    """The compiled module and its first result."""
    from torch._inductor import config

    if machine.limited():
        config.cpp.simdlen = 256  # Inductor looks at the processor alone
    torch._dynamo.reset()  # its limit of recompilations is per function, not per module
    function = torch.compile(module, fullgraph=True, dynamic=False)
    with config.patch(freezing=freezing):
        return function, function(*inputs)


def _no_compiler() -> str:
    return "" if shutil.which("g++") or shutil.which("clang++") else "torch.compile needs a C++ compiler"


def _pixel_major(problem: Problem) -> torch.nn.Module:
    module = copy.deepcopy(problem.plain)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _no_bfloat16() -> str:
    if machine.limited():
        return "AVX2 has no bf16 instructions"
    return "" if machine.has_bfloat16() else "this processor has no bf16 instructions"


def _no_medium() -> str:
    if machine.extension().startswith("none"):
        return machine.extension()
    from sr_kernels.backends.cpu import current_isa

    return "" if current_isa().fast_bf16 else "no kernels of bf16 products that gain on this processor"


def _onnxruntime_missing() -> str:
    if machine.limited():
        return "has no setting that limits its instructions"
    return runtimes.missing("onnxruntime", "onnx", "onnxscript")


def _ncnn_missing() -> str:
    if machine.limited():
        return "has no setting that limits its instructions"
    return runtimes.missing("ncnn", "onnx", "onnxscript")


def _runtime(
    name: str,
    title: str,
    build: Callable[[Problem], Call | Iterable[Call]],
    missing: Callable[[], str],
    reads: Callable[[Problem], Path],
    precision: str = "fp32",
) -> Contender:
    return Contender(name, title, build, missing, precision, whole=True, prepare=reads)


CONTENDERS: tuple[Contender, ...] = (
    Contender(OURS, "ours", ours),
    Contender("eager", "eager", eager),
    Contender("eager_cl", "eager channels_last", eager_channels_last),
    Contender("compiled", "torch.compile, frozen", compiled, _no_compiler),
    _runtime("onnxruntime", "ONNX Runtime", runtimes.onnxruntime, _onnxruntime_missing, onnx_file),
    _runtime(
        "openvino",
        "OpenVINO",
        partial(runtimes.openvino, precision="f32"),
        partial(runtimes.openvino_lacks, "f32"),
        onnx_file,
    ),
    _runtime("ncnn", "ncnn", partial(runtimes.ncnn, bfloat16=False), _ncnn_missing, ncnn_file),
    Contender(MEDIUM, "ours, medium", ours_medium, _no_medium, "medium", whole=True),
    Contender("eager_bf16", "eager bf16", eager_bfloat16, _no_bfloat16, "bf16", whole=True),
    _runtime(
        "openvino_bf16",
        "OpenVINO bf16",
        partial(runtimes.openvino, precision="bf16"),
        partial(runtimes.openvino_lacks, "bf16"),
        onnx_file,
        "bf16",
    ),
    _runtime(
        "ncnn_bf16", "ncnn bf16", partial(runtimes.ncnn, bfloat16=True), _ncnn_missing, ncnn_file, "bf16"
    ),
)
FP32 = tuple(c.name for c in CONTENDERS if c.precision == "fp32" and c.name != OURS)
BF16 = tuple(c.name for c in CONTENDERS if c.precision == "bf16")


def contenders(names: Sequence[str] = (), backend: str = "auto") -> list[Contender]:
    """Ours, with the backend asked for, and the named peers, all by default.

    Raises ValueError for an unknown name.
    """
    known = {c.name: c for c in CONTENDERS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"peer {', '.join(unknown)} is not known; known are {', '.join(list(known)[1:])}")
    chosen = [c for c in CONTENDERS[1:] if not names or c.name in names]
    # under "medium" ours may compute in bf16 and is held to what bf16 gives
    precision = "bf16" if get_precision() == "medium" else "fp32"
    return [Contender(OURS, "ours", lambda problem: ours(problem, backend), precision=precision), *chosen]
