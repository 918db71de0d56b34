# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A run as Markdown, and the marked blocks of the documents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import EAGER
from sr_kernels.bench.results import OURS, CaseResult, Run
from sr_kernels.bench.tables import (
    GROUPS,
    TITLES,
    against,
    costs,
    errors,
    mediums,
    milliseconds,
    notes,
    provenance,
    rates,
    slower,
    summary,
    targets,
    timed_peers,
)  # fmt: skip


def markdown(run: Run, brief: bool = False) -> str:
    """The tables as Markdown; brief: the networks beside eager and the fastest peers alone."""
    if brief:
        cases = [case for case in run.cases if case.group == "network"]
        return "\n\n".join([_brief(cases), f"{provenance(run)} Reproduce: `make bench`."])
    parts = []
    for group, title in GROUPS.items():
        if cases := [case for case in run.cases if case.group == group]:
            parts.append(f"### {title}\n\n{_times(cases)}")
            if any(result.peak_mib is not None for case in cases for result in case.results.values()):
                parts.append(
                    f"Seconds to build + of the first call; MiB that a call takes:\n\n{_costs(cases)}"
                )
    found = targets(run), mediums(run), slower(run), notes(run)
    lists = ["\n".join(f"- {line}" for line in lines) for lines in found if lines]
    return "\n\n".join([provenance(run), *parts, *lists])


def _brief(cases: Sequence[CaseResult]) -> str:
    heads = ["case", "ours, ms", *(TITLES[peer] for peer in EAGER)]
    rows = [
        [case.name, milliseconds(case.results[OURS]), *(against(case, p) for p in EAGER)] for case in cases
    ]
    for precision, title in (("fp32", "fastest float32 peer"), ("bf16", "fastest bf16 peer")):
        if any(case.fastest(case.of(precision)) for case in cases):
            heads.append(title)
            rows = [[*row, _best(case, precision)] for row, case in zip(rows, cases, strict=True)]
    return grid(heads, rows)


def _best(case: CaseResult, precision: str) -> str:
    found = case.fastest(case.of(precision))
    return f"{TITLES.get(found[0], found[0])} {against(case, found[0])}" if found else "-"


def _times(cases: Sequence[CaseResult]) -> str:
    peers = timed_peers(cases)
    heads = ["case", "ours, ms", *(TITLES.get(peer, peer) for peer in peers)]
    heads += ["GFLOP/s", "error ours / eager", "kernels"]
    rows = []
    for case in cases:
        _, time, rate = rates(case)
        cells = [case.name, time, *(against(case, peer) for peer in peers)]
        rows.append([*cells, rate, errors(case), summary(case.kernels)])
    return grid(heads, rows)


def _costs(cases: Sequence[CaseResult]) -> str:
    names = [OURS, *timed_peers(cases)]
    rows = [[case.name, *(costs(case.results.get(name)) for name in names)] for case in cases]
    return grid(["case", *(TITLES.get(name, name) for name in names)], rows)


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


def quality() -> str:
    """The held-out table of the shipped weights as Markdown, computed now."""
    from sr_kernels import models
    from sr_kernels.train.evaluate import evaluate, mean

    rows = ["| scale | bicubic | ours | gain |", "|---|---|---|---|"]
    for scale in (2, 4):
        score = mean(evaluate(models.embedded(scale), scale))
        rows.append(
            f"| x{scale} | {score.bicubic_psnr:.2f} dB, {score.bicubic_ssim:.4f} "
            f"| {score.model_psnr:.2f} dB, {score.model_ssim:.4f} | {score.gain:+.2f} dB |"
        )
    return "\n".join(rows)


def fill(path: Path, block: str, text: str) -> bool:
    """Puts text between the marks <!-- block:start --> and <!-- block:end --> of a file; whether it changed.

    Raises ValueError where the file has no such marks.
    """
    before = path.read_text()
    pattern = re.compile(rf"(<!-- {block}:start -->\n).*?(<!-- {block}:end -->)", re.DOTALL)
    if not pattern.search(before):
        raise ValueError(f"{path} has no block between <!-- {block}:start --> and <!-- {block}:end -->")
    after = pattern.sub(lambda match: f"{match[1]}{text}\n{match[2]}", before)
    if after != before:
        path.write_text(after)
    return after != before


def filled(path: Path, block: str) -> str:
    """What stands between the marks now."""
    match = re.search(rf"<!-- {block}:start -->\n(.*?)\n?<!-- {block}:end -->", path.read_text(), re.DOTALL)
    if match is None:
        raise ValueError(f"{path} has no block {block}")
    return match[1]
