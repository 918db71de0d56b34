# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Where values lie: concatenations that need no copy, sums in place, and one arena for all buffers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch.fx import Node

from sr_kernels.optimizer.plan.arena import ALIGNMENT
from sr_kernels.optimizer.plan.steps import Add, Buffer, Call, Cat, Conv, Copy, Lowered, Step, Value

# Bytes of a wide buffer that may outlive its concatenation for the sake of a part: caches hold it anyway.
_SMALL = 256 << 10
_LONG = 4  # steps
_WORTH = 0.95  # of the arena, for more copies


def number(lowered: Lowered) -> None:
    """The steps between which each value is needed."""
    nodes = {id(value): node for node, value in lowered.outside.items()}
    last: dict[Node, int] = {}  # where a tensor of Python's is read last
    for i, step in enumerate(lowered.steps):
        for value in step.reads():
            value.end = i
            if id(value) in nodes:
                last[nodes[id(value)]] = i
        if isinstance(step, Call):
            last.update((node, i) for node in step.node.all_input_nodes)
        made = step.makes()
        if made is not None:
            made.begin = i
            made.end = max(made.end, i)
    for step in reversed(lowered.steps):
        if isinstance(step, Call):
            until = last.get(step.node, -1)
            for node in step.aliases:
                last[node] = max(last.get(node, -1), until)
                if node in lowered.made:
                    lowered.made[node].end = max(lowered.made[node].end, until)


def placed(lowered: Lowered) -> Placing:
    """Every made value in a buffer."""
    placing = Placing(lowered, copies_early=False)
    if placing.has_early:
        size = placing.arena_bytes()
        other = Placing(lowered, copies_early=True)
        # asked once for all sizes of a form: what early copies save hardly depends on them
        if other.arena_bytes() <= _WORTH * size:
            return other
        placing = Placing(lowered, copies_early=False)
    return placing


