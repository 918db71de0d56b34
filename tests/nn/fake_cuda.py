# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the CUDA graphs, streams and events of sr_kernels/nn/replays.py, on tensors of the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sr_kernels.nn import replays


class _Memory:
    """A tensor as a graph knows it: by its place. It holds no memory but what the capture itself has made."""

    def __init__(self, x: Tensor, own: dict[int, Any]) -> None:
        storage = x.untyped_storage()
        self.held = own.get(storage._cdata)
        self.weak = storage._weak_ref()
        self.like = x.dtype, x.storage_offset(), x.shape, x.stride()

    def tensor(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.weak)
        assert storage is not None, "a replay reads or writes memory that has been freed"
        dtype, *place = self.like
        return torch.empty(0, dtype=dtype).set_(storage, *place)


class Graph:
    """What the calls of a capture read and wrote; a replay makes them again at the same places, whatever has
    become of the tensors."""

    def __init__(self, log: list[tuple[Any, ...]]) -> None:
        self.log = log
        self.own: dict[int, Any] = {}
        self.calls: list[tuple[Any, ...]] = []

    def note(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in given:
                self.own[x.untyped_storage()._cdata] = x.untyped_storage()
        places = tree_map_only(Tensor, lambda x: _Memory(x, self.own), (args, kwargs, result))
        self.calls.append((function, *places))

    @torch.no_grad()
    def replay(self) -> None:
        self.log.append(("replay", _current[-1]))
        for function, args, kwargs, result in self.calls:
            args, kwargs, result = tree_map_only(_Memory, lambda m: m.tensor(), (args, kwargs, result))
            for old, new in zip(tree_leaves(result), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Capture(TorchDispatchMode):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.graph.note(function, args, kwargs or {}, result)
        return result


_current: list[Any] = ["the first stream"]


class Stream:
    """Says in the log what it does."""

    def __init__(self, log: list[tuple[Any, ...]], name: object) -> None:
        self.log, self.name = log, name

    def wait_event(self, event: Event) -> None:
        self.log.append(("wait", self.name, event.after))


class Event:
    """`after`: how long the log was when it was recorded; 0 before."""

    def __init__(self, log: list[tuple[Any, ...]]) -> None:
        self.log, self.after = log, 0

    def record(self, stream: Stream) -> None:
        self.log.append(("record", stream.name))
        self.after = len(self.log)

    def synchronize(self) -> None:
        self.log.append(("synchronize", self.after))


@contextlib.contextmanager
def stream(name: object) -> Iterator[None]:
    """Within it that stream is current."""
    _current.append(name)
    try:
        yield
    finally:
        _current.pop()


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The log of what graphs, streams and events have done."""
    log: list[tuple[Any, ...]] = []

    @contextlib.contextmanager
    def capture(graph: Graph, **_: Any) -> Iterator[None]:
        log.append(("capture",))
        with _Capture(graph):
            yield

    cuda = replays.torch.cuda
    monkeypatch.setattr(cuda, "CUDAGraph", lambda: Graph(log))
    monkeypatch.setattr(cuda, "graph", capture)
    monkeypatch.setattr(cuda, "Event", lambda: Event(log))
    monkeypatch.setattr(cuda, "Stream", lambda device: Stream(log, "of the capture"))
    monkeypatch.setattr(cuda, "current_stream", lambda *_: Stream(log, _current[-1]))
    monkeypatch.setattr(cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(cuda, "memory_reserved", lambda: 0)
    return log
