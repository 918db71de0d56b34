# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of a module that run as regions, held against the module; what does not hold is undone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from sr_kernels import config
from sr_kernels.optimizer import samples
from sr_kernels.optimizer.graph import graphs
from sr_kernels.optimizer.graph.capture import Capture, capture, inside
from sr_kernels.optimizer.module import assembled
from sr_kernels.optimizer.proof import timing
from sr_kernels.optimizer.proof.parity import Reference
from sr_kernels.optimizer.region import Region, Rewritten, Settings
from sr_kernels.optimizer.report import ALL_REWRITES, Parity, Report
from sr_kernels.optimizer.samples import Sample


def regions(
    model: nn.Module,
    tried: Sequence[Sample],
    large: Sequence[Sample],
    settings: Settings,
    report: Report,
    *,
    whole: bool = True,
) -> dict[str, Region]:
    """By dotted path, every part that runs by kernels of the library and computes the same.

    tried: samples that are held against float64; large: such that are held against the model alone; whole:
    whether the model itself may be such a part.
    """
    captured = capture(model, samples.optional(model, tried)) if whole else Capture(None, inner=inside(model))
    report.left.update(_left(captured))
    proof = _Proof(model, tried, settings, report)
    timed = (*large, *tried)[0]
    found = timing.gainful(model, proof.regions(captured.regions()), timed, report)
    if not found:
        return {}
    reference = Reference(model, tried, large)
    report.parity = reference.compare(assembled(model, found))
    while found and not report.parity.holds:
        found, further = proof.mended(found)
        if further:
            found |= timing.gainful(model, proof.regions(further), timed, report)
        report.parity = reference.compare(assembled(model, found))
        if not further:
            break
    if found and not report.parity.holds:  # what holds part by part, and on small pictures, may still add up
        found = {path: _strict(region) for path, region in found.items()}
        why, report.parity = report.parity.text, reference.compare(assembled(model, found))
        if report.parity.holds:
            report.undone["kernels of precision high"] = f"{why}; those of highest run"
    if not report.parity.holds:
        report.undone[ALL_REWRITES] = report.parity.text
        return {}
    return found


class _Proof:
    """Makes regions of a model's parts, and finds out what is wrong with one."""

    def __init__(self, model: nn.Module, tried: Sequence[Sample], settings: Settings, report: Report) -> None:
        self.model, self.tried, self.settings, self.report = model, tried, settings, report
        self.parts: dict[str, Capture] = {}
        self.calls: dict[str, list[Sample]] = {}

    def regions(self, parts: Iterable[tuple[str, Capture]]) -> dict[str, Region]:
        """The regions of parts; of one that cannot be one, those of the parts inside."""
        found = {}
        waiting = _distinct(self.model, parts, self.parts)
        while waiting:
            self.calls |= samples.seen_inside(self.model, list(waiting), self.tried)
            self.parts |= waiting
            further: list[tuple[str, Capture]] = []
            for path, part in waiting.items():
                module = self.model.get_submodule(path)
                try:
                    region = _region(module, part, self.calls[path], self.settings, self.report, path)
                except _Left as reason:
                    self.report.left[path] = str(reason)
                    further += _inside(module, path) if reason.look_inside else ()
                    continue
                if region is not None:
                    found[path] = region
            waiting = _distinct(self.model, further, self.parts)
        return found

    def mended(self, found: dict[str, Region]) -> tuple[dict[str, Region], list[tuple[str, Capture]]]:
        """The regions without what makes one differ from its module by more than is allowed, and the parts
        inside those that go."""
        kept = {}
        further: list[tuple[str, Capture]] = []
        for path, region in found.items():
            module = self.model.get_submodule(path)
            reference = Reference(module, self.calls[path])
            parity = reference.compare(assembled(module, {"": region}))
            if parity.holds:
                kept[path] = region
                continue
            part, calls = self.parts[path], self.calls[path]
            better = _without(module, part, calls, region, reference, parity, self.report, path)
            if better is not None:
                kept[path] = better
            else:
                further += _inside(module, path)
        return kept, further


