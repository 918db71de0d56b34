# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures launch configurations on the device at hand; the winners go into the user's table (configs.py)."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import statistics
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from sr_kernels.backends.base import ConvArgs, dense_strides
from sr_kernels.backends.triton import configs, plan
from sr_kernels.backends.triton.configs import Config, Layer, power_of_two

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Task:
    """A layer to tune: Ci -> Co, k x k, at height x width, with the epilogue that it usually has."""

    ci: int
    co: int
    kernel: int = 3
    stride: int = 1
    activation: str = "relu"
    residuals: int = 0
    pixel_shuffle: int = 1
    base: bool = False
    upsample: int = 1
    height: int = 720
    width: int = 1280
    dtype: str = "float16"

    def arguments(self, device: str | torch.device, height: int = 0, width: int = 0) -> ConvArgs:
        """Random tensors of the task, channels_last, at its own size or another."""
        h, w = height or self.height, width or self.width
        dtype = getattr(torch, self.dtype)

        def picture(c: int, y: int, x: int) -> Tensor:
            return torch.randn(1, c, y, x, device=device, dtype=dtype).to(memory_format=torch.channels_last)

        k = self.kernel
        a = ConvArgs(
            picture(self.ci, h, w),
            (torch.randn(self.co, self.ci, k, k, device=device) / (self.ci * k * k) ** 0.5).to(dtype),
            torch.randn(self.co, device=device).to(dtype),
            stride=(self.stride, self.stride),
            padding=(k // 2,) * 4,
            activation=self.activation,
            upsample=self.upsample,
            pixel_shuffle=self.pixel_shuffle,
        )
        if self.activation == "prelu":
            a.prelu_weight = torch.rand(self.co, device=device).to(dtype)
        _, c, oh, ow = a.output_shape()
        r = self.pixel_shuffle
        a.residuals = [(picture(self.co, oh // r, ow // r), 1.0)] * self.residuals
        if self.base:
            a.base, a.base_mode = picture(c, oh // r, ow // r), "nearest"
        return a


# The layers of the networks in sr_kernels.models, at a size that fills a GPU.
USUAL = (
    Task(64, 64, activation="prelu"),
    Task(32, 32),
    Task(48, 48),
    Task(128, 128),
    *(Task(ci, 32, activation="leaky_relu") for ci in (64, 96, 128, 160)),
    Task(192, 64, activation="none", residuals=2),
    Task(64, 256, activation="none", pixel_shuffle=2, height=360, width=640),
    Task(64, 48, activation="none", pixel_shuffle=4, base=True),
    Task(64, 12, activation="none", pixel_shuffle=2),
    Task(3, 64, activation="prelu"),
    Task(1, 56, kernel=5),
    Task(3, 64, kernel=5),
    Task(3, 64, kernel=9),
    Task(64, 3, activation="none"),
    Task(64, 3, kernel=9, activation="none"),
    Task(32, 27, activation="none", pixel_shuffle=3),
    Task(12, 12, activation="prelu"),
    Task(56, 12, kernel=1, activation="prelu"),
    Task(12, 56, kernel=1, activation="prelu"),
    Task(64, 64, stride=2),
)

_TILES = ((8, 8), (8, 16), (4, 32), (16, 16), (8, 32), (16, 32))
_RUNS = 5  # in a graph
_SHARED = 200 << 10  # bytes of a program; what does not fit on a chip fails to launch and is left out


def candidates(layer: Layer) -> list[Config]:
    """What is worth a try: sums that fit the registers, stages that fit shared memory."""
    widest = power_of_two(layer.co)
    columns = [bn for bn in (16, 32, 64, 128) if bn <= max(widest, 16) and (bn >= 32 or widest <= 16)]
    k = layer.kh * layer.kw * layer.ci if layer.load == "window" else layer.ci
    depths = [bk for bk in (16, 32, 64, 128) if bk <= max(power_of_two(k), 16) and bk >= min(k, 32)]
    if layer.load == "taps":
        return [
            Config(th, tw, 16, bk, warps, stages)
            for (th, tw), bk, warps, stages in itertools.product(
                ((2, 64), (4, 64), (8, 64), (2, 128), (4, 32), (8, 32)), depths, (4, 8), (1, 2, 3, 4)
            )
            if 64 <= th * tw // warps * 2 <= 256
        ]
    found = []
    for (th, tw), bn, bk, warps, stages, swap in itertools.product(
        _TILES, columns, depths, (4, 8), (2, 3, 4, 5), (False, True)
    ):
        pixels = th * tw
        registers = pixels * bn // (32 * warps)
        shared = stages * (pixels + bn) * bk * layer.bytes
        rows = bn if swap else pixels
        useful = 16 <= registers <= 128 and shared <= _SHARED and rows >= 16 * warps
        if useful and not (swap and bn < 64):
            found.append(Config(th, tw, bn, bk, warps, stages, swap))
    return found


def layer_of(task: Task, device: str = "cuda") -> tuple[str, Layer]:
    """How the task's input is read on the device, and the key of its configurations."""
    a = task.arguments(device, 32, 64)
    load = plan.load_of(a)
    return load, plan.layer_of(a, load)


def _thinned(found: list[Config], most: int) -> list[Config]:
    """Evenly drawn ones, `most` at most."""
    step = max(len(found) / max(most, 1), 1.0)
    return [found[int(i * step)] for i in range(min(len(found), most))]


def _attempt(task: Task, device: str, load: str, c: Config) -> str:
    """Compiles a configuration in a process of its own, into Triton's cache; what went wrong, or ""."""
    try:
        a = task.arguments(device, 32, 64)
        plan.ConvPlan(a, _result(a), load, c).run(a, _result(a))
        torch.cuda.synchronize()
    except Exception as error:  # out of resources, mostly
        return f"{type(error).__name__}: {error}"
    return ""


def _result(a: ConvArgs) -> Tensor:
    shape = a.output_shape()
    return a.input.new_empty_strided(shape, dense_strides(shape, torch.channels_last))


def time_of(run: Callable[[], object], seconds: float = 0.02) -> float:
    """Median seconds of a run on the device: several in a CUDA graph, so that Python does not count."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_RUNS):
            run()

    def once() -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / _RUNS

    rounds = min(max(int(seconds / max(once() * _RUNS, 1e-6)), 3), 20)
    return statistics.median(once() for _ in range(rounds))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A layer's configurations by time, best first: (seconds, configuration)."""

    task: Task
    layer: Layer
    times: list[tuple[float, Config]]
    failed: list[str]  # why the others did not run


@contextlib.contextmanager
def _workers(count: int) -> Iterator[ProcessPoolExecutor]:
    context = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        yield pool


def in_force(layer: Layer, index: int = 0) -> Config:
    """What runs on a device without a table of the user's."""
    return configs.shipped(plan.chip(index)).get(layer.key()) or configs.default(layer)


def tune(
    tasks: Iterable[Task],
    device: str = "cuda",
    most: int = 64,
    workers: int = 0,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Times at most `most` configurations of each task's layer, compiled in `workers` processes before: the
    one that would run without, the rule's, and others evenly drawn."""
    tasks = list(tasks)
    workers = workers or max(1, min(12, (os.cpu_count() or 2) - 2))
    jobs = []
    for task in tasks:
        load, layer = layer_of(task, device)
        index = torch.device(device).index or 0
        first = list(dict.fromkeys((in_force(layer, index), configs.default(layer))))
        drawn = _thinned([c for c in candidates(layer) if c not in first], max(most - len(first), 0))
        jobs.append((task, load, layer, [*first, *drawn]))
    total = sum(len(found) for *_, found in jobs)
    done = 0
    with _workers(workers) as pool:
        pending = [
            (task, load, layer, [(c, pool.submit(_attempt, task, device, load, c)) for c in found])
            for task, load, layer, found in jobs
        ]
        for task, load, layer, found in pending:
            a = task.arguments(device)
            y = _result(a)
            times, failed = [], []
            for c, attempt in found:
                if reason := attempt.result():
                    failed.append(f"{c}: {reason}")
                else:
                    run = functools.partial(plan.ConvPlan(a, y, load, c).run, a, y)
                    times.append((time_of(run), c))
                done += 1
                if progress:
                    progress(done, total, layer.key())
            yield Outcome(task, layer, sorted(times, key=lambda pair: pair[0]), failed)
