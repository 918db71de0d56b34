# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A run as Markdown, and the marked blocks of the documents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sr_kernels.bench.results import CaseResult, Run
from sr_kernels.bench.tables import (
    GROUPS,
    TITLES,
    against,
    errors,
    notes,
    provenance,
    rates,
    slower,
    summary,
    targets,
    timed_peers,
)  # fmt: skip


def markdown(run: Run, brief: bool = False) -> str:
    """The tables as Markdown; brief: the networks alone, without kernels."""
    if brief:
        cases = [case for case in run.cases if case.group == "network"]
        return "\n\n".join([_grid(cases, brief), f"{provenance(run)} Reproduce: `make bench`."])
    parts = [
        f"### {title}\n\n{_grid(cases, brief)}"
        for group, title in GROUPS.items()
        if (cases := [case for case in run.cases if case.group == group])
    ]
    lists = [
        "\n".join(f"- {line}" for line in lines) for lines in (targets(run), slower(run), notes(run)) if lines
    ]
    return "\n\n".join([provenance(run), *parts, *lists])


def _grid(cases: Sequence[CaseResult], brief: bool) -> str:
    peers = timed_peers(cases)
    names = ["case", "ours, ms", *(TITLES.get(peer, peer) for peer in peers)]
    names += [] if brief else ["GFLOP/s", "error ours / eager", "kernels"]
    rows = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for case in cases:
        _, time, rate = rates(case)
        cells = [case.name, time, *(against(case, peer) for peer in peers)]
        cells += [] if brief else [rate, errors(case), summary(case.kernels)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


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