def _inside(module: nn.Module, path: str) -> Iterator[tuple[str, Capture]]:
    return Capture(None, inner=inside(module)).regions(path)


def _distinct(
    model: nn.Module, parts: Iterable[tuple[str, Capture]], known: Iterable[str] = ()
) -> dict[str, Capture]:
    """Those of modules that stand under none of the known paths; a module that has several paths once."""
    seen = {id(model.get_submodule(path)) for path in known}
    found = {}
    for path, part in parts:
        key = id(model.get_submodule(path))
        if key not in seen:
            seen.add(key)
            found[path] = part
    return found


def _left(captured: Capture, prefix: str = "") -> dict[str, str]:
    """Why the parts without a graph have none, by dotted path."""
    found = {prefix: captured.reason} if captured.graph is None and captured.reason else {}
    for path, inner in captured.inner.items():
        found |= _left(inner, f"{prefix}.{path}" if prefix else path)
    return found


class _Left(Exception):
    """Why a part that has a graph stays as it is."""

    def __init__(self, reason: str, look_inside: bool) -> None:
        super().__init__(reason)
        self.look_inside = look_inside


def _region(
    module: nn.Module, part: Capture, calls: Sequence[Sample], settings: Settings, report: Report, path: str
) -> Region | None:
    """The region of a part; None where no kernel of ours would run. Raises _Left."""
    if not calls:
        raise _Left("it was not called", look_inside=False)
    try:
        rewritten = _rewritten(module, part, calls, report=report, path=path)
        return Region(rewritten, settings, part.fixed) if rewritten.ours() else None
    except graphs.Refused as refusal:
        raise _Left(str(refusal), look_inside=True) from None
    except Exception as error:  # whatever a module may do: it runs as it did, and the report says so
        raise _Left(f"{type(error).__name__}: {error}", look_inside=True) from None


def _rewritten(
    module: nn.Module,
    part: Capture,
    calls: Sequence[Sample],
    disabled: frozenset[str] = frozenset(),
    report: Report | None = None,
    path: str = "",
) -> Rewritten:
    """The part's graph without the rewrites of these names, nor those that fail, told to the report."""
    assert part.graph is not None
    inputs = [graphs.bind(part.graph, module.forward, call) for call in calls]
    while True:
        try:
            return Rewritten(part.graph, module, inputs, disabled)
        except graphs.Broken as broken:
            if broken.name in disabled:
                raise
            disabled |= {broken.name}
            if report is not None:
                report.undone[f"{broken.name} in {path}" if path else broken.name] = broken.reason


def _strict(region: Region) -> Region:
    settings = dataclasses.replace(region.settings, precision="highest")
    return Region(region.rewritten, settings, region.fixed)


def _without(
    module: nn.Module,
    part: Capture,
    calls: Sequence[Sample],
    region: Region,
    reference: Reference,
    parity: Parity,
    report: Report,
    path: str,
) -> Region | None:
    """The region at precision "highest", or else without the one rewrite that is at fault; None where neither
    helps."""
    where = f" in {path}" if path else ""
    if (region.settings.precision or config.get_precision()) != "highest":
        strict = _strict(region)
        if reference.compare(assembled(module, {"": strict})).holds:
            report.undone[f"kernels of precision high{where}"] = f"{parity.text}; those of highest run"
            return strict
    names = [name for name, count in reversed(region.rewritten.counts.items()) if count]
    # each by itself, then more and more of them
    for at_fault in [*([name] for name in names), *(names[: i + 1] for i in range(1, len(names)))]:
        rewritten = _rewritten(module, part, calls, region.rewritten.disabled.union(at_fault))
        other = Region(rewritten, region.settings, part.fixed)
        if reference.compare(assembled(module, {"": other})).holds:
            report.undone.update({f"{name}{where}": parity.text for name in at_fault})
            return other
    report.undone[f"{ALL_REWRITES}{where}"] = parity.text
    return None
