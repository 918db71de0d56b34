# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A problem's plain form as files that other runtimes read: ONNX, and ncnn's by way of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from sr_kernels.bench import ncnn_file as ncnn_format
from sr_kernels.bench.problem import Problem
from sr_kernels.optimizer.export import INPUT as INPUT
from sr_kernels.optimizer.export import OUTPUT as OUTPUT
from sr_kernels.optimizer.export import onnx_program


def onnx_file(problem: Problem) -> Path:
    """The ONNX file at the inputs' shapes, written once; by torch's exporter through torch.export, since the
    older one takes PReLU apart."""

    def write(folder: Path) -> Path:
        export(problem.plain, problem.inputs, folder / "model.onnx")
        return folder / "model.onnx"

    return _kept(problem, "onnx", write)


def ncnn_file(problem: Problem) -> Path:
    """ncnn's .param file, its .bin beside it, written once."""
    source = onnx_file(problem)
    return _kept(problem, "ncnn", lambda folder: ncnn_format.write(source, folder))


def _kept(problem: Problem, kind: str, write: Callable[[Path], Path]) -> Path:
    if kind not in problem.files:
        folder = Path(tempfile.mkdtemp(prefix="sr_kernels_bench_"))
        try:
            problem.files[kind] = write(folder)
        except BaseException:
            shutil.rmtree(folder)
            raise
    return problem.files[kind]


def discard(problem: Problem) -> None:
    """Removes what was written for this problem."""
    while problem.files:
        _, path = problem.files.popitem()
        shutil.rmtree(path.parent, ignore_errors=True)


def export(module: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
    """Writes a module as ONNX, weights inside, at these inputs' shapes."""
    onnx_program(module, inputs).save(str(path), external_data=False)
