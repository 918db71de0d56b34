# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Optimised modules in standard operators, for other runtimes: ONNX files of any size of input."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sr_kernels.ops import _library
from sr_kernels.optimizer import samples
from sr_kernels.optimizer.copies import copied
from sr_kernels.optimizer.module import Optimized
from sr_kernels.optimizer.proof.parity import Reference
from sr_kernels.optimizer.region import Region
from sr_kernels.optimizer.report import Parity
from sr_kernels.optimizer.samples import Sample

OPSET = 20
INPUT, OUTPUT = "x", "y"
_NEEDED = ("onnx", "onnxscript")


class _Folded:
    """A region whose constants are tensors, for export: it looks at no weight again."""

    def __init__(self, region: Region, module: nn.Module) -> None:
        constants = region.rewritten.constants
        with torch.no_grad():
            self.constants = () if constants is None else tuple(constants.make(module))
        self.region = region

    def __deepcopy__(self, memo: dict[int, Any]) -> _Folded:
        return self

    def run(
        self, module: nn.Module, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        values = self.region._values(args, kwargs)
        if values is None:
            return original(*args, **kwargs)
        return self.region.rewritten.variable(module, *self.constants, *values)


def plain_program(
    fast: nn.Module, inputs: Sequence[Any], dynamic_shapes: Any = None
) -> torch.export.ExportedProgram:
    """What optimize made of a module, as torch.export gives it, in PyTorch's operators alone: the ops of the
    library in those of sr_kernels.reference, what follows from weights computed.

    Raises what torch.export raises for a module that it cannot follow.
    """
    original = fast._sr_original if isinstance(fast, Optimized) else None
    folded = copied(fast, original).eval().requires_grad_(False)
    for module in folded.modules():
        if isinstance(module, Optimized) and module._sr_region is not None:
            region = module._sr_region
            # what was changed since it was optimised is exported as it runs, by the original's forward
            folded_region: Any = _Folded(region, module) if region.applies(module) else None
            module._sr_region = folded_region
    program = torch.export.export(folded, tuple(inputs), dynamic_shapes=dynamic_shapes, strict=False)
    return program.run_decompositions(dict(_library.PLAIN))


def onnx_program(
    module: nn.Module | torch.export.ExportedProgram, inputs: Sequence[Any], **options: Any
) -> Any:
    """A module or program as an onnx model in memory, weights inside; inputs are called x, x1 ..."""
    with _quiet():
        program = torch.onnx.export(
            module,
            tuple(inputs),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=[INPUT, *(f"{INPUT}{i}" for i in range(1, len(inputs)))],
            output_names=[OUTPUT],
            **options,
        )
    assert program is not None
    return program


def check_packages() -> None:
    """Raises RuntimeError, with the cure, where a package that writing ONNX takes is missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(f"to write ONNX install what is missing: pip install {' '.join(missing)}")


def write_onnx(fast: nn.Module, path: Path, example: Sequence[Tensor] | None = None) -> str:
    """Writes a module that optimize returned to a file, for any batch, height and width of pictures, and
    holds what ONNX Runtime makes of it against the module; in words, how that came out.

    example: tensors as forward takes them; made up by default. The file is complete or not there at all.

    Raises:
        RuntimeError: a package is missing, or the file's results are not those of the module.
        ValueError: no inputs were found, or the module cannot be exported.
    """
    check_packages()
    tried, why = ([Sample(example)], "") if example is not None else samples.guessed(fast)
    if not tried:
        raise ValueError(f"cannot write {path}: {why}")
    # a batch of two, so that no size is taken for the number 1
    inputs = tried[-1].args
    try:
        with _quiet():
            program = onnx_program(plain_program(fast, inputs, _any_size(fast, inputs)), inputs)
    except Exception as error:
        raise ValueError(f"{type(fast).__name__} cannot be exported: {_first_line(error)}") from error
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        program.save(str(part), external_data=False)
        told = _checked(fast, part, tried)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return told


def _any_size(fast: nn.Module, inputs: Sequence[Any]) -> Mapping[str, Any] | tuple[Any, ...]:
    """For each argument: batch, height and width of pictures may be others."""
    any_size = torch.export.Dim.DYNAMIC
    shapes = [
        {0: any_size, 2: any_size, 3: any_size} if isinstance(x, Tensor) and x.dim() == 4 else None
        for x in inputs
    ]
    names = list(inspect.signature(fast.forward).parameters)
    return dict(zip(names, shapes, strict=False)) if len(names) >= len(shapes) else tuple(shapes)


class _Runtime(nn.Module):
    """A file as a module."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session: Any = importlib.import_module("onnxruntime").InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )

    def forward(self, *args: Tensor) -> Any:
        names = [node.name for node in self.session.get_inputs()]
        found = self.session.run(None, {n: x.numpy() for n, x in zip(names, args, strict=True)})
        tensors = [torch.from_numpy(y) for y in found]
        return tensors[0] if len(tensors) == 1 else tuple(tensors)


def _checked(fast: nn.Module, path: Path, tried: Sequence[Sample]) -> str:
    if importlib.util.find_spec("onnxruntime") is None:
        return "not checked: onnxruntime is not installed"
    original = fast._sr_original if isinstance(fast, Optimized) and fast._sr_original is not None else fast
    parity: Parity = Reference(original, tried).compare(_Runtime(path))
    if not parity.holds:
        raise RuntimeError(f"what ONNX Runtime makes of the exported network is wrong: {parity.text}")
    sizes = " and ".join("x".join(map(str, x.shape)) for sample in tried for x in list(sample.tensors())[:1])
    return f"checked with ONNX Runtime at {sizes}: largest error {parity.ours:.1e} of the output's RMS"


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


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
