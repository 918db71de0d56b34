# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What optimize did, in words and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sr_kernels.optimizer.region import Region

ALL_REWRITES = "all rewrites"  # under which is told why nothing of a module, or of a part, is left
_NAMED = 8  # of what PyTorch computes


@dataclass(frozen=True)
class Parity:
    """Errors of the output that comes closest to its limit, relative to its root mean square."""

    ours: float  # largest error, or difference from eager where there is no reference
    eager: float
    limit: float  # what the largest error may be
    exact: bool  # held against float64
    holds: bool  # largest and root-mean-square errors within their limits
    text: str  # the first thing that does not hold


@dataclass(frozen=True)
class Timing:
    """The shortest of interleaved runs, which other load disturbs least, milliseconds."""

    shape: tuple[int, ...]
    eager: float
    eager_channels_last: float
    ours: float

    @property
    def ratio(self) -> float:
        """How many times as fast as the faster eager."""
        return min(self.eager, self.eager_channels_last) / self.ours


@dataclass
class Report:
    """What was fused (by rewrite, how often), what was left as it was and why, parity and time.

    `str(report)` is a page of text.
    """

    name: str
    fused: dict[str, int] = field(default_factory=dict)
    regions: list[tuple[str, int, int]] = field(default_factory=list)  # path, calls, of which ours
    others: dict[str, int] = field(default_factory=dict)  # operations that PyTorch computes in them
    left: dict[str, str] = field(default_factory=dict)  # path -> why it was not captured
    undone: dict[str, str] = field(default_factory=dict)  # rewrite -> why it was undone
    parity: Parity | None = None
    time: Timing | None = None
    notes: list[str] = field(default_factory=list)

    def tell(self, regions: Mapping[str, Region]) -> None:
        """What runs in the end."""
        self.regions, self.fused, self.others = [], {}, {}
        for path, region in regions.items():
            rewritten = region.rewritten
            others = rewritten.others()
            self.regions.append((path, rewritten.ours() + others.total(), rewritten.ours()))
            for name, count in others.items():
                self.others[name] = self.others.get(name, 0) + count
            for name, count in rewritten.counts.items():
                if count:
                    self.fused[name] = self.fused.get(name, 0) + count

    def __str__(self) -> str:
        lines = [f"{self.name}: " + _summary(self)]
        lines += [f"  {note}" for note in self.notes]
        if self.fused:
            lines.append("fused")
            lines += [f"  {count:5} x {name}" for name, count in self.fused.items()]
        if self.others:
            most = sorted(self.others.items(), key=lambda item: -item[1])
            names = ", ".join(f"{count} x {name}" for name, count in most[:_NAMED])
            lines.append(f"between them by PyTorch: {names}{', ...' if len(most) > _NAMED else ''}")
        if self.left:
            lines.append("left as it was")
            lines += [f"  {path or 'the module itself'}: {why}" for path, why in _grouped(self.left)]
        if self.undone:
            lines.append("undone")
            lines += [f"  {name}: {why}" for name, why in self.undone.items()]
        if self.parity is not None and self.regions:
            p = self.parity
            against = "against float64" if p.exact else "against eager"
            lines.append(
                f"parity: largest error {p.ours:.1e} of the output's RMS {against}, eager {p.eager:.1e}, "
                f"allowed {p.limit:.1e}"
            )
        if self.time is not None and self.regions:
            t = self.time
            lines.append(
                f"time: {t.ours:.2f} ms for {tuple(t.shape)}, eager {t.eager:.2f}, channels_last "
                f"{t.eager_channels_last:.2f} ms: {t.ratio:.2f}x"
            )
        return "\n".join(lines)


def _summary(report: Report) -> str:
    if not report.regions:
        return "nothing was optimised"
    calls = sum(calls for _, calls, _ in report.regions)
    ours = sum(ours for _, _, ours in report.regions)
    paths = [path for path, _, _ in report.regions]
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    places = "as a whole" if paths == [""] else f"in parts ({', '.join(paths[:3])}{more})"
    return f"optimised {places}, {ours} of {calls} operations by fused kernels"


def _grouped(left: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    """Paths with one reason, three of them named."""
    by_reason: dict[str, list[str]] = {}
    for path, why in left.items():
        by_reason.setdefault(why, []).append(path or "the module itself")
    found = []
    for why, paths in by_reason.items():
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        found.append((", ".join(paths[:3]) + more, why))
    return found
