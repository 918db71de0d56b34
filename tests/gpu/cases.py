# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What the GPU's tests run over, and what a backend may refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tests import samples
from tests.samples import Conv

REFUSES = "may refuse and does: "  # in the reason of a skip
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Backends whose kernels are compiled when a shape is first met, which takes seconds each: these run every
# feature once, in float16, and some in the other dtypes.
COMPILED_AT_FIRST_USE = ("triton",)


def _layer(ci: int, co: int, height: int = 37, width: int = 53, **fields: Any) -> Conv:
    return Conv(shape=(1, ci, height, width), channels=co, layout="channels_last", **fields)


# The layers of the networks that are measured, on pictures that no tile divides.
LAYERS = [
    _layer(32, 32, activation="relu"),
    _layer(64, 64, activation="prelu", slopes=64),
    _layer(64, 64, residuals=(1.0,)),
    _layer(128, 128, activation="leaky_relu", slope=0.2),
    _layer(64, 32, activation="leaky_relu", slope=0.2),
    _layer(96, 32, activation="leaky_relu", slope=0.2),
    _layer(128, 32, activation="leaky_relu", slope=0.2),
    _layer(160, 32, activation="leaky_relu", slope=0.2),
    _layer(192, 64, scale=0.04, residuals=(0.2, 1.0)),
    _layer(3, 64, activation="prelu", slopes=64),
    _layer(64, 3),
    _layer(64, 48, shuffle=4, base="nearest", factor=4),
    _layer(64, 256, shuffle=2),
    _layer(64, 48, shuffle=4, base="bilinear", factor=4),
    _layer(64, 27, shuffle=3, base="bilinear", factor=3),
    _layer(64, 32, activation="tanh"),
    _layer(128, 64, activation="gelu", residuals=(1.0,), after=True),
    _layer(64, 64, upsample=2, activation="leaky_relu", slope=0.2),
    _layer(64, 20, upsample=2, activation="prelu", slopes=20),
    _layer(64, 64, stride=2, activation="leaky_relu", slope=0.2),
    _layer(1, 56, kernel=(5, 5), padding=2, activation="prelu", slopes=56),
    _layer(56, 12, kernel=(1, 1), padding=0, activation="prelu", slopes=12),
    _layer(12, 12, activation="prelu", slopes=12),
    _layer(3, 64, kernel=(9, 9), padding=4, activation="relu"),
    _layer(64, 3, kernel=(9, 9), padding=4),
    # more tiles than a chip holds at once, several samples, one row, one column
    _layer(64, 64, 355, 637, activation="relu"),
    _layer(64, 32, 355, 637, activation="leaky_relu", slope=0.2),
    replace(_layer(64, 64, 19, 23, activation="relu"), shape=(3, 64, 19, 23)),
    _layer(64, 64, 1, 130),
    _layer(64, 64, 130, 1),
    # the other layouts
    replace(_layer(64, 64, activation="relu"), layout="contiguous"),
    replace(_layer(64, 64, activation="relu", residuals=(1.0,)), layout="sliced"),
    replace(_layer(64, 64, activation="relu"), layout="cropped"),
    replace(_layer(64, 64, activation="relu"), layout="contiguous", offset=3),
    # a residual under a shuffle
    _layer(64, 64, shuffle=2, residuals=(1.0,)),
]

_TRANSPOSED = [s for s in samples.TRANSPOSED if isinstance(s.stride, int)]  # others are PyTorch's own op
_DENSE = [
    *samples.DENSE,
    samples.Dense(shape=(1, 64, 37, 53), growth=(32, 32, 32, 32), layout="channels_last"),
    samples.Dense(
        shape=(2, 64, 9, 21),
        growth=(32, 32, 32, 32),
        layout="channels_last",
        scale=0.04,
        input_scale=0.2,
        residuals=(1.0,),
    ),
]
_PICTURES = [
    *samples.PICTURES,
    samples.Picture(shape=(1, 64, 37, 53), layout="channels_last"),
    samples.Picture(shape=(1, 3, 131, 257), factor=4, layout="channels_last"),
    samples.Picture(shape=(2, 16, 37, 53), factor=4, layout="channels_last"),
    samples.Picture(shape=(1, 5, 37, 64), factor=3),
]
_SOME_PICTURES = [p for p in _PICTURES if p.offset in (0, 1, 3, 8)]

# test -> (all samples, those of backends that compile at first use)
OVER: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
    "test_conv2d": (samples.CONVS, samples.FEATURES),
    "test_layers": (LAYERS, LAYERS),
    "test_conv_transpose2d": (_TRANSPOSED, _TRANSPOSED[::3]),
    "test_dense_block": (_DENSE, [*_DENSE[:7], *_DENSE[-2:]]),
    "test_shuffles_are_exact": (_PICTURES, _SOME_PICTURES),
    "test_residual_add": (_PICTURES, _SOME_PICTURES),
}


def over(test: str, backend: str, dtype: torch.dtype, everything: bool) -> Sequence[Any]:
    """The samples of a test for one backend and dtype."""
    whole, some = OVER[test]
    if everything:
        return whole
    first = dtype == DTYPES[0]
    if backend in COMPILED_AT_FIRST_USE:
        return some if first else some[::3]
    return whole if first else some


def name(sample: Any) -> str:
    return str(sample.name)


_STRIDES, _SQUARE, _DILATION = "two different strides", "a kernel that is not square", "dilation"
_EMPTY = "an empty batch"
# What a backend has promised although others may refuse it.
PROMISED = {"triton": (_STRIDES, _SQUARE, _DILATION, _EMPTY)}


def may_refuse(backend: str, sample: Any, dtype: torch.dtype) -> str:
    """Why a backend may leave this sample to PyTorch; "" where it must run it."""
    reasons = ["float32"] if backend == "cuda" and dtype == torch.float32 else []
    reasons += [_EMPTY] if sample.shape[0] == 0 else []
    if isinstance(sample, Conv):
        reasons += _refusable(sample)
    if isinstance(sample, samples.Transposed) and sample.kernel[0] != sample.kernel[1]:
        reasons.append(_SQUARE)
    if isinstance(sample, samples.Dense) and len(sample.residuals) > 1:
        reasons.append("three residuals, the input among them")
    return ", ".join(reason for reason in reasons if reason not in PROMISED.get(backend, ()))


def _refusable(sample: Conv) -> list[str]:
    """Of a convolution: beyond square kernels of 1x1 to 9x9, stride 1 and 2, nearest x2 before 3x3."""
    enlarged = (sample.upsample, sample.kernel, sample.stride)
    found = {
        "groups": sample.groups > 1,
        _DILATION: sample.dilation != 1,
        _STRIDES: sample.stride not in (1, 2),
        _SQUARE: sample.kernel[0] != sample.kernel[1],
        "an upsample that no network has": sample.upsample > 1 and enlarged != (2, (3, 3), 1),
    }
    return [reason for reason, holds in found.items() if holds]
