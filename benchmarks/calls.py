# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""python -m benchmarks.calls: what calls of optimised modules cost beside the arithmetic: layers without work
to speak of, the first call of a size, gradients."""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import optimize as table
from benchmarks import public, report
from sr_kernels import optimize
from sr_kernels.bench import machine, plain

RESULTS = table.ROOT / "benchmarks" / "results" / "calls-cpu.json"
_NETWORKS = ("SRVGG 64f/16 x4", "EDSR-baseline x4", "RRDBNet-23 x4")
# Small ones, whose calls vary less than what planning takes, which no size changes.
_SIZES = tuple((a, b) for n in range(5) for a, b in ((14 + n, 20 - n), (20 - n, 15 + n)))
_LAYERS = (32, 132)  # of networks whose difference is that of their layers
_BATCH, _SIDE = 4, 48  # of a step


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _medians(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds, of interleaved rounds but the first."""
    found = [{name: _seconds(call) for name, call in calls.items()} for _ in range(rounds + 1)]
    return {name: statistics.median(times[name] for times in found[1:]) for name in calls}


def layers(rounds: int = 200) -> dict[str, float]:
    """Microseconds of one layer of 4 channels, convolution and ReLU, on 2x2 pixels: ours and eager's."""
    x, calls = torch.rand(1, 4, 2, 2), {}
    for count in _LAYERS:
        modules = [m for _ in range(count) for m in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())]
        network = nn.Sequential(*modules).eval()
        fast = optimize(network, x)
        if not fast.report().regions:
            raise RuntimeError("the network of small layers was not optimised")
        calls |= {f"ours {count}": lambda f=fast: f(x), f"eager {count}": lambda m=network: m(x)}
    with torch.inference_mode():
        found = _medians(calls, rounds)
    few, many = _LAYERS
    return {
        who: 1e6 * (found[f"{who} {many}"] - found[f"{who} {few}"]) / (many - few)
        for who in ("ours", "eager")
    }


def network(name: str, module: nn.Module, rounds: int = 5) -> dict[str, Any]:
    """Milliseconds: what the first call of a size takes more than later ones (median of sizes), calls without
    and with gradients, a step of eval mode (forward and backward), ours and eager's."""
    trained = copy.deepcopy(module).requires_grad_(True)
    x, batch = torch.rand(1, 3, 64, 64), torch.rand(_BATCH, 3, _SIDE, _SIDE)
    fast = optimize(trained, x)
    first = []
    with torch.inference_mode():
        for height, width in _SIZES:
            picture = torch.rand(1, 3, height, width)
            times = [_seconds(lambda p=picture: fast(p)) for _ in range(6)]
            first.append(times[0] - statistics.median(times[1:]))

    def without(m: nn.Module) -> Tensor:
        with torch.no_grad():
            y: Tensor = m(x)
        return y

    def step(m: nn.Module) -> None:
        m(batch).square().mean().backward()

    found = _medians(
        {
            "without": lambda: without(fast),
            "with": lambda: fast(x),
            "step": lambda: step(fast),
            "eager": lambda: step(trained),
        },
        rounds,
    )
    return {"name": name, "first": 1e3 * statistics.median(first), **{k: 1e3 * v for k, v in found.items()}}


def markdown(found: Mapping[str, Any]) -> str:
    """The table, and what it was measured on."""
    heads = [
        "network",
        "first call of a size, ms more",
        "call, ms",
        "with gradients",
        "step in eval mode",
        "eager's",
    ]
    keys = ("first", "without", "with", "step", "eager")
    rows = [[row["name"], *(f"{row[key]:.1f}" for key in keys)] for row in found["networks"]]
    where, layer = found["environment"], found["layer"]
    text = (
        f"A layer without work to speak of (one of {_LAYERS[1]}, 4 channels, 2x2 pixels) takes "
        f"{layer['ours']:.1f} us, eager's {layer['eager']:.1f} (measured {len(_NETWORKS) + 1} "
        f"times, shown where eager's was fastest). {where['processor']}, "
        f"{found['threads']} threads, PyTorch {where['torch']}, float32; first calls of {len(_SIZES)} sizes "
        f"around {_SIZES[0][0]}x{_SIZES[0][1]}, calls of 64x64 pixels, steps of {_BATCH} pictures of "
        f"{_SIDE}x{_SIDE}; medians. Reproduce: `make bench-optimize`."
    )
    return "\n\n".join([report.grid(heads, rows), text])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, writes the results and the table of docs/optimize.md; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--readme", action="store_true", help="write the table, time nothing")
    args = parser.parse_args(arguments)
    if not args.readme:
        threads = machine.set_threads(args.threads)
        machine.keep_pages()
        networks = public.plain_networks()
        environment = machine.environment()
        small, rows = [layers()], []
        for name in _NETWORKS:
            rows.append(network(name, plain.frozen(networks[name])))
            small.append(layers())
        found = {
            "environment": environment,
            "threads": threads,
            "layer": min(small, key=lambda times: times["eager"]),  # as the machine was quietest
            "networks": rows,
        }
        part = RESULTS.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1) + "\n")
        part.replace(RESULTS)
    report.fill(table.DOCUMENT, "calls", markdown(json.loads(RESULTS.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
