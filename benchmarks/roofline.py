# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks.roofline: the layers of networks beside what this machine can multiply and move.

The model is Williams, Waterman and Patterson's (Roofline, 2009): a layer takes at least the time of its
arithmetic at the measured peak, and at least the time of its memory traffic at the measured bandwidth.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.problems import NetworkCase
from sr_kernels.backends import record_kernels
from sr_kernels.backends.base import ConvArgs, DenseBlockArgs
from sr_kernels.bench import machine, peers
from sr_kernels.reference import BASE_MODES

RESULTS = Path(__file__).resolve().parent / "results" / "cpu-roofline.json"
SCHEMA = 1
_BUFFER = 256 << 20  # bytes, far beyond the caches
_PROBE = 64  # pieces of the probe a sample: about a millisecond

# Every kind of layer once or twice, at the sizes of the benchmark.
NETWORKS = (
    NetworkCase("SRVGG 64f/2 x4", 180, 320, sizes=(("num_conv", 2),)),
    NetworkCase("EDSR-baseline x4, 1 block", 180, 320, architecture="edsr", sizes=(("num_block", 1),)),
    NetworkCase("RRDBNet x4, 1 block", 64, 64, architecture="rrdbnet", sizes=(("num_block", 1),)),
    NetworkCase("ESPCN x3", 360, 640, architecture="espcn", scale=3, sizes=(("channels", 3),)),
    NetworkCase("FSRCNN x4", 270, 480, architecture="fsrcnn", channels=1),
)


@dataclass(frozen=True)
class Peak:
    """Multiply-adds from registers, 10^9 floating-point operations a second, the best of many samples."""

    isa: str
    threads: int
    gflops: float


@dataclass(frozen=True)
class Bandwidth:
    """Of memory, 10^9 bytes a second, the best of several; a copy's reads and writes both count."""

    threads: int
    read: float
    write: float
    copy: float


@dataclass(frozen=True)
class Layer:
    """Like layers of a network: the median of their times, and what one of them has to do."""

    network: str
    layer: str
    kernel: str
    count: int
    ms: float
    gflop: float  # of the convolution as PyTorch does it
    multiplied: float  # GFLOP of the multiplications that the kernel does, Winograd's transformed ones
    mib: float  # every input, weight and result once


@dataclass(frozen=True)
class Roofline:
    """Where, how, what the machine can do, and the layers."""

    environment: dict[str, str]
    settings: dict[str, Any]
    peaks: list[Peak]
    bandwidths: list[Bandwidth]
    layers: list[Layer]

    def to_json(self) -> str:
        """All of it, with the fractions for readers without this module."""
        document = {"schema": SCHEMA, **asdict(self)}
        for entry, layer in zip(document["layers"], self.layers, strict=True):
            entry.update(asdict(self.shares(layer)))
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Roofline:
        """What the file holds. Raises FileNotFoundError, or ValueError for another schema."""
        found = json.loads(path.read_text())
        if found.get("schema") != SCHEMA:
            raise ValueError(
                f"{path}: schema is {found.get('schema')!r}, this version reads {SCHEMA}: measure again"
            )
        return cls(
            found["environment"],
            found["settings"],
            [Peak(**peak) for peak in found["peaks"]],
            [Bandwidth(**bandwidth) for bandwidth in found["bandwidths"]],
            [Layer(**{k: entry[k] for k in Layer.__dataclass_fields__}) for entry in found["layers"]],
        )

    @property
    def peak(self) -> float:
        """GFLOP/s at the instruction set and threads with which the layers ran."""
        return next(p.gflops for p in reversed(self.peaks) if p.threads == self.settings["threads"])

    @property
    def copy(self) -> float:
        """GB/s of a copy with as many threads as the layers had."""
        return next(b.copy for b in self.bandwidths if b.threads == self.settings["threads"])

    def shares(self, layer: Layer) -> Shares:
        """What a layer reaches of the two bounds."""
        seconds, bytes_ = layer.ms / 1e3, layer.mib * 2**20
        arithmetic, traffic = layer.multiplied / self.peak, bytes_ / 1e9 / self.copy
        return Shares(
            layer.gflop / seconds,
            layer.gflop / seconds / self.peak,
            arithmetic / seconds,
            traffic / seconds,
            "arithmetic" if arithmetic >= traffic else "memory",
        )


@dataclass(frozen=True)
class Shares:
    """Effective GFLOP/s; fractions of the peak, of the plain and of the done multiplications, and of the
    bandwidth; the bound that asks for more time."""

    gflops: float
    of_peak: float
    of_peak_multiplied: float
    of_bandwidth: float
    bound: str


