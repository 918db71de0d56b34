# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A bar on a terminal, plain lines now and then elsewhere; both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

_LINE_EVERY = 5.0  # seconds


class Progress:
    """Counts tiles within a picture and, where there are several, pictures."""

    def __init__(self, pictures: int = 1) -> None:
        self.pictures = pictures
        self.bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # else results meant for a file would end on stderr
            )
            self.whole = self.bar.add_task("pictures", total=self.pictures, visible=self.pictures > 1)
            self.tiles = self.bar.add_task("tiles", total=None)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def watch(self, name: str) -> Callable[[int, int], None]:
        """The callback for one picture: called with the tiles done and their total."""
        if not self.bar:
            return _Lines(name)
        bar, tiles = self.bar, self.tiles

        def update(done: int, total: int) -> None:
            bar.update(tiles, description=name, completed=done, total=total)

        return update

    def next_picture(self) -> None:
        """One picture more is done with."""
        if self.bar:
            self.bar.advance(self.whole)


class _Lines:
    def __init__(self, name: str) -> None:
        self.name = name
        self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self.last >= _LINE_EVERY:
            self.last = now
            print(f"{self.name}: {done} of {total} tiles", file=sys.stderr, flush=True)
