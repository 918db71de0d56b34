# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What is measured, as data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.problems import ChainCase, ConvCase, DenseBlockCase, MemoryCase, NetworkCase, TransposedCase
from sr_kernels.bench.peers import BF16, FP32
from sr_kernels.bench.problem import Case, Target

EAGER = ("eager", "eager_cl")
FRAMEWORK = (*EAGER, "compiled")
Optimized = partial(NetworkCase, optimized=True)


def targets(fp32: tuple[float, float], bf16: tuple[float, float] | None = None) -> tuple[Target, ...]:
    """Of a whole network: floor and aim, to the fastest float32 peer and to the fastest bf16 one."""
    found = (Target(fp32[0], FP32, fp32[1]),)
    return found if bf16 is None else (*found, Target(bf16[0], BF16, bf16[1]))


CASES: tuple[Case, ...] = (
    # the body of Real-ESRGAN's compact network and its tail: the first targets
    ConvCase("3x3 64->64 prelu", 180, 320, activation="prelu", targets=(Target(1.0, FRAMEWORK),)),
    ConvCase(
        "3x3 64->48 shuffle4 + nearest base",
        180,
        320,
        co=48,
        pixel_shuffle=4,
        base_mode="nearest",
        targets=(Target(1.5, EAGER),),
    ),
    ConvCase("3x3 64->64 prelu", 64, 64, activation="prelu"),
    ConvCase("3x3 64->64 relu", 180, 320, activation="relu"),
    ConvCase("3x3 64->64 + residual", 180, 320, residuals=1),
    ConvCase("3x3 64->256 shuffle2", 90, 160, co=256, pixel_shuffle=2),
    ConvCase("3x3 128->128 relu", 90, 160, ci=128, co=128, activation="relu"),
    ConvCase("3x3 192->64 leaky", 90, 160, ci=192, activation="leaky_relu"),
    # heads and tails
    ConvCase("3x3 3->64 prelu", 180, 320, ci=3, activation="prelu"),
    ConvCase("3x3 1->64 relu", 180, 320, ci=1, activation="relu"),
    ConvCase("3x3 64->3", 360, 640, co=3),
    ConvCase(
        "3x3 32->12 shuffle2 + nearest base", 180, 320, ci=32, co=12, pixel_shuffle=2, base_mode="nearest"
    ),
    ConvCase("3x3 32->27 shuffle3", 180, 320, ci=32, co=27, pixel_shuffle=3),
    # thin bodies
    ConvCase("3x3 32->32 prelu", 180, 320, ci=32, co=32, activation="prelu"),
    ConvCase("3x3 24->24 prelu", 180, 320, ci=24, co=24, activation="prelu"),
    ConvCase("3x3 16->16 relu", 180, 320, ci=16, co=16, activation="relu"),
    ConvCase("3x3 12->12 prelu", 270, 480, ci=12, co=12, activation="prelu"),
    # other kernels
    ConvCase("1x1 56->12 prelu", 270, 480, ci=56, co=12, kernel=1, activation="prelu"),
    ConvCase("1x1 64->64 silu", 180, 320, kernel=1, activation="silu"),
    ConvCase("5x5 3->64 tanh", 180, 320, ci=3, kernel=5, activation="tanh"),
    ConvCase("5x5 1->56 prelu", 270, 480, ci=1, co=56, kernel=5, activation="prelu"),
    ConvCase("9x9 3->64 relu", 180, 320, ci=3, kernel=9, activation="relu"),
    ConvCase("9x9 64->3", 90, 160, co=3, kernel=9),
    ConvCase("3x3 stride 2 64->64 leaky", 180, 320, stride=2, activation="leaky_relu"),
    ConvCase("depthwise 3x3 64 relu", 180, 320, depthwise=True, activation="relu"),
    ConvCase("depthwise 5x5 64 gelu", 180, 320, kernel=5, depthwise=True, activation="gelu"),
    ConvCase("nearest x2 + 3x3 64->64 leaky", 90, 160, upsample=2, activation="leaky_relu"),
    TransposedCase("transposed 9x9 s4 56->1", 135, 240),
    ChainCase("chain of 4 3x3 12->12 prelu", 270, 480),
    ChainCase("chain of 4 3x3 12->12 prelu", 720, 1280),
    DenseBlockCase("dense block 64/32", 64, 64),
    DenseBlockCase("dense block 64/32", 180, 320),
    # memory-bound
    MemoryCase("pixel shuffle 2", 180, 320, op="pixel_shuffle"),
    MemoryCase("pixel unshuffle 2", 360, 640, op="pixel_unshuffle", channels=16),
    MemoryCase("residual add", 180, 320, op="residual_add"),
    MemoryCase("uint8 picture to float", 720, 1280, op="image_to_float", channels=3),
    MemoryCase("float to uint8 picture", 720, 1280, op="float_to_image", channels=3),
    # whole networks
    Optimized("embedded compact x2", 180, 320, scale=2, embedded=True),
    Optimized("embedded compact x4", 180, 320, scale=4, embedded=True),
    Optimized("SRVGG 64f/16 x4", 180, 320, targets=targets((2.6, 3.3), (1.5, 1.8))),
    Optimized(
        "EDSR-baseline x4",
        180,
        320,
        architecture="edsr",
        checked=(64, 64),
        fewest=4,
        targets=targets((2.6, 3.3), (1.4, 1.7)),
    ),
    Optimized(
        "RRDBNet-23 x4",
        64,
        64,
        architecture="rrdbnet",
        fewest=7,
        targets=targets((2.5, 3.3), (1.3, 1.7)),
    ),
    Optimized(
        "RRDBNet-23 x4",
        256,
        256,
        architecture="rrdbnet",
        checked=(64, 64),
        fewest=3,
        # half a minute a round, or minutes to convert (ncnn); slower than others of theirs
        without=("eager", "eager_bf16", "ncnn", "ncnn_bf16"),
        targets=targets((2.5, 3.3), (1.3, 1.7)),
    ),
    Optimized(
        "ESPCN x3",
        360,
        640,
        architecture="espcn",
        scale=3,
        sizes=(("channels", 3),),
        targets=targets((1.8, 2.5), (1.0, 1.3)),
    ),
    Optimized("FSRCNN x4", 270, 480, architecture="fsrcnn", channels=1, targets=targets((2.5, 4.0))),
    # with everybody limited to AVX2
    Optimized("SRVGG 64f/16 x4 (AVX2)", 180, 320, group="avx2", targets=targets((1.7, 2.2))),
    Optimized(
        "RRDBNet-23 x4 (AVX2)",
        64,
        64,
        architecture="rrdbnet",
        group="avx2",
        targets=targets((1.7, 2.2)),
    ),
)


def select(texts: Sequence[str] = ()) -> list[Case]:
    """The cases whose label or group contains one of the texts, all for none.

    Raises ValueError where a text matches nothing.
    """
    found = []
    for text in texts:
        matching = [case for case in CASES if text.lower() in f"{case.group} {case.label()}".lower()]
        if not matching:
            raise ValueError(f"no case has {text!r} in its name; --list prints them")
        found += matching
    return [case for case in CASES if not texts or case in found]
