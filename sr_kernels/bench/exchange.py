# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A problem's plain form as files that other runtimes read: ONNX, and ncnn's by way of it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import logging
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from sr_kernels import config
from sr_kernels.bench.problem import Problem

OPSET = 20
INPUT, OUTPUT = "x", "y"
_SMALL = 32  # pixels a side that ncnn's converter is shown: the network it writes takes any size
# The converter copies all weights at every step; an allocator that keeps its pages halves its time.
_KEEP_PAGES = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4000000000:glibc.malloc.top_pad=300000000"


def onnx_file(problem: Problem) -> Path:
    """The ONNX file at the inputs' shapes, written once; by torch's exporter through torch.export, since the
    older one takes PReLU apart."""
    return _kept(problem, "onnx", problem.inputs)


def ncnn_file(problem: Problem) -> Path:
    """ncnn's .param file, its .bin beside it, float32; converted by pnnx in a process of its own.

    Conversions are kept in the cache folder by content: an RRDBNet's takes a minute. Raises RuntimeError
    with the converter's last words where it writes nothing.
    """
    if "ncnn" in problem.files:
        return problem.files["ncnn"]
    small = [x[..., :_SMALL, :_SMALL].contiguous() for x in problem.inputs]
    source = _kept(problem, "small onnx", small)
    digest = hashlib.sha256(source.read_bytes() + metadata.version("pnnx").encode()).hexdigest()[:24]
    folder = Path(config.get("SR_KERNELS_CACHE_DIR")) / "ncnn" / digest
    if not (folder / "model.param").exists():
        shapes = ",".join(str(list(x.shape)).replace(" ", "") for x in small)
        with tempfile.TemporaryDirectory() as work:
            shutil.copy(source, Path(work) / "model.onnx")
            done = subprocess.run(
                [importlib.import_module("pnnx").EXEC_PATH, "model.onnx", f"inputshape={shapes}", "fp16=0"],
                cwd=work,
                env={**os.environ, "GLIBC_TUNABLES": _KEEP_PAGES},
                capture_output=True,
                text=True,
            )
            found = [Path(work) / f"model.ncnn.{kind}" for kind in ("bin", "param")]
            if done.returncode or not all(path.exists() for path in found):
                raise RuntimeError(f"pnnx wrote no network: {(done.stdout + done.stderr)[-200:]}")
            folder.mkdir(parents=True, exist_ok=True)
            for path in found:  # .param last: where it is, all is
                part = folder / f"{path.name}.{os.getpid()}"
                shutil.copy(path, part)
                part.rename(folder / path.name.replace(".ncnn", ""))
    problem.files["ncnn"] = folder / "model.param"
    return problem.files["ncnn"]


def _kept(problem: Problem, kind: str, inputs: Sequence[Tensor]) -> Path:
    if kind not in problem.files:
        folder = Path(tempfile.mkdtemp(prefix="sr_kernels_bench_"))
        path = folder / "model.onnx"
        try:
            export(problem.plain, inputs, path)
        except BaseException:
            shutil.rmtree(folder)
            raise
        problem.files[kind] = path
    return problem.files[kind]


def discard(problem: Problem) -> None:
    """Removes what was exported for this problem; what the cache keeps stays."""
    for kind in ("onnx", "small onnx"):
        if path := problem.files.pop(kind, None):
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
