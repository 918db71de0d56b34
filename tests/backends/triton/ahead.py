# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Compiles the launches of some layers for chips that need not be here, and says what came out.

    python -m tests.backends.triton.ahead 80 90 ...   # compute capabilities; one JSON object a line

It runs as a process of its own: within the tests' process Triton interprets.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from sr_kernels.backends.base import ConvArgs
from sr_kernels.backends.triton import backend, configs, moves, plan
from sr_kernels.backends.triton.kernels import conv, pointwise

# name -> (Ci, Co, k, other arguments of ConvArgs)
LAYERS: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "body 64": (64, 64, 3, {"activation": "relu"}),
    "body 64, residual": (64, 64, 3, {"residuals": 1}),
    "body 32": (32, 32, 3, {"activation": "prelu"}),
    "body 128": (128, 128, 3, {"activation": "relu"}),
    "growth 64": (64, 32, 3, {"activation": "leaky_relu"}),
    "growth 160": (160, 32, 3, {"activation": "leaky_relu"}),
    "dense 192": (192, 64, 3, {"residuals": 2, "scale": 0.2}),
    "head 3": (3, 64, 3, {"activation": "prelu"}),
    "tail 3": (64, 3, 3, {}),
    "tail 1": (32, 1, 3, {}),
    "tail 9x9": (64, 3, 9, {"activation": "tanh"}),
    "tail shuffle": (64, 48, 3, {"pixel_shuffle": 4, "base_mode": "nearest"}),
    "upsampler": (64, 256, 3, {"pixel_shuffle": 2}),
    "stride 2": (64, 64, 3, {"stride": (2, 2)}),
    "pointwise": (64, 64, 1, {"activation": "silu"}),
}
FLOAT32 = ("body 64", "tail 3", "tail 1", "tail 9x9", "head 3", "memory")  # compiled in float32 too
_TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int16: "i16",
    torch.int32: "i32",
}


class Recorder:
    """Stands for a kernel: keeps what it is launched with."""

    def __init__(self, function: Any) -> None:
        self.arg_names = function.arg_names
        self.launches: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: object) -> Any:
        return lambda *args, **options: self.launches.append((args, options))


def arguments(name: str, dtype: torch.dtype) -> ConvArgs:
    """A call of the layer on a picture of 34x50."""
    ci, co, k, rest = LAYERS[name]
    rest = dict(rest)

    def picture(c: int, scale: int = 1) -> torch.Tensor:
        return torch.zeros(1, c, 34 * scale, 50 * scale, dtype=dtype).to(memory_format=torch.channels_last)

    rest["residuals"] = [(picture(co), 1.0)] * rest.get("residuals", 0)
    a = ConvArgs(picture(ci), torch.zeros(co, ci, k, k, dtype=dtype), torch.zeros(co, dtype=dtype),
                 padding=(k // 2,) * 4, **rest)  # fmt: skip
    if a.activation == "prelu":
        a.prelu_weight = torch.zeros(co, dtype=dtype)
    if a.base_mode != "none":
        a.base = picture(co // a.pixel_shuffle**2)
    return a


def launches(name: str, dtype: torch.dtype, chip: int, config: configs.Config | None = None) -> list[Any]:
    """(function, arguments, options) of each launch that the layer makes on this chip."""
    a = arguments(name, dtype)
    recorder = Recorder(conv.conv2d_kernel)
    plan.chip = lambda index: f"sm_{chip}"
    plan.device_key = lambda index: ""
    plan.conv2d_kernel = recorder
    y = torch.empty(a.output_shape(), dtype=dtype).to(memory_format=torch.channels_last)
    plan.ConvPlan(a, y, "", config).run(a, y)
    return [(conv.conv2d_kernel, *launch) for launch in recorder.launches]


def memory_launches(dtype: torch.dtype) -> list[Any]:
    """As `launches`, of the memory-bound ops."""
    found = []
    x = torch.zeros(1, 64, 16, 16, dtype=dtype).to(memory_format=torch.channels_last)
    shuffled = Recorder(pointwise.shuffle_kernel)
    added = Recorder(pointwise.add_kernel)
    tiled = Recorder(pointwise.shuffle_pixels_kernel)
    recorders = {"shuffle_kernel": shuffled, "add_kernel": added, "shuffle_pixels_kernel": tiled}
    moves.pointwise = type("", (), recorders)
    made = backend.TritonBackend()
    made.pixel_shuffle(x, 2)
    made.pixel_shuffle(x[:, :36], 3)
    made.pixel_unshuffle(x, 2)
    made.residual_add(x, [(x, 1.0), (x, 1.0)], 0.5)
    found += [(pointwise.shuffle_kernel, *launch) for launch in shuffled.launches]
    found += [(pointwise.shuffle_pixels_kernel, *launch) for launch in tiled.launches]
    found += [(pointwise.add_kernel, *launch) for launch in added.launches]
    return found


def compile_for(chip: int, function: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What Triton makes of one launch for a chip, with the specialisation that a launch there would get."""
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    values = dict(zip(function.arg_names, args, strict=False))
    values |= {name: value for name, value in options.items() if name in function.arg_names}
    constants = {p.name: values[p.name] for p in function.params if p.is_constexpr}
    for index, name in enumerate(function.arg_names):
        value = values.get(name)
        if name in constants:
            signature[name] = "constexpr"
        elif isinstance(value, TensorDescriptor):
            signature[name] = f"tensordesc<{_TYPES[value.base.dtype]}{list(value.block_shape)}>"
        elif isinstance(value, torch.Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32" if isinstance(value, int) else "fp32"
            if isinstance(value, int) and value % 16 == 0 and not function.params[index].do_not_specialize:
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature, constants, attributes)
    wanted = {n: options[n] for n in ("num_warps", "num_stages") if n in options}
    return triton.compile(source, target=GPUTarget("cuda", chip, 32), options=wanted)


def report(name: str, chip: int, compiled: Any) -> dict[str, Any]:
    """Instructions of note, shared memory, registers and spills of a compiled kernel."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
        sass = subprocess.run(
            [tools / "cuobjdump", "-sass", file.name], capture_output=True, text=True
        ).stdout
    found = re.search(r"REG:(\d+)", usage)
    assert found is not None, usage
    names = ("HGMMA", "HMMA", "UTCHMMA", "UTMALDG", "LDGSTS", "STG.E.128", "LDG.E.128", "LDL", "STL", "FFMA")
    return {
        "name": name,
        "chip": chip,
        "shared": compiled.metadata.shared,
        "registers": int(found[1]),
        "instructions": {n: len(re.findall(rf"\b{re.escape(n)}", sass)) for n in names},
    }


def compile_layer(job: tuple[str, str, int]) -> list[dict[str, Any]]:
    """The reports of a layer, or of the memory-bound ops, for one chip."""
    name, dtype, chip = job
    kind = getattr(torch, dtype)
    made = memory_launches(kind) if name == "memory" else launches(name, kind, chip)
    return [report(f"{name} {dtype}", chip, compile_for(chip, *launch)) for launch in made]


def main() -> None:
    """Every layer for every chip of the command line."""
    jobs = [
        (name, dtype, int(chip))
        for chip in sys.argv[1:]
        for name in (*LAYERS, "memory")
        for dtype in ("float16", "float32")
        if dtype == "float16" or name in FLOAT32
    ]
    with ProcessPoolExecutor(2) as pool:
        for reports in pool.map(compile_layer, jobs):
            for found in reports:
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