def markdown(found: Roofline) -> str:
    """The machine in a sentence, and a row for each kind of layer."""
    peaks = ", ".join(f"{p.isa} {p.gflops:.0f} ({p.threads})" for p in found.peaks)
    moved = ", ".join(
        f"read {b.read:.0f}, write {b.write:.0f}, copy {b.copy:.0f} ({b.threads})" for b in found.bandwidths
    )
    heads = ("network", "layer", "kernel", "ms", "GFLOP/s", "of the peak", "of the peak, done", "MiB",
             "of the bandwidth", "bound")  # fmt: skip
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for layer in found.layers:
        s = found.shares(layer)
        name = layer.layer if layer.count == 1 else f"{layer.count} x {layer.layer}"
        reached = (s.of_peak, s.of_peak_multiplied)
        cells = [layer.network, name, layer.kernel, f"{layer.ms:.2f}", f"{s.gflops:.0f}"]
        cells += [
            *(f"{share:.0%}" for share in reached),
            f"{layer.mib:.1f}",
            f"{s.of_bandwidth:.0%}",
            s.bound,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    said = (
        f"{found.environment['processor']}; in brackets the threads. Multiply-adds from registers, GFLOP/s: "
        f"{peaks}. Memory, GB/s: {moved}. The layers: {found.environment['extension']} "
        f"({found.settings['threads']}). Load average {found.environment['load']}."
    )
    return "\n".join([said, "", *rows])


def best(call: Callable[[], float], seconds: float) -> float:
    """The most work a second of many calls; each gives the work that it did."""
    found, stop = 0.0, time.perf_counter() + seconds
    while not found or time.perf_counter() < stop:
        start = time.perf_counter()
        work = call()
        found = max(found, work / (time.perf_counter() - start))
    return found


def peak(isa: Any, threads: int, seconds: float) -> Peak:
    """Of one of backends.cpu.ISAS."""
    from sr_kernels import _C

    return Peak(isa.name, threads, best(lambda: _C.probe(isa.index, _PROBE, threads), seconds) / 1e9)


def bandwidth(threads: int, seconds: float) -> Bandwidth:
    """With PyTorch's sum, fill and copy of buffers that no cache holds."""
    machine.set_threads(threads)
    x, y = torch.ones(_BUFFER // 4), torch.ones(_BUFFER // 4)

    def timed(call: Callable[[], object], moved: int) -> float:
        def once() -> float:
            call()
            return moved

        return best(once, seconds) / 1e9

    return Bandwidth(
        threads,
        timed(x.sum, _BUFFER),
        timed(lambda: y.fill_(2.0), _BUFFER),
        timed(lambda: y.copy_(x), 2 * _BUFFER),
    )


def describe(a: ConvArgs) -> str:
    """A convolution in a few words."""
    co, ci, kh, kw = a.weight.shape
    words = [f"{kh}x{kw} {ci if a.groups == 1 else a.groups}->{co}"]
    words += [f"stride {a.stride[0]}"] if a.stride[0] > 1 else []
    words += [f"nearest x{a.upsample} before"] if a.upsample > 1 else []
    words += [a.activation] if a.activation != "none" else []
    words += [f"+ {len(a.residuals)}"] if a.residuals else []
    words += [f"shuffle {a.pixel_shuffle}"] if a.pixel_shuffle > 1 else []
    words += (
        [f"+ {a.base_mode} base" if a.base_mode in BASE_MODES[1:] else "+ base"] if a.base is not None else []
    )
    return f"{' '.join(words)}, {'x'.join(map(str, a.conv_size()))}"


def gflop(a: ConvArgs) -> float:
    """10^9 floating-point operations of the convolution as PyTorch does it."""
    oh, ow = a.conv_size()
    return 2e-9 * a.input.shape[0] * oh * ow * a.weight.numel()


def multiplied(a: ConvArgs, kernel: str) -> float:
    """Those of the multiplications that remain: of Winograd's F(4, 3), named winograd4_..., 36 for 16
    pixels instead of 144, in whole tiles; after a nearest upsample one tap for each pixel that is reached."""
    n, (oh, ow) = a.input.shape[0], a.conv_size()
    co, ci, kh, kw = a.weight.shape
    if match := re.search(r"/winograd(\d+)_", kernel):
        edge = int(match[1])
        return 2e-9 * n * -(-oh // edge) * -(-ow // edge) * (edge + kh - 1) * (edge + kw - 1) * co * ci
    left, _, top, _ = a.padding
    return gflop(a) * _taps(kh, top, a.upsample) * _taps(kw, left, a.upsample) / (kh * kw)


def _taps(size: int, before: int, upsample: int) -> float:
    reached = [len({(phase + tap - before) // upsample for tap in range(size)}) for phase in range(upsample)]
    return sum(reached) / upsample


def mib(run: Sequence[ConvArgs], y: Tensor) -> float:
    """Every operand of layers that run as one, and their result, once; nothing that passes between them."""
    parts = [run[0].input, y]
    for a in run:
        parts += [t for t in (a.weight, a.bias, a.prelu_weight, a.base) if t is not None]
        parts += [residual for residual, _ in a.residuals]
    return sum(t.numel() * t.element_size() for t in parts) / 2**20


Recorded = tuple[str, str, float, float, float, float]  # layer, kernel, seconds, gflop, multiplied, mib


@contextlib.contextmanager
def recorded() -> Iterator[list[Recorded]]:
    """Within it, every convolution of the native kernels, and every chain of them, is timed; the list grows
    by one for each."""
    from sr_kernels.backends import cpu, cpu_plan

    found = list[Recorded]()
    single, several, block = cpu_plan.ConvPlan.run, cpu._chain_into, cpu._DenseBlock.__call__

    def timed(run: Sequence[ConvArgs], y: Tensor, call: Callable[[], None]) -> None:
        with record_kernels() as names:
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
        name = describe(run[0])
        if len(run) > 1:
            name = f"{len(run)} layers as one, {name} to {describe(run[-1])}"
        kernels = names[-len(run) :]  # a chain's own name comes before its layers'
        done = sum(multiplied(a, kernel) for a, kernel in zip(run, kernels, strict=True))
        found.append((name, names[0], seconds, sum(map(gflop, run)), done, mib(run, y)))

    def one(plan: cpu_plan.ConvPlan, a: ConvArgs, y: Tensor) -> None:
        timed([a], y, lambda: single(plan, a, y))

    def dense(blocks: cpu._DenseBlock, a: DenseBlockArgs) -> Tensor:
        n, _, h, w = a.input.shape
        run = [
            ConvArgs(
                torch.empty((n, weight.shape[1], h, w), device="meta"),
                weight,
                bias,
                padding=(weight.shape[2] // 2,) * 4,
            )
            for weight, bias in zip(a.weights, a.biases, strict=True)
        ]
        results = list[Tensor]()
        timed(run, a.input, lambda: results.append(block(blocks, a)))
        return results[0]

    def chain(run: Sequence[ConvArgs], y: Tensor, strips: Any) -> None:
        timed(run, y, lambda: several(run, y, strips))

    patches: list[tuple[Any, str, Any, Any]] = [
        (cpu_plan.ConvPlan, "run", single, one),
        (cpu, "_chain_into", several, chain),
        (cpu._DenseBlock, "__call__", block, dense),
    ]
    for owner, name, _, timing in patches:
        setattr(owner, name, timing)
    try:
        yield found
    finally:
        for owner, name, original, _ in patches:
            setattr(owner, name, original)


def layers(case: NetworkCase, seconds: float) -> list[Layer]:
    """The kinds of layers of a network, in order. Raises RuntimeError where none ran natively."""
    with torch.no_grad():
        call = peers.ours(case.build())
        call()
        rounds, stop = list[list[Recorded]](), time.perf_counter() + seconds
        while len(rounds) < 3 or time.perf_counter() < stop:
            with recorded() as found:
                call()
            rounds.append(found)
    if not rounds[0]:
        raise RuntimeError(f"{case.label()}: no layer ran on the native kernels, see sr-kernels doctor")
    kinds: dict[tuple[str, str], list[int]] = {}
    for i, (layer, kernel, *_) in enumerate(rounds[0]):
        kinds.setdefault((layer, kernel), []).append(i)
    return [
        Layer(
            case.name,
            layer,
            kernel,
            len(places),
            1e3 * statistics.median(found[i][2] for found in rounds for i in places),
            *rounds[0][places[0]][3:],
        )
        for (layer, kernel), places in kinds.items()
    ]


def measure(threads: int, seconds: float, cases: Sequence[NetworkCase] = NETWORKS) -> Roofline:
    """Peaks and bandwidths with 1 to `threads` threads, then the layers; about 20 * seconds in all.

    Raises RuntimeError where the native kernels are not in use.
    """
    if (found := machine.extension()).startswith("none"):
        raise RuntimeError(f"the native kernels are not in use: {found}")
    from sr_kernels.backends import cpu

    environment = machine.environment()
    machine.keep_pages()
    threads = machine.set_threads(threads)
    counts = range(1, threads + 1)
    allowed = cpu.ISAS[: 1 + [isa.name for isa in cpu.ISAS].index(found)]
    allowed = [
        isa for isa in allowed if isa.name == isa.unit
    ]  # the others multiply float32 as one below does
    peaks = [peak(isa, count, seconds) for isa in allowed for count in counts]
    bandwidths = [bandwidth(count, seconds) for count in counts]
    machine.set_threads(threads)
    timed = []
    for case in cases:
        timed += layers(case, 2 * seconds)
        print(f"{case.label()}: {len(timed)} kinds of layers", file=sys.stderr, flush=True)
    settings = {"threads": threads, "seconds": seconds, "networks": [case.label() for case in cases]}
    return Roofline(environment, settings, peaks, bandwidths, timed)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    found.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    found.add_argument(
        "--seconds", type=float, default=1.0, help="of every measurement (default: %(default)s)"
    )
    found.add_argument("--json", type=Path, default=RESULTS, help="where results go (default: %(default)s)")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print the table."""
    args = parser().parse_args(arguments)
    try:
        found = measure(args.threads, args.seconds)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"benchmarks.roofline: error: {error}", file=sys.stderr)
        return 2
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(found.to_json())
    print(f"{markdown(found)}\n{args.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
