# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks.optimize: what sr_kernels.optimize makes of networks as they are found."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import public, report, span
from sr_kernels import create, optimize
from sr_kernels.bench import machine, plain

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "optimize-cpu.json"
DOCUMENT, README = ROOT / "docs" / "optimize.md", ROOT / "README.md"
SIDE = 64  # pixels of the picture; the batch is one
_ROUNDS = (3, 15)
_BESIDE = "beside our own"
OWN = {
    "srvgg (ours)": ("srvgg", {}),
    "espcn (ours)": ("espcn", {}),
    "fsrcnn (ours)": ("fsrcnn", {}),
    "edsr (ours)": ("edsr", {}),
    "rrdbnet (ours, 3 blocks)": ("rrdbnet", {"num_block": 3}),
}


@dataclass(frozen=True)
class Row:
    """One network; milliseconds, medians of interleaved rounds. ratio: to the faster eager."""

    name: str
    shape: tuple[int, ...]
    captured: str  # "whole", or how many parts
    ours_of: tuple[int, int]  # operations by fused kernels, all in what was captured
    parity: str
    seconds: float  # that optimize took
    eager: float
    eager_channels_last: float
    ours: float
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times as fast as the faster eager."""
        return min(self.eager, self.eager_channels_last) / self.ours


@dataclass(frozen=True)
class Pair:
    """A network as a user of PyTorch alone writes it, optimised, and the library's own form of it;
    milliseconds, medians of interleaved rounds."""

    name: str
    shape: tuple[int, ...]
    optimised: float
    own: float

    @property
    def ratio(self) -> float:
        """How many times as fast as the library's own form."""
        return self.own / self.optimised


def pairs() -> dict[str, Callable[[], tuple[nn.Module, nn.Module]]]:
    """The networks of both forms, by name, with the same weights."""
    kinds = {"SRVGG 64f/16 x4": "srvgg", "EDSR-baseline x4": "edsr", "RRDBNet-23 x4": "rrdbnet"}
    return {**{name: partial(_pair, name, kind) for name, kind in kinds.items()}, "SPAN 48f x4": _span}


def _pair(name: str, kind: str) -> tuple[nn.Module, nn.Module]:
    network, own = public.plain_networks()[name], create(kind)
    own.load_state_dict(network.state_dict())
    return network, plain.frozen(own)


def _span() -> tuple[nn.Module, nn.Module]:
    network = span.SPAN()
    plain.frozen(plain.kaiming_(network))
    return network, plain.frozen(span.SpanOfOurs(network))


def networks() -> dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]]:
    """What is measured, by name: a module and its inputs."""
    found: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {}
    for name, network in public.plain_networks().items():
        found[name] = lambda network=network: (network, _picture(network))  # type: ignore[misc]
    for name, (kind, sizes) in OWN.items():
        found[name] = lambda kind=kind, sizes=sizes: _own(kind, sizes)  # type: ignore[misc]
    if public.installed():
        for entry in public.PUBLIC:
            found[f"{entry.package}/{entry.name}"] = lambda e=entry: (e.build(), e.inputs(SIDE))  # type: ignore[misc]
    return found


def _own(kind: str, sizes: Mapping[str, Any]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    network = plain.frozen(plain.kaiming_(create(kind, **sizes)))
    return network, _picture(network)


def _picture(network: nn.Module) -> tuple[Tensor, ...]:
    channels = next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels
    return (torch.rand((1, channels, SIDE, SIDE), generator=torch.Generator("cpu").manual_seed(1)),)


def measured(name: str, network: nn.Module, inputs: tuple[Tensor, ...], seconds: float) -> Row:
    """Optimises a network, and times it beside itself."""
    start = time.perf_counter()
    fast = optimize(network, inputs)
    took = time.perf_counter() - start
    told = fast.report()
    last = tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)
    runs = {"eager": (network, inputs), "last": (network, last), "ours": (fast, inputs), "fast": (fast, last)}
    medians = _medians(runs, seconds)
    regions = told.regions
    captured = "-" if not regions else "whole" if [r[0] for r in regions] == [""] else str(len(regions))
    parity = "-" if told.parity is None else f"{told.parity.ours:.1e} / {told.parity.eager:.1e}"
    return Row(
        name,
        tuple(inputs[0].shape),
        captured,
        (sum(ours for _, _, ours in regions), sum(calls for _, calls, _ in regions)),
        parity,
        took,
        medians["eager"],
        medians["last"],
        min(medians["ours"], medians["fast"]),
        next(iter(told.undone.values()), next(iter(told.notes), "")) if not regions else "",
    )


def compared(name: str, network: nn.Module, own: nn.Module, seconds: float) -> Pair:
    """Optimises a network, and times it beside the library's own form."""
    inputs = _picture(network)
    medians = _medians({"optimised": (optimize(network, inputs), inputs), "own": (own, inputs)}, seconds)
    return Pair(name, tuple(inputs[0].shape), medians["optimised"], medians["own"])


def _medians(runs: Mapping[str, tuple[nn.Module, tuple[Tensor, ...]]], seconds: float) -> dict[str, float]:
    """Milliseconds of each call, of interleaved rounds."""
    times: dict[str, list[float]] = {key: [] for key in runs}
    begin = time.perf_counter()
    with torch.inference_mode():
        for i in range(1 + _ROUNDS[1]):
            if i > _ROUNDS[0] and time.perf_counter() - begin > seconds:
                break
            for key, (module, arguments) in runs.items():
                start = time.perf_counter()
                module(*arguments)
                if i:
                    times[key].append((time.perf_counter() - start) * 1e3)
    return {key: statistics.median(found) for key, found in times.items()}


