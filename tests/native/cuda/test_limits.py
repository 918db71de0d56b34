# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Indices past 2^31: exact where a kernel takes them, refused where it does not."""

import mmap
from dataclasses import replace

import pytest
import torch

from sr_kernels import reference
from sr_kernels.backends import cuda_plan
from sr_kernels.backends.base import ConvArgs, dense_strides
from tests import samples
from tests.closeness import assert_as_close
from tests.native.cuda.test_emulated import arguments, layer

FAR = 1 << 31  # elements
NORESERVE = 0x4000  # MAP_NORESERVE, which Python's mmap does not name
KERNELS = {
    "conv2d_sm80/32x16": layer(12, 24, 4, 5, activation="relu", residuals=(1.0,)),
    "conv2d_sm80/8": layer(24, 8, 4, 5, shuffle=2, base="bilinear", factor=2),
    "conv2d_sm80/32": layer(3, 24, 4, 5),  # gathered
    "conv2d_tail": layer(24, 3, 4, 5, base="same"),
    "conv2d_sm90/staged": layer(16, 40, 4, 5, residuals=(1.0,)),
    "conv2d_sm90/staged_wide": layer(72, 40, 4, 5, residuals=(1.0,)),
    "conv2d_sm90/resident": layer(16, 40, 4, 5, activation="gelu", residuals=(1.0,)),
    "conv2d_sm90/streamed": layer(72, 36, 4, 5, shuffle=2, base="bilinear", factor=2),
    "conv2d_sm90/stacked": layer(16, 12, 4, 5, shuffle=2, base="nearest", factor=2),
    "conv2d_sm90/stacked_wide": layer(72, 24, 4, 5, residuals=(1.0,)),
}


def test_every_special_kernel_is_among_them(hopper):
    assert {kernel.name for kernel in cuda_plan.kernels() if kernel.special} <= KERNELS.keys()


def far(x, picture, row):
    """x's values, pictures and rows that many elements apart, in memory that is reserved and hardly taken."""
    c = x.shape[1]
    strides = picture, 1, row, c if c < 8 else c + -c % 8
    size = sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True)) + 1
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
    memory = torch.frombuffer(mmap.mmap(-1, size * x.element_size(), flags), dtype=x.dtype)
    return memory.as_strided(x.shape, strides).copy_(x)


@pytest.mark.parametrize("pitch", ["rows", "pictures"])
@pytest.mark.parametrize("name", KERNELS)
def test_offsets_are_exact(hopper, name, pitch):
    sample = KERNELS[name]
    if pitch == "pictures":
        sample = replace(sample, shape=(2, *sample.shape[1:]))
    a, plain = arguments(sample, torch.float16)
    # the last rows lie beyond, of a shuffled result or another one
    row, picture = (FAR // (2 * a.pixel_shuffle), 0) if pitch == "rows" else (1024, FAR + 64)
    a.input, a.residuals = far(a.input, picture, row), [(far(r, picture, row), f) for r, f in a.residuals]
    a.base = None if a.base is None else far(a.base, picture, row)
    y = far(torch.full(a.output_shape(), torch.nan, dtype=torch.float16), picture, row)
    assert sum((n - 1) * s for n, s in zip(y.shape, y.stride(), strict=True)) > FAR
    plan = cuda_plan.ConvPlan(a, y, [k.name for k in cuda_plan.kernels() if k.name != name])
    assert plan.name == f"cuda/{name}"
    plan.run(a, y)
    exact = reference.conv2d(**samples.convert(plain, torch.float64))
    assert_as_close(y.clone(), reference.conv2d(**plain), exact)


def refusals(shape, channels, **fields):
    """Of a layer of the meta device: why each kernel does not take it."""
    x, weight = (
        torch.empty_strided(s, dense_strides(s, torch.channels_last), dtype=torch.float16, device="meta")
        for s in (shape, (channels, shape[1], 3, 3))
    )
    a = ConvArgs(x, weight, padding=(1, 1, 1, 1), **fields)
    if a.base_mode != "none":
        base = shape[0], channels // a.pixel_shuffle**2, *shape[2:]
        a.base = torch.empty_strided(
            base, dense_strides(base, torch.channels_last), dtype=torch.float16, device="meta"
        )
    size = a.output_shape()
    y = torch.empty_strided(
        size, dense_strides(size, torch.channels_last), dtype=torch.float16, device="meta"
    )
    [phase] = cuda_plan._parts(a).values()
    step, found = cuda_plan._step(a, y, phase, None), {}
    for kernel in cuda_plan.kernels():
        step.kernel = kernel.index
        found[kernel.name] = cuda_plan.native.conv2d_refusal(step)
    return found


@pytest.mark.parametrize(
    ("shape", "channels", "fields", "taken_otherwise", "words"),
    [
        ((1, 16, 9, 1 << 27), 3, {}, (1, 16, 9, 1 << 26), {"conv2d_tail": "strides are too large"}),
        (
            (1, 16, 9, 1 << 24), 128, {"pixel_shuffle": 2}, (1, 16, 9, 1 << 20),
            {"conv2d_sm90/staged": "32-bit", "conv2d_sm90/resident": "32-bit"},
        ),
        (
            (1, 16, 9, 1 << 29), 12, {"pixel_shuffle": 2, "base_mode": "bilinear"}, (1, 16, 9, 1 << 20),
            {"conv2d_sm90/stacked": "32-bit"},
        ),
        (
            (1, 16, 9, 1 << 28), 36, {"pixel_shuffle": 1, "base_mode": "bilinear"}, (1, 16, 9, 1 << 20),
            {"conv2d_sm90/resident": "32-bit"},
        ),
        (
            (1 << 25, 16, 256, 256), 64, {}, (1 << 15, 16, 256, 256),
            {"conv2d_sm80/64": "too many tiles", "conv2d_sm90/staged": "32-bit"},
        ),
        ((1 << 25, 16, 256, 256), 3, {}, (1 << 15, 16, 256, 256), {"conv2d_tail": "too many tiles"}),
        ((1, 16, 9, 1 << 30), 64, {}, (1, 16, 9, 1 << 20), {"conv2d_sm80/64": "extent"}),
    ],
)  # fmt: skip
def test_what_32_bits_do_not_hold_is_refused(hopper, shape, channels, fields, taken_otherwise, words):
    """By shapes alone: a smaller one is taken."""
    found, smaller = refusals(shape, channels, **fields), refusals(taken_otherwise, channels, **fields)
    for name, word in words.items():
        assert word in found[name]
        assert smaller[name] == ""


def test_a_shuffle_of_too_long_a_row_raises(hopper, extension):
    width = FAR // 16
    with pytest.raises(RuntimeError, match=rf"pixel_shuffle of \(1, 32, 1, {width}\)"):
        extension.shuffle(
            0, 0, 2, 2, (1, 1, width, 8), (1, 1, 1, 32), (1, 1, 1, 8), 2, 2, False
        )  # addresses that nobody reads
