# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A small proof on each device before a kernel of this backend is used there: one layer for each way of
reading the input, against NumPy in float64. Passes are kept on disk by device, driver, triton and source."""

from __future__ import annotations

import functools
import hashlib
import threading
import warnings
from importlib import resources

import numpy as np
import torch

from sr_kernels.backends import selfcheck
from sr_kernels.backends.base import ConvArgs, dense_strides, pixel_major
from sr_kernels.backends.triton import configs, plan
from sr_kernels.backends.triton.launch import INTERPRETED

_lock = threading.Lock()
_results: dict[tuple[int, str], str] = {}  # (device, load) -> why it failed, "" where it passed


def reasons(device: torch.device, load: str) -> list[str]:
    """Why kernels that read in this way may not be used on the device; checked at first use."""
    if INTERPRETED:
        return []
    key = device.index if device.index is not None else torch.cuda.current_device(), load
    found = _results.get(key)
    if found is None:
        with _lock:
            found = _results.get(key)
            if found is None:
                found = _results[key] = _proved(*key)
    return [found] if found else []


def report() -> dict[str, str]:
    """Every device and way of reading with "passed" or what failed."""
    return {
        f"{plan.chip(index)} device {index}, {load}": (
            reasons(torch.device("cuda", index), load) or ["passed"]
        )[0]
        for index in range(torch.cuda.device_count())
        for load in configs.LOADS
        if load != "boxes" or plan.has_boxes(index)
    }


@functools.cache
def _source() -> str:
    """A hash over the kernels: what was proved of others says nothing."""
    h = hashlib.sha256()
    for name in ("conv.py", "epilogue.py"):
        h.update(resources.files(__package__).joinpath("kernels", name).read_bytes())
    return h.hexdigest()[:16]


def _proved(index: int, load: str) -> str:
    key = f"{plan.device_key(index)} | {load} | {_source()}"
    if selfcheck.remembered(key):
        return ""
    try:
        wrong = check(torch.device("cuda", index), load)
    except Exception as error:  # the compiler or the driver may fail in ways of their own
        wrong = f"{type(error).__name__}: {error}"
    if not wrong:
        selfcheck.remember(key)
        return ""
    reason = f"the kernels that read by {load} failed their self-check on {plan.device_key(index)}: {wrong}"
    warnings.warn(f"sr_kernels: {reason}; other kernels run instead", RuntimeWarning, stacklevel=2)
    return reason


def check(device: torch.device, load: str) -> str:
    """A 3x3 layer with PReLU, scale and a residual, its picture ragged; what is wrong, or ""."""
    rng = np.random.default_rng(0)
    ci, co = (3 if load == "window" else 40), (3 if load == "taps" else 24)
    h, w = 11, 19
    x, residual = rng.standard_normal((h, w, ci)), rng.standard_normal((h, w, co))
    weight, bias, slope = (
        rng.standard_normal((co, ci, 3, 3)),
        rng.standard_normal(co),
        rng.standard_normal(co),
    )
    x, residual, weight, bias, slope = (
        v.astype(np.float16).astype(np.float64) for v in (x, residual, weight, bias, slope)
    )
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    truth = (
        sum(padded[ky : ky + h, kx : kx + w] @ weight[:, :, ky, kx].T for ky in range(3) for kx in range(3))
        + bias
    )
    truth = np.where(truth > 0, truth, truth * slope) * 0.5 + residual

    def given(v: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(v).to(device, torch.float16)

    def picture(v: np.ndarray) -> torch.Tensor:
        return given(v).permute(2, 0, 1).unsqueeze(0)

    a = ConvArgs(
        picture(x), given(weight), given(bias), padding=(1, 1, 1, 1), activation="prelu",
        prelu_weight=given(slope), scale=0.5, residuals=[(picture(residual), 1.0)],
    )  # fmt: skip
    shape = (1, co, h, w)
    y = torch.full((h * w * co,), torch.nan, dtype=torch.float16, device=device)
    y = y.as_strided(shape, dense_strides(shape, torch.channels_last))
    # a whole output is off by half a unit in the last place, its sums in float32 by far less
    c = configs.default(plan.layer_of(a, load))
    plan.ConvPlan(a, y, load, c).launch(a, pixel_major(a.input), y)
    found = y[0].permute(1, 2, 0).double().cpu().numpy()
    bound = 2.0**-10 * np.abs(truth) + 2.0**-12
    error = np.abs(found - truth)
    return (
        ""
        if (error <= bound).all()
        else f"largest error {float(np.nanmax(error)):.3g}, NaN {np.isnan(found).any()}"
    )