def own_markdown(found: Mapping[str, Any]) -> str:
    """The table of the optimised beside the library's own."""
    rows = []
    for entry in found["pairs"]:
        pair = Pair(**entry)
        rows.append([pair.name, f"{pair.optimised:.2f}", f"{pair.own:.2f}", f"{pair.ratio:.2f}x"])
    heads = ["network", "plain, optimised, ms", "the library's own", "ratio"]
    return "\n\n".join([report.grid(heads, rows), _caption(found)])


def markdown(found: Mapping[str, Any]) -> str:
    """The table, from what the file of results holds."""
    heads = ["network", "captured", "ops ours / all", "error ours / eager", "eager, ms", "channels_last"]
    rows = []
    for entry in found["rows"]:
        row = Row(**{**entry, "ours_of": tuple(entry["ours_of"])})
        ours, calls = row.ours_of
        cells = [row.name, row.captured, f"{ours} / {calls}" if calls else "-", row.parity]
        times = [f"{t:.2f}" for t in (row.eager, row.eager_channels_last)]
        # what was left alone is the module itself: a ratio would be noise
        rows.append([*cells, *times, *([f"{row.ours:.2f}", f"{row.ratio:.2f}x"] if calls else ["-", "-"])])
    return "\n\n".join([report.grid([*heads, "ours", "ratio"], rows), _caption(found)])


def _caption(found: Mapping[str, Any]) -> str:
    where = found["environment"]
    return (
        f"{where['processor']}, {found['threads']} threads, PyTorch {where['torch']}, float32, one picture "
        f"of {SIDE}x{SIDE} pixels; medians of interleaved rounds. Reproduce: `make bench-optimize`."
    )


# What the README shows: networks that people use, by name.
_KNOWN = (
    "SRVGG",
    "EDSR",
    "RRDBNet-23",
    "FSRCNN",
    "SPAN/",
    "RCAN/",
    "DnCNN/",
    "RealCUGAN/UpCunet2x",
    "SwinIR/",
)


def brief(found: Mapping[str, Any]) -> str:
    """The README's table."""
    rows = [e for e in found["rows"] if e["name"].startswith(_KNOWN)]
    cells = []
    for entry in rows:
        row = Row(**{**entry, "ours_of": tuple(entry["ours_of"])})
        times = [f"{t:.1f}" for t in (row.eager, row.eager_channels_last, row.ours)]
        cells.append([row.name, *times, f"{row.ratio:.2f}x"])
    heads = ["network as it is found", "eager, ms", "channels_last", "optimised", "ratio"]
    return "\n\n".join([report.grid(heads, cells), _caption(found)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what is asked for and merges it into the results; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimize", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="networks with one of these")
    parser.add_argument("--missing", action="store_true", help="only those that the results lack")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which no further one is begun")
    parser.add_argument("--seconds", type=float, default=1.5, help="of timing one network")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="name the networks")
    parser.add_argument(
        "--readme",
        action="store_true",
        help="write the tables of docs/optimize.md and the README, time nothing",
    )
    args = parser.parse_args(arguments)
    if args.readme:
        found = json.loads(RESULTS.read_text())
        report.fill(DOCUMENT, "optimize", markdown(found))
        report.fill(DOCUMENT, "optimize-own", own_markdown(found))
        report.fill(README, "optimize", brief(found))
        return 0
    chosen = {name: make for name, make in networks().items() if _wanted(name, args.only)}
    beside = {name: make for name, make in pairs().items() if _wanted(f"{name} {_BESIDE}", args.only)}
    if args.list:
        print("\n".join([*chosen, *(f"{name} {_BESIDE}" for name in beside)]))
        return 0
    threads = machine.set_threads(args.threads)
    machine.keep_pages()
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known, other = ({e["name"]: e for e in before.get(key, [])} for key in ("rows", "pairs"))
    begin = time.monotonic()
    for name, make in chosen.items():
        if args.missing and name in known:
            continue
        if time.monotonic() - begin > 60 * args.minutes:
            print(f"left for the next run: {name} and what follows", file=sys.stderr)
            return 0
        row = measured(name, *make(), args.seconds)
        print(f"{name}: {row.captured}, {row.ours_of}, {row.ratio:.2f}x, {row.seconds:.1f} s {row.note}")
        known[name] = asdict(row)
        _write(known, other, threads)
    for name, build in beside.items():
        if args.missing and name in other:
            continue
        pair = compared(name, *build(), args.seconds)
        print(f"{name} {_BESIDE}: {pair.optimised:.2f} and {pair.own:.2f} ms, {pair.ratio:.2f}x")
        other[name] = asdict(pair)
        _write(known, other, threads)
    return 0


def _wanted(name: str, texts: Sequence[str]) -> bool:
    return not texts or any(text.lower() in name.lower() for text in texts)


def _write(known: Mapping[str, Any], other: Mapping[str, Any], threads: int) -> None:
    order = list(networks())
    rows = sorted(known.values(), key=lambda e: order.index(e["name"]) if e["name"] in order else len(order))
    beside = [other[name] for name in pairs() if name in other]
    found = {"environment": machine.environment(), "threads": threads, "rows": rows, "pairs": beside}
    text = json.dumps(found, indent=1)
    part = RESULTS.with_suffix(".part")
    part.write_text(text + "\n")
    part.replace(RESULTS)


if __name__ == "__main__":
    sys.exit(main())
