# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A small proof on each device before a kernel of this backend is used there, against the op in float64: by
kind of kernel and dtype, when one is first asked for. Passes are kept on disk by device, driver, triton and
source."""

from __future__ import annotations

import functools
import hashlib
import math
import threading
import warnings
from collections.abc import Iterator
from importlib import resources

import torch
from torch import Tensor

from sr_kernels import reference
from sr_kernels.backends import selfcheck
from sr_kernels.backends.base import ActivationArgs, ConvArgs, dense_strides
from sr_kernels.backends.triton import configs, moves, plan
from sr_kernels.backends.triton.launch import INTERPRETED

MOVES = ("shuffles", "sum", "pictures", "backward")
_lock = threading.Lock()
# (device, kind, dtype) -> why it failed, "" where it passed
_results: dict[tuple[int, str, torch.dtype], str] = {}


def reasons(device: torch.device, kind: str, dtype: torch.dtype) -> list[str]:
    """Why kernels of a kind, a way of reading of configs.LOADS or one of MOVES, may not be used for dtype on
    the device; checked at first use."""
    if INTERPRETED:
        return []
    key = device.index if device.index is not None else torch.cuda.current_device(), kind, dtype
    found = _results.get(key)
    if found is None:
        with _lock:
            found = _results.get(key)
            if found is None:
                try:
                    found = _results[key] = _proved(*key)
                except _Later as later:
                    return [str(later)]
    return [found] if found else []


def report() -> dict[str, str]:
    """Every device, kind and dtype with "passed" or what failed."""
    return {
        f"{plan.chip(index)} device {index}, {kind} of {str(dtype).removeprefix('torch.')}": (
            reasons(torch.device("cuda", index), kind, dtype) or ["passed"]
        )[0]
        for index in range(torch.cuda.device_count())
        for kind, dtype in kinds()
        if kind != "boxes" or plan.has_boxes(index)
    }


def kinds() -> Iterator[tuple[str, torch.dtype]]:
    """All that is checked."""
    for kind in (*configs.LOADS, *MOVES):
        for dtype in (torch.float32,) if kind in ("shuffles", "pictures") else plan.DTYPES:
            yield kind, dtype


class _Later(Exception):
    """Nothing can be proved now; another call may ask again."""


@functools.cache
def _source() -> str:
    """A hash over the kernels: what was proved of others says nothing."""
    h = hashlib.sha256()
    for name in ("conv.py", "epilogue.py", "pointwise.py", "backward.py"):
        h.update(resources.files(__package__).joinpath("kernels", name).read_bytes())
    return h.hexdigest()[:16]


@torch.no_grad()
def _proved(index: int, kind: str, dtype: torch.dtype) -> str:
    device = torch.device("cuda", index)
    key = f"{plan.device_key(index)} | {kind} | {dtype} | {_source()}"
    if kind in configs.LOADS:  # a table may name another configuration since
        for a, _ in _layers(kind, dtype, torch.device("meta")):
            key += f" | {configs.choose(plan.layer_of(a, kind), plan.chip(index), plan.device_key(index))}"
    if selfcheck.remembered(key):
        return ""
    if torch.cuda.is_current_stream_capturing():
        raise _Later("the self-check of the kernels does not run while a graph is captured: call once before")
    try:
        wrong = check(device, kind, dtype)
    except torch.cuda.OutOfMemoryError as error:
        raise _Later(f"no memory for the self-check of the kernels: {error}") from error
    except Exception as error:  # the compiler or the driver may fail in ways of their own
        wrong = f"{type(error).__name__}: {error}"
    if not wrong:
        selfcheck.remember(key)
        return ""
    what = f"that read by {kind}" if kind in configs.LOADS else f"of {kind}"
    reason = f"the kernels {what} failed their self-check in {dtype} on {plan.device_key(index)}: {wrong}"
    warnings.warn(f"sr_kernels: {reason}; other kernels run instead", RuntimeWarning, stacklevel=2)
    return reason


def check(device: torch.device, kind: str, dtype: torch.dtype) -> str:
    """What is wrong with the kernels of a kind, "" where nothing is."""
    if kind in configs.LOADS:
        found = [_check_layer(a, kind, second) for a, second in _layers(kind, dtype, device)]
    else:
        found = list(_CHECKS[kind](device, dtype))
    return "; ".join(wrong for wrong in found if wrong)


def _random(device: torch.device, dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + math.prod(shape))
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(device, dtype)
    return drawn.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else drawn


def _layers(kind: str, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[ConvArgs, int]]:
    """3x3 layers, most of them of networks, on ragged pictures, and how many channels a second tensor gives:
    one with PReLU, scale and a residual; one with a shuffle by 2 and a base enlarged to it."""
    h, w = 11, 19
    given = functools.partial(_random, device, dtype)
    ci = 3 if kind == "window" else 64
    stride = 2 if kind == "pointers" else 1
    co = 3 if kind == "taps" else 64
    weight = (given(co, ci, 3, 3) / (9 * ci) ** 0.5).contiguous()
    a = ConvArgs(given(1, ci, h, w), weight, given(co), stride=(stride, stride), padding=(1, 1, 1, 1))
    a.activation, a.prelu_weight, a.scale = "prelu", given(co, seed=1), 0.5
    a.residuals = [(given(*a.output_shape(), seed=2), -1.5)]
    yield a, 0
    second = 32 if kind == "boxes" else 0
    co, ci = 4 if kind == "taps" else 32, ci + second
    weight = (given(co, ci, 3, 3) / (9 * ci) ** 0.5).contiguous()
    a = ConvArgs(given(1, ci, h, w), weight, given(co), padding=(1, 1, 1, 1), activation="silu")
    a.pixel_shuffle, a.base, a.base_mode = 2, given(1, co // 4, h, w, seed=3), "bilinear"
    yield a, second


def _check_layer(a: ConvArgs, load: str, second: int) -> str:
    def double(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.detach().cpu().double()

    exact = reference.conv2d(
        a.input.cpu().double(), a.weight.cpu().double(), double(a.bias), stride=a.stride, padding=a.padding,
        activation=a.activation, prelu_weight=double(a.prelu_weight), scale=a.scale,
        residuals=[(r.cpu().double(), f) for r, f in a.residuals], pixel_shuffle=a.pixel_shuffle,
        base=double(a.base), base_mode=a.base_mode,
    )  # fmt: skip
    shape = a.output_shape()
    y = torch.full((math.prod(shape),), torch.nan, dtype=a.input.dtype, device=a.input.device)
    y = y.as_strided(shape, dense_strides(shape, torch.channels_last))
    x, x2 = a.input, None
    if second:
        x, x2 = x[:, :-second], x[:, -second:]
    a.input = x
    plan.ConvPlan(a, y, load, plan.choose(a, load), second).launch(a, x, y, x2)
    return _differs(y, exact, "a layer")


def _differs(y: Tensor, exact: Tensor, what: str) -> str:
    """A result is rounded once, its terms of about 1 in float32 by far less, which a wrong index is not.
    Of TF32, where that is allowed, operands have 11 bits."""
    terms = 2.0**-6 if plan.precision_of(y.dtype) == "tf32" else 2.0**-12
    error = (y.cpu().double() - exact).abs()
    if bool((error <= torch.finfo(y.dtype).eps * exact.abs() + terms).all()):
        return ""
    return f"{what}: largest error {float(error.nan_to_num().max()):.3g}, NaN {bool(y.isnan().any())}"


def _check_shuffles(device: torch.device, dtype: torch.dtype) -> Iterator[str]:
    for layout in (torch.contiguous_format, torch.channels_last):
        coarse = _random(device, dtype, 2, 16, 3, 5).contiguous(memory_format=layout)
        fine = reference.pixel_shuffle(coarse.cpu(), 2).contiguous(memory_format=layout)
        if not torch.equal(moves.shuffle(coarse, 2).cpu(), fine):
            yield f"pixel_shuffle, {layout}"
        if not torch.equal(moves.unshuffle(fine.to(device), 2).cpu(), coarse.cpu()):
            yield f"pixel_unshuffle, {layout}"


def _check_sum(device: torch.device, dtype: torch.dtype) -> Iterator[str]:
    x, r = (_random(device, dtype, 2, 3, 11, 19, seed=seed) for seed in range(2))
    for residuals in ([(r, -2.0)], [(r, -2.0), (x, 0.5)]):
        exact = reference.residual_add(
            x.cpu().double(), [(t.cpu().double(), f) for t, f in residuals], scale=0.25
        )
        yield _differs(moves.add(x, residuals, 0.25), exact, "residual_add")


def _check_pictures(device: torch.device, _: torch.dtype) -> Iterator[str]:
    for dtype in (torch.uint8, torch.uint16):
        values = torch.linspace(0, torch.iinfo(dtype).max, 105, dtype=torch.float64, device="cpu")
        picture = values.round().to(torch.int32).to(dtype).view(5, 7, 3)
        floats = moves.to_float(picture.to(device))
        if not torch.equal(floats.cpu(), reference.image_to_float(picture)):
            yield f"image_to_float, {dtype}"
        if not torch.equal(moves.to_image(floats, dtype).cpu().to(torch.int32), picture.to(torch.int32)):
            yield f"float_to_image, {dtype}"


def _check_backward(device: torch.device, dtype: torch.dtype) -> Iterator[str]:
    grad, saved = (_random(device, dtype, 2, 7, 11, 19, seed=seed) for seed in range(2))
    slopes = _random(device, dtype, 7)
    dz, db, dslopes = moves.activation_backward(
        ActivationArgs(grad, saved, "prelu", 0.0, slopes, from_output=False, scale=0.5)
    )
    g, z, s = (t.cpu().double() for t in (grad, saved, slopes))
    expected = 0.5 * g * torch.where(z > 0, 1.0, s.view(1, -1, 1, 1))
    yield _differs(dz, expected, "the gradient")
    # sums of 418 terms in float32
    for found, exact in ((db, expected), (dslopes, torch.where(z > 0, 0.0, 0.5 * g * z))):
        total = exact.sum((0, 2, 3))
        if found is None or not bool(((found.cpu().double() - total).abs() <= 2.0**-12).all()):
            yield "a sum of the gradient"


_CHECKS = {
    "shuffles": _check_shuffles,
    "sum": _check_sum,
    "pictures": _check_pictures,
    "backward": _check_backward,
}
