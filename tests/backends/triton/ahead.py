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

from sr_kernels.backends.base import ActivationArgs, ConvArgs
from sr_kernels.backends.triton import configs, moves, plan
from sr_kernels.backends.triton.kernels import backward, conv, pointwise

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
    "enlarged": (64, 64, 3, {"upsample": 2, "activation": "leaky_relu"}),
}
FLOAT32 = ("body 64", "tail 3", "tail 1", "tail 9x9", "head 3", "memory")  # compiled in float32 too
_TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int8: "i8",
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


def launches(a: ConvArgs, chip: int, load: str = "", config: configs.Config | None = None) -> list[Any]:
    """(function, arguments, options) of each launch that the layer makes on this chip."""
    recorder = Recorder(conv.conv2d_kernel)
    plan.chip = lambda index: f"sm_{chip}"
    plan.device_key = lambda index: ""
    plan.conv2d_kernel = recorder
    y = torch.empty(a.output_shape(), dtype=a.input.dtype).to(memory_format=torch.channels_last)
    plan.ConvPlan(a, y, load, config).run(a, y)
    return [(conv.conv2d_kernel, *launch) for launch in recorder.launches]


def memory_launches(dtype: torch.dtype) -> list[Any]:
    """As `launches`, of the memory-bound ops and of the backward, one and several steps a program."""
    x = torch.zeros(1, 64, 16, 16, dtype=dtype).to(memory_format=torch.channels_last)
    recorders = {
        name: Recorder(getattr(pointwise, name))
        for name in (
            *("shuffle_kernel", "shuffle_pixels_kernel", "add_kernel"),
            *("image_to_float_kernel", "float_to_image_kernel"),
        )
    }
    moves.pointwise = type("", (), recorders)
    backwards = moves.activation_backward_kernel = Recorder(backward.activation_backward_kernel)
    moves.shuffle(x, 2)
    moves.shuffle(x[:, :36], 3)
    moves.unshuffle(x, 2)
    moves.add(x, [(x, 1.0), (x, 1.0)], 0.5)
    for kind in (torch.uint8, torch.uint16):
        moves.to_image(moves.to_float(torch.zeros(16, 16, 3, dtype=kind)), kind)
    for activation in ("prelu", "gelu", "tanh"):
        for moves._PROGRAMS in (528, 1) if activation == "prelu" else (528,):
            slopes = torch.zeros(64, dtype=dtype) if activation == "prelu" else None
            moves.activation_backward(ActivationArgs(x, x, activation, 0.0, slopes, from_output=False))
    found = [(getattr(pointwise, name), *launch) for name, r in recorders.items() for launch in r.launches]
    return found + [(backward.activation_backward_kernel, *launch) for launch in backwards.launches]


def entry_launches(key: str, dtype: torch.dtype, chip: int) -> list[Any]:
    """As `launches`, of the layer that an entry of the chip's table is for, by its configuration."""
    load, channels, window, stride, _ = key.split()
    ci, co = map(int, channels.split("->"))
    k, s = int(window.partition("x")[0]), int(stride[1:])
    x = torch.zeros(1, ci, 34, 50, dtype=dtype).to(memory_format=torch.channels_last)
    a = ConvArgs(x, torch.zeros(co, ci, k, k, dtype=dtype), torch.zeros(co, dtype=dtype), stride=(s, s),
                 padding=(k // 2,) * 4, activation="relu")  # fmt: skip
    return launches(a, chip, load, configs.shipped(f"sm_{chip}")[key])


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
    names = ("HGMMA", "HMMA", "UTCHMMA", "UTMALDG", "LDGSTS", "STG.E.128", "LDG.E.128", "LDL", "FFMA")
    return {
        "name": name,
        "chip": chip,
        "shared": compiled.metadata.shared,
        "registers": int(found[1]),
        "instructions": {n: len(re.findall(rf"\b{re.escape(n)}", sass)) for n in names},
    }


def compile_layer(job: tuple[str, str, int]) -> list[dict[str, Any]]:
    """The reports of a layer, of an entry of the chip's table, or of the memory-bound ops, for one chip."""
    name, dtype, chip = job
    kind = getattr(torch, dtype)
    if name == "memory":
        made = memory_launches(kind)
    elif name in LAYERS:
        made = launches(arguments(name, kind), chip)
    else:
        made = entry_launches(name, kind, chip)
    found = [report(f"{name} {dtype}", chip, compile_for(chip, *launch)) for launch in made]
    return [{**r, "kernel": launch[0].__name__} for r, launch in zip(found, made, strict=True)]


def names(chip: int) -> list[tuple[str, str]]:
    """What is compiled for a chip, each with its dtype: layers, memory-bound ops, the chip's own table."""
    found = [(name, "float16") for name in (*LAYERS, "memory")]
    found += [(name, "float32") for name in FLOAT32]
    found += [(key, "bfloat16") for key in configs.shipped(f"sm_{chip}")]
    return found


def main() -> None:
    """Everything for every chip of the command line."""
    jobs = [(*name, int(chip)) for chip in sys.argv[1:] for name in names(int(chip))]
    with ProcessPoolExecutor(2) as pool:
        for reports in pool.map(compile_layer, jobs):
            for found in reports:
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
