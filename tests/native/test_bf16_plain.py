# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The kernels of bfloat16 products without such instructions: bf16_plain.cpp stands for these."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

cpu_pack = pytest.importorskip("sr_kernels.backends.cpu_pack", reason="the native extension is not built")

CSRC = Path(__file__).resolve().parents[2] / "csrc"
KERNELS = [(0, 2), (1, 4)]  # list and how many it has: tiles, vectors


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    made = tmp_path_factory.mktemp("plain") / "bf16_plain.so"
    units = [Path(__file__).with_name("bf16_plain.cpp"), CSRC / "cpu" / "threads.cpp"]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"]
    subprocess.run([compiler, *flags, f"-I{CSRC}", *units, "-ldl", "-o", made], check=True)
    library = ctypes.CDLL(str(made))
    library.kernel_of.restype = ctypes.c_char_p
    library.convolve.restype = ctypes.c_bool
    return library


def kernel_of(plain, kernels, index):
    shape = (ctypes.c_int64 * 3)()
    name = plain.kernel_of(ctypes.c_int64(kernels), ctypes.c_int64(index), shape)
    channels, pixels, depth = shape
    return name and SimpleNamespace(
        name=name.decode(), kind="bf16", channels=channels, pixels=pixels, depth=depth, lanes=4
    )


def run(plain, kernels, index, x, weight, bias, stride, dilation, padding):
    """conv2d by that kernel into memory full of NaN; x (N, H, W, Ci), padding (top, left, bottom, right)."""
    kernel = kernel_of(plain, kernels, index)
    (n, h, w, ci), (co, _, kh, kw) = x.shape, weight.shape
    top, left, bottom, right = padding
    oh, ow = (
        (size - dilation * (k - 1) - 1) // stride + 1
        for size, k in ((h + top + bottom, kh), (w + left + right, kw))
    )
    packed = cpu_pack._pack(weight, kernel, 1)
    y = torch.full((n, oh, ow, co), float("nan"), dtype=x.dtype)
    bias = F.pad(bias, (0, -co % kernel.channels))
    dtype = 0 if x.dtype == torch.float32 else 1
    sizes = [n, h, w, ci, oh, ow, co, kh, kw, stride, stride, dilation, dilation, top, left, dtype]
    assert plain.convolve(
        ctypes.c_int64(kernels),
        ctypes.c_int64(index),
        (ctypes.c_int64 * len(sizes))(*sizes),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, packed, bias, y)),
    )
    return y


def test_all_kernels_are_in_these_tests(plain):
    names = [[kernel_of(plain, kernels, i) for i in range(count + 1)] for kernels, count in KERNELS]
    assert [kernel and kernel.name for kernel in names[0]] == ["bf16_tiles_2x2", "bf16_tiles_4x1", None]
    vectors = ["bf16_1x24", "bf16_2x14", "bf16_3x8", "bf16_4x6", None]
    assert [kernel and kernel.name for kernel in names[1]] == vectors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kernels", "index"), [(k, i) for k, count in KERNELS for i in range(count)])
def test_ragged_shapes(plain, kernels, index, dtype):
    """Against float64, of values that bfloat16 holds: what is left is the rounding of float32 sums."""
    torch.manual_seed(index)
    kernel = kernel_of(plain, kernels, index)
    # What an earlier call left in the scratch memory must not matter.
    poison = torch.full((1, 40, 70, 64), float("nan"), dtype=dtype)
    weight = torch.randn(kernel.channels, 64, 3, 3)
    run(plain, kernels, index, poison, weight, torch.zeros(kernel.channels), 1, 1, (1, 1, 1, 1))
    for h, w, ci, co, size, stride, dilation, padding in (
        (1, 1, 16, 1, 1, 1, 1, (0, 0, 0, 0)),
        (5, kernel.pixels, 32, kernel.channels, 3, 1, 1, (1, 1, 1, 1)),
        (7, kernel.pixels + 1, 33, kernel.channels + 1, 3, 1, 1, (2, 0, 1, 3)),
        (9, 2 * kernel.pixels - 1, 17, 2 * kernel.channels + 5, 3, 2, 1, (1, 1, 0, 2)),
        (11, 67, 50, 7, 5, 1, 2, (4, 3, 5, 4)),
        (12, 131, 70, 3, 2, 2, 2, (0, 1, 1, 0)),
    ):
        x = torch.randn(2, h, w, ci).bfloat16()
        weight = (torch.randn(co, ci, size, size) / (ci * size * size) ** 0.5).bfloat16().float()
        bias = torch.randn(co)
        y = run(plain, kernels, index, x.to(dtype), weight, bias, stride, dilation, padding)
        top, left, bottom, right = padding
        padded = F.pad(x.double().permute(0, 3, 1, 2), (left, right, top, bottom))
        exact = F.conv2d(padded, weight.double(), bias.double(), stride, 0, dilation).permute(0, 2, 3, 1)
        terms = F.conv2d(padded.abs(), weight.double().abs(), bias.double().abs(), stride, 0, dilation)
        # A sum of n terms is off by n roundings of the sum of their sizes at most (Higham 2002, chapter 4).
        roundings = (ci + kernel.depth) * size * size * 2.0**-24
        bound = roundings * terms.permute(0, 2, 3, 1)
        if dtype == torch.bfloat16:
            bound = bound + 2.0**-8 * exact.abs()
        assert y.shape == exact.shape
        assert bool(((y.double() - exact).abs() <= bound).all()), (h, w, ci, co, size)
