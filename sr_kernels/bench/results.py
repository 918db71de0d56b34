# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run found: times, errors and the ratios that follow from them; to JSON and back."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sr_kernels.bench.problem import Target

SCHEMA = 2
OURS = "ours"
MEDIUM = "ours_medium"  # ours under precision "medium", beside ours and the peers
_ROUNDING = 2.0**-24  # of float32, relative


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call over interleaved rounds."""

    median: float
    q1: float
    q3: float
    rounds: int
    calls: int  # a round's sample is the mean of so many calls

    @classmethod
    def of(cls, seconds: Sequence[float], calls: int) -> Timing:
        """Of one sample a round, each the seconds of a call. Raises ValueError for none."""
        if not seconds:
            raise ValueError("no samples to take a median of")
        samples = [1e3 * s for s in seconds]
        q1, median, q3 = (
            statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
        )
        return cls(median, q1, q3, len(samples), calls)


@dataclass(frozen=True)
class Error:
    """Largest and RMS difference from float64, in units of the exact result's RMS."""

    largest: float
    rms: float


@dataclass(frozen=True)
class Result:
    """One contender on one case; `note` says why there is no time, or what the time is of."""

    timing: Timing | None = None
    error: Error | None = None
    parity: bool = False
    build_seconds: float = 0.0  # exporting, reading, optimising
    first_seconds: float = 0.0  # the first call: packing, compiling
    note: str = ""
    precision: str = "fp32"  # of the arithmetic: fp32, bf16 or ours under "medium"
    peak_mib: float | None = None  # memory of a call in a process of its own, beside inputs and weights
    kernels: tuple[str, ...] = ()  # that ran, where they are known


@dataclass(frozen=True)
class CaseResult:
    """All contenders on one case."""

    name: str
    group: str
    gflop: float
    eager_error: Error  # of PyTorch's two layouts the smaller: what ours is held to
    results: dict[str, Result]
    targets: tuple[Target, ...] = ()
    bf16_error: Error | None = None  # of eager PyTorch in bf16: what bf16 peers are held to
    checked: tuple[int, int] | None = None  # where eager's error was taken, if not at the case's own size

    def time(self, contender: str) -> float | None:
        """Median milliseconds, where there are any."""
        result = self.results.get(contender)
        return result.timing.median if result and result.timing else None

    def ratio(self, peer: str, ours: str = OURS) -> float | None:
        """How many times as fast as the peer ours is; None unless both ran and gave the right result."""
        mine, theirs = self.results.get(ours), self.results.get(peer)
        if not (mine and theirs and mine.parity and theirs.parity and mine.timing and theirs.timing):
            return None
        return theirs.timing.median / mine.timing.median

    @property
    def kernels(self) -> tuple[str, ...]:
        """That ran for ours."""
        return self.results[OURS].kernels

    def of(self, precision: str) -> list[str]:
        """The peers that compute in this precision."""
        return [name for name in self.peers if self.results[name].precision == precision]

    def fastest(self, peers: Sequence[str], ours: str = OURS) -> tuple[str, float] | None:
        """The fastest of the peers and the ratio to it."""
        ratios = {peer: ratio for peer in peers if (ratio := self.ratio(peer, ours)) is not None}
        return min(ratios.items(), key=lambda item: item[1]) if ratios else None

    def clearly_slower(self, peer: str) -> bool:
        """Ours is slower and the quartiles do not overlap."""
        ratio, mine, theirs = self.ratio(peer), self.results[OURS].timing, self.results[peer].timing
        return ratio is not None and mine is not None and theirs is not None and mine.q1 > theirs.q3

    @property
    def peers(self) -> list[str]:
        """The contenders that are not ours, under the precision in force."""
        return [name for name in self.results if name != OURS]


@dataclass(frozen=True)
class Run:
    """A whole run: where, how, and every case."""

    environment: dict[str, str]
    settings: dict[str, Any]
    cases: list[CaseResult] = field(default_factory=list)

    def to_json(self) -> str:
        """The run, with the ratios for readers without this module."""
        document = {"schema": SCHEMA, **asdict(self)}
        for entry, case in zip(document["cases"], self.cases, strict=True):
            entry["ratios"] = {peer: case.ratio(peer) for peer in case.peers}
            for precision in ("fp32", "bf16"):
                entry[f"fastest_{precision}"] = case.fastest(case.of(precision))
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Run:
        """The inverse of to_json. Raises ValueError for another schema."""
        document = json.loads(text)
        if document.get("schema") != SCHEMA:
            raise ValueError(
                f"schema is {document.get('schema')!r}, this version reads {SCHEMA}: measure again"
            )
        return cls(document["environment"], document["settings"], [_case(c) for c in document["cases"]])

    @classmethod
    def read(cls, path: Path) -> Run:
        """The run in the file. Raises FileNotFoundError, or ValueError for another schema."""
        return cls.from_json(path.read_text())


def _case(entry: dict[str, Any]) -> CaseResult:
    results = {
        name: Result(
            **{
                **r,
                "timing": Timing(**r["timing"]) if r["timing"] else None,
                "error": Error(**r["error"]) if r["error"] else None,
                "kernels": tuple(r["kernels"]),
            }
        )
        for name, r in entry["results"].items()
    }
    return CaseResult(
        entry["name"],
        entry["group"],
        entry["gflop"],
        Error(**entry["eager_error"]),
        results,
        tuple(Target(t["floor"], tuple(t["against"]), t["aim"]) for t in entry["targets"]),
        Error(**entry["bf16_error"]) if entry["bf16_error"] else None,
        tuple(entry["checked"]) if entry["checked"] else None,
    )


def has_parity(error: Error, eager: Error, peak: float, factor: float) -> bool:
    """Whether an error is at most `factor` times eager PyTorch's, in maximum and in RMS.

    eager is its error in one of its two layouts. One rounding is allowed beside it, for results
    that eager gives exactly; peak is the largest value in units of the result's RMS. NaN never has parity.
    """
    return (
        error.largest <= factor * eager.largest + _ROUNDING * peak
        and error.rms <= factor * eager.rms + _ROUNDING
    )
