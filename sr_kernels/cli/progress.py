# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A bar on a terminal, plain lines now and then elsewhere; both on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Protocol

_LINE_EVERY = 5.0  # seconds


class Update(Protocol):
    """How far a piece of work has come."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Progress:
    """Counts units of one piece of work, a picture's tiles or a training's steps, and, where there are
    several pictures, pictures. still: drawn when a unit is done and at no other time, for what is timed."""

    def __init__(self, pictures: int = 1, unit: str = "tiles", still: bool = False) -> None:
        self.pictures, self.unit, self.still = pictures, unit, still
        self.bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[note]}"),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                auto_refresh=not self.still,
                redirect_stdout=sys.stdout.isatty(),  # else results meant for a file would end on stderr
            )
            self.whole = self.bar.add_task(
                "pictures", total=self.pictures, visible=self.pictures > 1, note=""
            )
            self.units = self.bar.add_task(self.unit, total=None, note="")
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def watch(self, name: str) -> Update:
        """The callback for one piece of work: called with the units done, their total, and a short note."""
        if not self.bar:
            return _Lines(name, self.unit)
        bar, units, still = self.bar, self.units, self.still

        def update(done: int, total: int, note: str = "") -> None:
            bar.update(units, description=name, completed=done, total=total, note=note, refresh=still)

        return update

    def next_picture(self) -> None:
        """One picture more is done with."""
        if self.bar:
            self.bar.advance(self.whole)


class _Lines:
    def __init__(self, name: str, unit: str) -> None:
        self.name, self.unit = name, unit
        self.last = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if done < total and now - self.last >= _LINE_EVERY:
            self.last = now
            line = f"{self.name}: {done} of {total} {self.unit}  {note}".rstrip()
            print(line, file=sys.stderr, flush=True)
