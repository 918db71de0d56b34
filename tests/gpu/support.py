# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Samples on the device, results beside eager's and float64's, and the few calls that only CUDA has."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

from sr_kernels.backends import BackendError, record_kernels
from tests import samples
from tests.closeness import assert_as_close
from tests.gpu import cases

Op = Callable[[dict[str, Any]], Tensor]


def place(value: Any, device: str) -> Any:
    """The value with every tensor on the device, strides, offset and all of its storage kept."""
    if isinstance(value, Tensor):
        size = value.untyped_storage().nbytes() // value.element_size()
        whole = value.as_strided((size,), (1,), 0).to(device)
        return whole.as_strided(value.shape, value.stride(), value.storage_offset())
    if isinstance(value, dict):
        return {k: place(v, device) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(place(v, device) for v in value)
    return value


def run(backend: str, sample: Any, dtype: torch.dtype, call: Callable[[], Tensor]) -> Tensor:
    """call(), whose kernels are all of the backend; skips what the backend may refuse."""
    try:
        with record_kernels() as names:
            y = call()
    except BackendError as error:
        allowed = cases.may_refuse(backend, sample, dtype)
        if not allowed or "self-check" in str(error):
            raise
        pytest.skip(f"{backend} {cases.REFUSES}{allowed}: {error}".partition(". Ask for")[0])
    assert_ran(names, backend)
    return y


def assert_ran(names: list[str], backend: str) -> None:
    """Some kernels ran, and all of them are the backend's."""
    assert names, "no kernel was recorded"
    assert all(name.startswith(f"{backend}/") for name in names), names


def assert_same(mine: Tensor, theirs: Tensor, what: str = "") -> None:
    """Bit for bit; says where not in one line, for pytest would print all the values."""
    assert mine.shape == theirs.shape, f"{what}: shape {tuple(mine.shape)}, not {tuple(theirs.shape)}"
    assert mine.dtype == theirs.dtype, f"{what}: dtype {mine.dtype}, not {theirs.dtype}"
    if not torch.equal(mine, theirs):
        differs = (mine != theirs).flatten().nonzero().flatten()
        raise AssertionError(
            f"{what}: {len(differs)} of {mine.numel()} elements of {tuple(mine.shape)} differ, the first is "
            f"number {int(differs[0])}, NaN in {int(torch.isnan(mine.double()).sum())}"
        )


def compare(
    backend: str, sample: Any, dtype: torch.dtype, device: str, ours: Op, plain: Op, draws: int = 8
) -> None:
    """ours of the sample against plain in the same dtype and in float64, all on the device; no input may be
    written to. Errors of few elements are too few to compare: several draws are pooled."""
    first = place(sample.arguments(dtype), device)
    y = run(backend, sample, dtype, lambda: ours(first))
    if y.numel() == 0:
        assert y.shape == plain(first).shape
        return
    results = []
    for draw in range(min(draws, math.ceil(2000 / y.numel()))):
        arguments = place(sample.arguments(dtype, draw), device)
        before = [t.clone() for t in samples.tensors_of(arguments)]
        results.append((ours(arguments), plain(arguments), plain(samples.convert(arguments, torch.float64))))
        for t, copy in zip(samples.tensors_of(arguments), before, strict=True):
            assert_same(t, copy, "an input was written to")
    assert_same(results[0][0], y, "two runs")
    assert_as_close(*(torch.cat([r.flatten() for r in part]) for part in zip(*results, strict=True)))


# What only CUDA has; on the CPU these do nothing, so that the tests around them can be tried.


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def free_bytes(device: str) -> int:
    """Memory that can be had."""
    return torch.cuda.mem_get_info()[0] if device == "cuda" else 4 << 30


@contextlib.contextmanager
def side_stream(device: str, busy: int = 0) -> Iterator[None]:
    """Within it a stream of its own is current, which first waits that many clocks; at the end nobody waits
    for it."""
    if device != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream()):
        if busy:
            torch.cuda._sleep(busy)
        yield


def captured(device: str, call: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """call as a CUDA graph: what replays it, and the tensor that each replay writes."""
    if device != "cuda":
        y = call()
        return lambda: y.copy_(call()), y
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = call()
    return graph.replay, y


def other_device(device: str) -> str:
    """A second device; skips where there is none."""
    if device != "cuda" or torch.cuda.device_count() < 2:
        pytest.skip("no second device")
    return "cuda:1"


def on(device: str) -> AbstractContextManager[object]:
    """Within it that device is current."""
    return torch.cuda.device(device) if device.startswith("cuda") else contextlib.nullcontext()
