# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Who is measured: ours, and what a user could run instead. Each turns a Problem into a callable.

A further runtime is one more build function and one more row of CONTENDERS.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sr_kernels.backends import use_backend
from sr_kernels.bench.problem import Problem


@dataclass(frozen=True)
class Call:
    """What is timed, and what a reader must know of it."""

    run: Callable[[], Tensor]
    note: str = ""

    def __call__(self) -> Tensor:
        return self.run()


@dataclass(frozen=True)
class Contender:
    """build(problem) makes what is timed; missing() is why it cannot run on this machine, "" where it can."""

    name: str
    title: str
    build: Callable[[Problem], Call]
    missing: Callable[[], str] = lambda: ""


def channels_last(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the inputs; pictures of (N, C, H, W) pixel-major."""
    return [x.clone(memory_format=torch.channels_last) if x.dim() == 4 else x.clone() for x in inputs]


def ours(problem: Problem, backend: str = "auto") -> Call:
    """This package, channels_last inputs."""
    inputs = channels_last(problem.inputs)
    if backend == "auto":
        return Call(lambda: problem.ours(*inputs))

    def call() -> Tensor:
        with use_backend(backend):
            return problem.ours(*inputs)

    return Call(call)


def eager(problem: Problem) -> Call:
    """PyTorch as it comes."""
    inputs = [x.clone() for x in problem.inputs]
    return Call(lambda: problem.plain(*inputs))


def eager_channels_last(problem: Problem) -> Call:
    """PyTorch with weights and inputs in channels_last."""
    inputs, module = channels_last(problem.inputs), _pixel_major(problem)
    return Call(lambda: module(*inputs))


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

    torch._dynamo.reset()  # its limit of recompilations is per function, not per module
    function = torch.compile(module, fullgraph=True, dynamic=False)
    with config.patch(freezing=freezing):
        return function, function(*inputs)


def _no_compiler() -> str:
    return "" if shutil.which("g++") or shutil.which("clang++") else "torch.compile needs a C++ compiler"


def _pixel_major(problem: Problem) -> torch.nn.Module:
    module = copy.deepcopy(problem.plain)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


OURS = "ours"
CONTENDERS: tuple[Contender, ...] = (
    Contender(OURS, "ours", ours),
    Contender("eager", "eager", eager),
    Contender("eager_cl", "eager channels_last", eager_channels_last),
    Contender("compiled", "torch.compile, frozen", compiled, _no_compiler),
)


def contenders(names: Sequence[str] = (), backend: str = "auto") -> list[Contender]:
    """Ours, with the backend asked for, and the named peers, all by default.

    Raises ValueError for an unknown name.
    """
    known = {c.name: c for c in CONTENDERS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"peer {', '.join(unknown)} is not known; known are {', '.join(list(known)[1:])}")
    chosen = [c for c in CONTENDERS[1:] if not names or c.name in names]
    return [Contender(OURS, "ours", lambda problem: ours(problem, backend)), *chosen]
