# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a contender is, and what it makes of a problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from sr_kernels.bench.problem import Problem


@dataclass(frozen=True)
class Call:
    """What is timed, and what a reader must know of it."""

    run: Callable[[], Tensor]
    note: str = ""

    def __call__(self) -> Tensor:
        return self.run()


@dataclass(frozen=True)
class Contender:
    """Ours or a peer.

    build(problem) makes what is timed, or several variants, of which the first with parity is taken.
    missing() is why it cannot run on this machine, "" where it can. prepare(problem) writes the files that it
    reads, which is not timed. precision: of its arithmetic, "fp32" or "bf16", or "medium" of ours. whole: it
    runs whole networks only.
    """

    name: str
    title: str
    build: Callable[[Problem], Call | Iterable[Call]]
    missing: Callable[[], str] = lambda: ""
    precision: str = "fp32"
    whole: bool = False
    prepare: Callable[[Problem], object] = lambda problem: None