class Placing:
    """Gives every made value its buffer, and turns concatenations into the copies that are still needed.

    Two sorts of parts are copied rather than made where they are concatenated, though a kernel could: those
    that are needed longer than the rest, since the wide buffer would have to live as long as they do; and, if
    that makes the arena smaller (copies_early), those that are made long before the rest, such as what passes
    by a U-Net's deeper levels, since the wide buffer would have to be there as early as they are.
    """

    def __init__(self, lowered: Lowered, *, copies_early: bool) -> None:
        self.lowered = lowered
        self.copies_early = copies_early
        self.has_early = False
        self.buffers: list[Buffer] = []
        self.values: dict[int, list[Value]] = {}  # of a buffer
        self.contents: dict[int, dict[tuple[int, int], Value]] = {}  # of a buffer, by channel and count
        self.places: dict[int, list[tuple[Buffer, int]]] = {}  # where a value lies, or will be copied to
        cats = [step for step in lowered.steps if isinstance(step, Cat)]
        for step in lowered.steps:
            made = step.makes()
            if made is not None:
                made.buffer = None
        for cat in reversed(cats):  # of those that grow from each other the widest comes first
            self._concatenate(cat)
        for i, step in enumerate(lowered.steps):
            made = step.makes()
            if made is not None and made.buffer is None:
                self._put(made, self._taken_over(step, i) or self._new(made), 0)
        self.steps = list(self._without_cats())
        for buffer in self.buffers:
            values = self.values[id(buffer)]
            buffer.begin = min(value.begin for value in values)
            buffer.end = max(value.end for value in values)
        self.in_arena = [buffer for buffer in self.buffers if buffer.in_arena]

    def arena_bytes(self) -> int:
        """In the sizes of the form."""
        return arrange(self.in_arena, [buffer.whole.bytes() for buffer in self.in_arena])[1]

    def _new(self, value: Value) -> Buffer:
        buffer = Buffer(value, in_arena=not value.is_fresh)
        self.buffers.append(buffer)
        self.values[id(buffer)] = []
        self.contents[id(buffer)] = {}
        return buffer

    def _put(self, value: Value, buffer: Buffer, channel: int) -> None:
        value.buffer, value.channel = buffer, channel
        self.values[id(buffer)].append(value)
        self.places.setdefault(id(value), []).append((buffer, channel))

    def _concatenate(self, cat: Cat) -> None:
        y = cat.y
        if y.buffer is None:
            buffer, channel = self._found(cat) or (self._new(y), 0)
            self._put(y, buffer, channel)
        assert y.buffer is not None
        buffer, channel = y.buffer, y.channel
        until = max(value.end for value in self.values[id(buffer)])
        for part in cat.parts:
            where = channel, part.shape[1]
            if where not in self.contents[id(buffer)]:
                self.contents[id(buffer)][where] = part
                if self._may_lie_in(part, buffer, until) and not self._is_early(part, cat, buffer):
                    self._put(part, buffer, channel)
                else:
                    self.places.setdefault(id(part), []).append((buffer, channel))
            channel += part.shape[1]

    def _found(self, cat: Cat) -> tuple[Buffer, int] | None:
        """A wide buffer where these parts are to lie side by side in any case."""
        if cat.y.is_whole:
            return None
        for buffer, first in self.places.get(id(cat.parts[0]), []):
            channel = first
            for part in cat.parts:
                if self.contents[id(buffer)].get((channel, part.shape[1])) is not part:
                    break
                channel += part.shape[1]
            else:
                return buffer, first
        return None

    def _may_lie_in(self, part: Value, buffer: Buffer, until: int) -> bool:
        """Whether the part could be made where it is concatenated."""
        if not part.is_made or part.buffer is not None or part.is_whole or part.is_fresh or part.planar:
            return False
        return part.end <= until or self._is_small(buffer)

    def _is_small(self, buffer: Buffer) -> bool:
        return not self.lowered.decisions.at_least(buffer.whole.shape, buffer.whole.dtype, _SMALL + 1)

    def _is_early(self, part: Value, cat: Cat, buffer: Buffer) -> bool:
        """Whether the part is to be copied because it is made long before the next one."""
        later = [other.begin for other in cat.parts if other.is_made and other.begin > part.begin]
        if not later or min(later) - part.begin <= _LONG or self._is_small(buffer):
            return False
        self.has_early = True
        return self.copies_early

    def _taken_over(self, step: Step, i: int) -> Buffer | None:
        """The buffer of something added that nobody needs after this step. Kernels read what they add to a
        pixel before they write that pixel, and nothing of others."""
        if not isinstance(step, (Conv, Add)) or step.y.is_fresh:
            return None
        added = step.residuals if isinstance(step, Conv) else step.terms
        others = [step.x, step.base] if isinstance(step, Conv) else []
        for residual in added:
            buffer = residual.buffer
            if (
                buffer is not None
                and buffer.in_arena
                and residual.shape == step.y.shape
                and not residual.planar
                and buffer.channels == residual.shape[1]
                and all(other is None or other.buffer is not buffer for other in others)
                and all(value.end <= i for value in self.values[id(buffer)])
            ):
                return buffer
        return None

    def _without_cats(self) -> Iterable[Step]:
        copied = set[tuple[int, int, int]]()
        for step in self.lowered.steps:
            if not isinstance(step, Cat):
                yield step
                continue
            buffer, channel = step.y.buffer, step.y.channel
            assert buffer is not None
            for part in step.parts:
                lies = part.buffer is buffer and part.channel == channel
                where = id(buffer), channel, part.shape[1]
                if not lies and where not in copied:
                    copied.add(where)
                    y = Value(part.shape, part.dtype, buffer=buffer, channel=channel)
                    y.begin, y.end = step.y.begin, step.y.begin
                    yield Copy(part, y)
                channel += part.shape[1]


def arrange(buffers: Sequence[Buffer], sizes: Sequence[int]) -> tuple[list[int], int]:
    """The offsets of buffers of these bytes in one arena, the largest first, each at the lowest that is free
    while it is in use; and the bytes of the arena."""
    live: list[list[int]] = [[] for _ in range(1 + max((buffer.end for buffer in buffers), default=0))]
    offsets = [0] * len(buffers)
    total = 0
    for i in sorted(range(len(buffers)), key=lambda i: -sizes[i]):
        while_in_use = live[buffers[i].begin : buffers[i].end + 1]
        offset = 0
        for other in sorted({j for step in while_in_use for j in step}, key=offsets.__getitem__):
            if offsets[other] - offset >= sizes[i]:
                break
            offset = max(offset, _aligned(offsets[other] + sizes[other]))
        offsets[i] = offset
        total = max(total, offset + sizes[i])
        for step in while_in_use:
            step.append(i)
    return offsets, total


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
