# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of a module that run as regions, held against the module; what does not hold is undone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from sr_kernels import config
from sr_kernels.optimizer import graphs, samples
from sr_kernels.optimizer.capture import Capture, capture
from sr_kernels.optimizer.module import assembled
from sr_kernels.optimizer.parity import Parity, Reference
from sr_kernels.optimizer.region import Region, Rewritten, Settings
from sr_kernels.optimizer.report import Report
from sr_kernels.optimizer.samples import Sample


def regions(
    model: nn.Module, tried: Sequence[Sample], settings: Settings, report: Report
) -> dict[str, Region]:
    """By dotted path, every part that runs by kernels of the library and computes the same."""
    captured = capture(model)
    report.left.update(_left(captured))
    parts = dict(captured.regions())
    inside = [path for path in parts if path]
    calls = samples.seen_inside(model, inside, tried) if inside else {}
    calls[""] = list(tried)
    found = {}
    for path, part in parts.items():
        region = _region(model.get_submodule(path), part, calls[path], settings, report, path)
        if region is not None:
            found[path] = region
    if found:
        reference = Reference(model, tried)
        report.parity = reference.compare(assembled(model, found))
        if not report.parity.holds:
            found = _mended(model, found, parts, calls, report)
            report.parity = reference.compare(assembled(model, found)) if found else None
        if report.parity is not None and not report.parity.holds:
            report.undone["all rewrites"] = report.parity.text
            found = {}
    return found


def _left(captured: Capture, prefix: str = "") -> dict[str, str]:
    """Why the parts without a graph have none, by dotted path."""
    found = {prefix: captured.reason} if captured.graph is None and captured.reason else {}
    for path, inner in captured.inner.items():
        found |= _left(inner, f"{prefix}.{path}" if prefix else path)
    return found


def _region(
    module: nn.Module, part: Capture, calls: Sequence[Sample], settings: Settings, report: Report, path: str
) -> Region | None:
    """The region of a part; None where no kernel of ours would run, or it has none after all."""
    if not calls:
        report.left[path] = "it was not called"
        return None
    try:
        rewritten = _rewritten(module, part, calls)
    except graphs.Refused as refusal:
        report.left[path] = str(refusal)
        return None
    except Exception as error:  # whatever a module may do: it runs as it did, and the report says so
        report.left[path] = f"{type(error).__name__}: {error}"
        return None
    return Region(rewritten, settings, part.fixed) if rewritten.is_worthwhile(whole=not path) else None


def _rewritten(
    module: nn.Module, part: Capture, calls: Sequence[Sample], disabled: frozenset[str] = frozenset()
) -> Rewritten:
    assert part.graph is not None
    inputs = [graphs.bind(part.graph, module.forward, call) for call in calls]
    return Rewritten(part.graph, module, inputs, disabled)


def _mended(
    model: nn.Module,
    found: dict[str, Region],
    parts: dict[str, Capture],
    calls: dict[str, list[Sample]],
    report: Report,
) -> dict[str, Region]:
    """The regions without what makes one differ from its module by more than is allowed."""
    kept = {}
    for path, region in found.items():
        module = model.get_submodule(path)
        reference = Reference(module, calls[path])
        parity = reference.compare(assembled(module, {"": region}))
        if parity.holds:
            kept[path] = region
            continue
        better = _without(module, parts[path], calls[path], region, reference, parity, report, path)
        if better is not None:
            kept[path] = better
    return kept


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
        strict = Region(
            region.rewritten, dataclasses.replace(region.settings, precision="highest"), part.fixed
        )
        if reference.compare(assembled(module, {"": strict})).holds:
            report.undone[f"kernels of precision high{where}"] = f"{parity.text}; those of highest run"
            return strict
    for name, count in reversed(region.rewritten.counts.items()):
        if not count:
            continue
        rewritten = _rewritten(module, part, calls, frozenset({name}))
        other = Region(rewritten, region.settings, part.fixed)
        if reference.compare(assembled(module, {"": other})).holds:
            report.undone[f"{name}{where}"] = parity.text
            return other
    report.undone[f"all rewrites{where}"] = parity.text
    return None
