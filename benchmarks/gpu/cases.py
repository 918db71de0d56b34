# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What is measured on a GPU, as data, and in which order torch.compile's minutes are spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from benchmarks.problems import ConvCase, DenseBlockCase, MemoryCase, NetworkCase
from sr_kernels.bench.problem import Case, Problem

SIZE = (720, 1280)
SMALL = (256, 256)

LAYERS: tuple[Case, ...] = (
    ConvCase("3x3 32->32 relu", *SIZE, ci=32, co=32, activation="relu"),
    ConvCase("3x3 64->64 prelu", *SIZE, activation="prelu"),
    ConvCase("3x3 64->64 + residual", *SIZE, residuals=1),
    ConvCase("3x3 128->128 relu", *SIZE, ci=128, co=128, activation="relu"),
    ConvCase("3x3 64->32 leaky", *SIZE, co=32, activation="leaky_relu"),
    ConvCase("3x3 96->32 leaky", *SIZE, ci=96, co=32, activation="leaky_relu"),
    ConvCase("3x3 128->32 leaky", *SIZE, ci=128, co=32, activation="leaky_relu"),
    ConvCase("3x3 160->32 leaky", *SIZE, ci=160, co=32, activation="leaky_relu"),
    ConvCase("3x3 192->64 + residual", *SIZE, ci=192, residuals=1),
    ConvCase("3x3 3->64 prelu", *SIZE, ci=3, activation="prelu"),
    ConvCase("3x3 64->3", *SIZE, co=3),
    ConvCase("3x3 64->48 shuffle4 + nearest base", *SIZE, co=48, pixel_shuffle=4, base_mode="nearest"),
    ConvCase("3x3 64->256 shuffle2", *SIZE, co=256, pixel_shuffle=2),
    ConvCase("nearest x2 + 3x3 64->64 leaky", *SIZE, upsample=2, activation="leaky_relu"),
    DenseBlockCase("dense block 64/32", *SIZE),
    # what the order of backends is decided by, see sr_kernels/backends/cuda_choice.py
    ConvCase("3x3 stride 2 64->64 relu", *SIZE, stride=2, activation="relu"),
    ConvCase("3x3 12->12 prelu", *SIZE, ci=12, co=12, activation="prelu"),
    ConvCase("5x5 3->64 relu", *SIZE, ci=3, kernel=5, activation="relu"),
    ConvCase("9x9 64->3", *SIZE, co=3, kernel=9),
    ConvCase("3x3 64->32 tanh", *SIZE, co=32, activation="tanh"),
    ConvCase("3x3 64->64 gelu", *SIZE, activation="gelu"),
    ConvCase("3x3 64->48 shuffle4 + bilinear base", *SIZE, co=48, pixel_shuffle=4, base_mode="bilinear"),
)
MEMORY: tuple[Case, ...] = (
    MemoryCase("pixel shuffle 2", *SIZE, op="pixel_shuffle"),
    MemoryCase("pixel unshuffle 2", 2 * SIZE[0], 2 * SIZE[1], op="pixel_unshuffle", channels=16),
    MemoryCase("residual add", *SIZE, op="residual_add"),
    MemoryCase("uint8 picture to float", 4 * SIZE[0], 4 * SIZE[1], op="image_to_float", channels=3),
    MemoryCase("float to uint8 picture", 4 * SIZE[0], 4 * SIZE[1], op="float_to_image", channels=3),
)
NETWORKS: tuple[NetworkCase, ...] = (
    NetworkCase("SRVGG 64f/16 x4", *SIZE),
    NetworkCase("EDSR-baseline x4", *SIZE, architecture="edsr"),
    NetworkCase("ESPCN x3", *SIZE, architecture="espcn", scale=3, sizes=(("channels", 3),)),
    NetworkCase("FSRCNN x4", *SIZE, architecture="fsrcnn", channels=1),
    NetworkCase("RRDBNet-23 x4", *SIZE, architecture="rrdbnet", fewest=4),
    NetworkCase("SRVGG 64f/32 x4", *SIZE, sizes=(("num_conv", 32),)),
)
CASES: tuple[Case, ...] = (
    *LAYERS,
    *MEMORY,
    *NETWORKS,
    *(replace(case, height=SMALL[0], width=SMALL[1], fewest=None) for case in NETWORKS),
)
_SECONDS = {"RRDBNet-23 x4": 150.0, "SRVGG 64f/32 x4": 40.0, "EDSR-baseline x4": 45.0}


def select(texts: Sequence[str] = ()) -> list[Case]:
    """The cases whose label or group contains one of the texts, all for none.

    Raises ValueError where a text matches nothing.
    """
    for text in texts:
        if not any(text.lower() in f"{case.group} {case.label()}".lower() for case in CASES):
            raise ValueError(f"no case has {text!r} in its name; --list prints them")
    return [
        case
        for case in CASES
        if not texts or any(text.lower() in f"{case.group} {case.label()}".lower() for text in texts)
    ]


def compile_order(case: Case) -> int:
    """Which cases torch.compile comes to first: large networks, layers, small networks, the longest."""
    if case.name.startswith("RRDBNet") or "64f/32" in case.name:
        return 3
    if not case.whole:
        return 1
    return 0 if case.height > SMALL[0] else 2


def compile_seconds(case: Case) -> float:
    """A guess at what compiling takes, before anything was compiled."""
    return _SECONDS.get(case.name, 30.0) if case.whole else 8.0


def shrunk(case: Case) -> Case:
    """The case on a tiny picture and, where blocks are many, with a few of them: for dry runs."""
    fewer = {"edsr": (("num_block", 1),), "rrdbnet": (("num_block", 1),), "srvgg": (("num_conv", 2),)}
    architecture = getattr(case, "architecture", None)
    small = replace(case, height=16, width=24 if case.height > SMALL[0] else 16, fewest=None)
    return replace(small, sizes=fewer[architecture]) if architecture in fewer else small


def build(case: Case, device: str, dtype: torch.dtype) -> Problem:
    """The problem with weights and inputs made on the device, in that dtype; pictures are made of float32."""
    if getattr(case, "op", None) == "float_to_image":
        dtype = torch.float32
    with torch.device(device):
        problem = case.build()
    modules = [part for part in (problem.plain, problem.ours) if isinstance(part, nn.Module)]
    for module in modules:
        if getattr(case, "architecture", None) == "edsr":
            _tame(module)
        module.to(dtype)
    problem.inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in problem.inputs)
    return problem


def _tame(module: nn.Module) -> None:
    """Sixteen residual blocks of Kaiming weights pass float16's range; trained ones do not."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith("conv2.weight"):
                weight.mul_(0.1)
