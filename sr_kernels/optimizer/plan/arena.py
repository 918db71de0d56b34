# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The memory of what passes between layers: one piece a call, used again by later calls."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict, deque

import torch
from torch import Tensor

ALIGNMENT = 64
KEPT_BYTES = 512 << 20  # between calls, of all forms together
_ROOM = 2  # times as much address space as asked for: what is never touched takes no memory

_lock = threading.Lock()
_gone: deque[int] = deque()  # pools that are no more, whose arenas are still free
_free: OrderedDict[int, Arena] = OrderedDict()  # by their pool, the one that was used last at the end


class Arena:
    """Uninitialised bytes, and the tensors in them that its user has made."""

    def __init__(self, size: int) -> None:
        """size: bytes that are used; there is room for more of an arena that will be kept."""
        self.size = size
        self.room = size * _ROOM if size <= KEPT_BYTES else size
        # new memory even under inference mode is for all modes
        with torch.inference_mode(False):
            self.memory = torch.empty(self.room + ALIGNMENT, dtype=torch.uint8)
        self.address = -(-self.memory.data_ptr() // ALIGNMENT) * ALIGNMENT
        self.views: list[Tensor] = []
        self.viewer: object = None  # whose views they are

    def holds(self, x: Tensor) -> bool:
        """Whether x lies in it."""
        return 0 <= x.data_ptr() - self.address < self.room

    def view(
        self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        """A tensor `offset` bytes behind the arena's address, a multiple of ALIGNMENT."""
        start = self.address - self.memory.data_ptr() + offset
        with torch.inference_mode(False):
            # the storage's own beginning may be off the dtype's size
            flat = torch.empty(0, dtype=dtype)
            return flat.set_(self.memory.untyped_storage(), start // dtype.itemsize, shape, strides)


class Pool:
    """Arenas: as many as calls at a time, of which one at most is kept between them, whatever their sizes."""

    def __init__(self) -> None:
        weakref.finalize(self, _drop, id(self))

    def take(self, size: int) -> Arena:
        """An arena of so many bytes or more that is nobody else's until it is given back."""
        with _lock:
            gone, kept = _swept(), _free.pop(id(self), None)
        del gone
        if kept is not None and kept.room >= size:
            kept.size = max(kept.size, size)
            return kept
        del kept  # before the larger one is there
        return Arena(size)

    def give(self, arena: Arena) -> None:
        """Back for a later call, or to the system where too much is kept."""
        if arena.size > KEPT_BYTES:
            return
        with _lock:
            dropped = _swept()  # freed outside the lock
            if id(self) not in _free:
                _free[id(self)] = arena
                kept = sum([other.size for other in list(_free.values())])
                while kept > KEPT_BYTES:
                    _, oldest = _free.popitem(last=False)
                    dropped.append(oldest)
                    kept -= oldest.size


def _drop(pool: int) -> None:
    """Called by the garbage collector, which may be at work in a thread that holds the lock."""
    _gone.append(pool)
    if _lock.acquire(blocking=False):
        try:
            arenas = _swept()
        finally:
            _lock.release()
        del arenas


def _swept() -> list[Arena]:
    """The arenas of pools that are no more; with the lock held."""
    found = []
    while _gone:
        arena = _free.pop(_gone.popleft(), None)
        if arena is not None:
            found.append(arena)
    return found


def empty_cache() -> None:
    """Frees the memory that optimised modules keep between calls on the CPU, up to 512 MB in all: what passed
    between the layers of their last calls. Other threads may run such modules meanwhile."""
    with _lock:
        arenas = list(_free.values())
        _free.clear()
    del arenas


def kept_bytes() -> int:
    """What is kept between calls now."""
    with _lock:
        return sum([arena.size for arena in list(_free.values())])
