# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""optimize: capture, rewrite, prove, measure."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sr_kernels import config
from sr_kernels.backends import registry
from sr_kernels.optimizer import prove, samples, timing
from sr_kernels.optimizer.module import assembled, finished
from sr_kernels.optimizer.region import Settings
from sr_kernels.optimizer.report import Report
from sr_kernels.optimizer.samples import Sample


def optimize(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
    precision: str | None = None,
) -> Any:
    """A module that computes what `model` computes, faster: `fast = optimize(model)`.

    The largest parts of the model that can be written down as graphs run by fused kernels, the rest as
    before. The outcome is compared with the model at once, on two pictures and in float64; a rewrite that is
    off by more than the precision in force allows is undone, and what is not faster is left alone.
    `print(fast.report())` tells all that.

    Args:
        model: any module, in eval mode. It stays as it is; its parameters are shared.
        example_inputs: arguments of forward: a tensor, a tuple, or a list of such for several calls; by
            default two pictures are made up. Sizes need not be those used later.
        dtype: torch.bfloat16 or torch.float16 to compute in: a copy of the model is converted, whose inputs
            and results keep the dtype that they come with.
        backend: a backend's name, explicit; by default the first able one runs each layer.
        precision: "highest", "high" or "medium" for this module alone; by default the process's setting.

    Returns:
        A copy of the model, of a class derived from its own, with the same parameters under the same names,
        and `report()` and `original`. It takes any input size, and gradients, torch.compile and torch.export.

    Raises:
        TypeError: model is no nn.Module, or another argument is of a wrong type.
        ValueError: an unknown backend or precision.
    """
    settings = _settings(model, dtype, backend, precision)
    report = Report(type(model).__name__)
    subject = model if dtype is None else copy.deepcopy(model).to(dtype)
    with (
        _evaluating(subject),
        config.precision(precision),
        registry.use_backend(registry.chosen(backend or "")),
    ):
        tried, why = _samples(subject, example_inputs, dtype)
        if tried:
            regions = prove.regions(subject, tried, settings, report)
            if regions:
                regions = timing.kept(subject, regions, tried, report, made_up=example_inputs is None)
        else:
            regions = {}
            report.notes.append(why)
    if model.training:
        report.notes.append("it is in training mode: the original's forward runs until eval() is called")
    report.tell(regions)
    return finished(assembled(subject, regions), model, report, dtype)


def _settings(model: Any, dtype: Any, backend: Any, precision: Any) -> Settings:
    if not isinstance(model, nn.Module):
        raise TypeError(f"optimize: model is {type(model).__name__}; give a torch.nn.Module")
    if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(
            f"optimize: dtype is {dtype!r}; give None, torch.float32, torch.bfloat16 or torch.float16"
        )
    if backend is not None:
        registry.find(backend)
    if precision is not None and precision not in config.PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(config.PRECISIONS)}, got {precision!r}")
    return Settings(backend, precision)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode within, every module in its own mode afterwards."""
    flags = [(m, m.training) for m in model.modules()]
    for m, _ in flags:
        m.training = False
    try:
        yield
    finally:
        for m, flag in flags:
            m.training = flag


def _samples(model: nn.Module, example_inputs: Any, dtype: torch.dtype | None) -> tuple[list[Sample], str]:
    if example_inputs is None:
        return samples.guessed(model)
    found = samples.given(example_inputs)
    return [sample.to(dtype) for sample in found] if dtype is not None else found, ""
