# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Who is measured on a GPU: ours on every backend, and what a user could run instead."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.gpu.device import Device
from sr_kernels.backends import available_backends, registry, use_backend
from sr_kernels.bench.contender import Call, Contender
from sr_kernels.bench.peers import channels_last
from sr_kernels.bench.problem import Problem
from sr_kernels.bench.results import OURS

_MOST_SETS = 8
EAGER = ("eager", "eager_cl")
COMPILED = ("compiled", "compiled_max")
PEERS = (*EAGER, *COMPILED)
TITLES = {
    OURS: "ours",
    "cuda": "ours, CUDA",
    "triton": "ours, Triton",
    "cpu": "ours, CPU",
    "eager": "eager NCHW",
    "eager_cl": "eager channels_last",
    "compiled": "torch.compile",
    "compiled_max": "torch.compile, max-autotune",
}


def sets(problem: Problem, cache: int) -> int:
    """So many copies of the inputs that they pass the device's last cache."""
    size = sum(x.numel() * x.element_size() for x in problem.inputs)
    return max(1, min(_MOST_SETS, -(-4 * cache // max(size, 1))))


def rotating(
    problem: Problem, cache: int, run: Callable[..., Tensor], arrange: Callable[..., Sequence[Tensor]]
) -> Call:
    """run on one copy of the inputs after the other."""
    turn = itertools.cycle([arrange(problem.inputs) for _ in range(sets(problem, cache))])
    return Call(lambda: run(*next(turn)))


def contiguous(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the inputs as they are."""
    return [x.clone() for x in inputs]


def ours(device: Device, backend: str = "auto") -> Callable[[Problem], Call]:
    """This package, channels_last inputs."""

    def build(problem: Problem) -> Call:
        def run(*inputs: Tensor) -> Tensor:
            with use_backend(backend):
                return problem.ours(*inputs)

        whole = problem.ours if backend == "auto" else run
        return rotating(problem, device.cache, whole, channels_last)

    return build


def eager(device: Device) -> Callable[[Problem], Call]:
    """PyTorch as it comes."""
    return lambda problem: rotating(problem, device.cache, problem.plain, contiguous)


def eager_channels_last(device: Device) -> Callable[[Problem], Call]:
    """PyTorch with weights and inputs in channels_last."""
    return lambda problem: rotating(problem, device.cache, _pixel_major(problem), channels_last)


def compiled(device: Device, mode: str | None) -> Callable[[Problem], Call]:
    """torch.compile of the channels_last module; without CUDA graphs of its own: all are captured alike."""

    def build(problem: Problem) -> Call:
        function = torch.compile(_pixel_major(problem), fullgraph=True, dynamic=False, mode=mode)
        return rotating(problem, device.cache, function, channels_last)

    return build


def _pixel_major(problem: Problem) -> torch.nn.Module:
    module = copy.deepcopy(problem.plain)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def our_backends(device: Device) -> dict[str, str]:
    """The backends of ours for the device in order, with why one is absent, "" for none."""
    reasons = available_backends()
    return {name: "; ".join(reasons[name]) for name in registry.order(device.type) if name != "torch"}


def contenders(
    device: Device, peers: Sequence[str], backends: Sequence[str], backend: str = "auto"
) -> list[Contender]:
    """Ours by the automatic choice, or forced onto `backend`, ours on each of `backends`, and these peers.

    Raises ValueError for an unknown name.
    """
    built: dict[str, Callable[[Problem], Call]] = {
        "eager": eager(device),
        "eager_cl": eager_channels_last(device),
        "compiled": compiled(device, None),
        "compiled_max": compiled(device, "max-autotune-no-cudagraphs"),
    }
    known = our_backends(device)
    if unknown := [name for name in (*peers, *backends) if name not in (*built, *known)]:
        raise ValueError(f"{', '.join(unknown)} is not known; known are {', '.join((*built, *known))}")
    found = [Contender(OURS, TITLES[OURS], ours(device, backend))]
    for name in backends:
        reason = known[name]
        title = TITLES.get(name, f"ours, {name}")
        found.append(Contender(name, title, ours(device, name), lambda reason=reason: reason))
    return [*found, *(Contender(name, TITLES[name], built[name]) for name in peers)]
