# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A problem's plain form as files that other runtimes read: ONNX, and ncnn's by way of it."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sr_kernels.bench import ncnn_file as ncnn_format
from sr_kernels.bench.problem import Problem

OPSET = 20
INPUT, OUTPUT = "x", "y"


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
    with _quiet():
        program = torch.onnx.export(
            module,
            tuple(inputs),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=[INPUT, *(f"{INPUT}{i}" for i in range(1, len(inputs)))],
            output_names=[OUTPUT],
        )
        assert program is not None
        program.save(str(path), external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about packages that it does not need."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
