# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Which convolutions in a row run strip by strip, so that what passes between them is in no buffer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sr_kernels.backends import cpu_chain
from sr_kernels.optimizer.plan.sizes import Decisions
from sr_kernels.optimizer.plan.steps import Chain, Conv, Step

# Bytes between two layers from which on memory decides; strips of so few layers overlap little.
_LARGE, _MOST = 128 << 20, 4
# Of the peak that must be saved.
_WORTH = 0.8


def chained(steps: Sequence[Step], decisions: Decisions) -> list[Step]:
    """The steps with chains where those take much less memory. They take no less time: what passes between
    layers is memory that was used before, and FSRCNN's layers of 12 channels are 1.1 to 1.2 times as fast one
    by one (Intel Xeon with AMX, two threads). Which layers are large is asked of each size; what share of the
    peak chains of these save hardly depends on it."""
    readers: dict[int, int] = {}
    for step in steps:
        for value in step.reads():
            readers[id(value)] = readers.get(id(value), 0) + 1
    large = [part for run in _runs(steps, readers) for part in _large_parts(run, decisions)]
    if large:
        smaller = _with(steps, large)
        if peak(smaller) <= _WORTH * peak(steps):
            return smaller
    return list(steps)


def _runs(steps: Sequence[Step], readers: dict[int, int]) -> Iterable[list[Conv]]:
    """Convolutions of which each is read by the next one alone."""
    run: list[Conv] = []
    for step in steps:
        fits = isinstance(step, Conv) and step.layer.chain_args() is not None
        if run and not (
            fits
            and isinstance(step, Conv)
            and step.x is run[-1].y
            and step.x.is_between()
            and run[-1].base is None
            and readers[id(step.x)] == 1
            and len(run) < cpu_chain.MOST_LAYERS
        ):
            if len(run) > 1:
                yield run
            run = []
        if fits:
            assert isinstance(step, Conv)
            run.append(step)
    if len(run) > 1:
        yield run


def _large_parts(run: list[Conv], decisions: Decisions) -> Iterable[list[Conv]]:
    """The last layers of each stretch between which much memory lies."""
    part: list[Conv] = []
    for conv in run:
        part.append(conv)
        if conv is run[-1] or not decisions.at_least(conv.y.shape, conv.y.dtype, _LARGE):
            if len(part) > 1:
                yield part[-_MOST:]
            part = []


def _with(steps: Sequence[Step], runs: Iterable[list[Conv]]) -> list[Step]:
    """The steps with these runs as chains, each where its last layer is."""
    last = {id(run[-1]): run for run in runs}
    inside = {id(conv) for run in last.values() for conv in run[:-1]}
    return [Chain(last[id(step)]) if id(step) in last else step for step in steps if id(step) not in inside]


def peak(steps: Sequence[Step]) -> int:
    """Bytes of made values that are needed at a time, at most; what is concatenated counts twice."""
    begin: dict[int, int] = {}
    end: dict[int, tuple[int, int]] = {}
    for i, step in enumerate(steps):
        made = step.makes()
        if made is not None:
            begin[id(made)] = i
            end[id(made)] = i, made.bytes()
        for value in step.reads():
            if id(value) in begin:
                end[id(value)] = i, value.bytes()
    change = [0] * (len(steps) + 1)
    for key, first in begin.items():
        last, size = end[key]
        change[first] += size
        change[last + 1] -= size
    most = now = 0
    for size in change:
        now += size
        most = max(most, now)
    return most
