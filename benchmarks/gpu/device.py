# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The device: timing by events, calls captured as graphs, what it is called. All that only CUDA has is here.

`Dry` stands in for it on a machine without a GPU, so that everything around can be tried there.
"""

from __future__ import annotations

import gc
import re
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Tensor]


class Cuda:
    """The current CUDA device."""

    type = "cuda"

    def __init__(self) -> None:
        self.properties: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
        self.cache = int(getattr(self.properties, "L2_cache_size", 50 << 20))  # bytes
        self.pool = torch.cuda.graph_pool_handle()
        # the reference in float32 is exact; nothing that is timed computes in float32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def search(self, on: bool) -> None:
        """Whether cuDNN tries its algorithms at each new shape: for what is timed, not for the references."""
        torch.backends.cudnn.benchmark = on

    def synchronize(self) -> None:
        """Waits for all that was launched; raises what went wrong in it."""
        torch.cuda.synchronize()

    def timer(self, call: Callable[[], object], count: int) -> float:
        """Seconds of so many calls in a row, by events on the current stream."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def capture(self, call: Call, calls: int) -> tuple[Callable[[], object], Tensor]:
        """A graph of so many calls: what replays it, and the last call's result.

        All graphs work in the same memory: they are replayed one after the other, and the result is there
        until the next capture.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            for _ in range(calls):
                y = call()
        graph.replay()
        torch.cuda.synchronize()
        return graph.replay, y

    def release(self) -> None:
        """Gives back memory that nobody holds."""
        gc.collect()
        self.pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()

    def environment(self) -> dict[str, str]:
        """The chip and what drives it."""
        p = self.properties
        return {
            "gpu": p.name,
            "capability": f"{p.major}.{p.minor}",
            "multiprocessors": str(p.multi_processor_count),
            "gpu memory": f"{p.total_memory / 2**30:.0f} GiB",
            "L2": f"{self.cache / 2**20:.0f} MiB",
            "driver": _driver(),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
            "triton": _triton(),
        }


class Dry:
    """The CPU in the place of a GPU: the same steps, figures that mean nothing."""

    type = "cpu"
    cache = 1 << 10

    def search(self, on: bool) -> None:
        """There is nothing to try."""

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def timer(self, call: Callable[[], object], count: int) -> float:
        """Seconds of so many calls in a row."""
        start = time.perf_counter()
        for _ in range(count):
            call()
        return time.perf_counter() - start

    def capture(self, call: Call, calls: int) -> tuple[Callable[[], object], Tensor]:
        """The calls themselves, and the last one's result."""

        def replay() -> None:
            for _ in range(calls):
                call()

        return replay, call()

    def release(self) -> None:
        """Gives back memory that nobody holds."""
        gc.collect()

    def environment(self) -> dict[str, str]:
        """Says that this is no GPU."""
        return {"gpu": "none, a dry run on the CPU", "triton": _triton()}


Device = Cuda | Dry


def open_device(kind: str) -> Device:
    """Raises RuntimeError where there is no such device."""
    if kind == "cpu":
        return Dry()
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device: --device cpu tries the benchmark without one")
    return Cuda()


def slug(name: str) -> str:
    """A chip's name for files: h100, rtx-4090."""
    if "dry run" in name:
        return "dry"
    words = re.sub(r"\b(NVIDIA|GeForce|Tesla|Quadro|AMD|Graphics)\b", "", name).lower().split()
    return "-".join(words[: 2 if words[:1] == ["rtx"] else 1]) or "unknown"


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        found = []
    return found[0] if found else "unknown"


def _triton() -> str:
    from importlib import metadata

    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "not installed"
