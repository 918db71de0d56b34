# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""optimize: capture, rewrite, prove, measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sr_kernels import config
from sr_kernels.backends import registry
from sr_kernels.backends.base import BackendError
from sr_kernels.optimizer import samples
from sr_kernels.optimizer.copies import copied
from sr_kernels.optimizer.graph.capture import unchanged
from sr_kernels.optimizer.graph.structure import are_all_hooked
from sr_kernels.optimizer.module import Optimized, finished
from sr_kernels.optimizer.proof import prove, timing
from sr_kernels.optimizer.proof.parity import outputs
from sr_kernels.optimizer.region import Region, Settings
from sr_kernels.optimizer.report import ALL_REWRITES, Report
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
    before. The outcome is compared with the model at once, on pictures of three sizes and in float64; a
    rewrite that is off by more than the precision in force allows is undone, what is not faster left alone.
    `print(fast.report())` tells all that. A module that nothing can be done for comes back as it is.

    Args:
        model: any module, in eval mode. It stays as it is; its parameters are shared.
        example_inputs: arguments of forward: a tensor, a tuple, a dict by name, or a list of such for several
            calls; by default pictures are made up. Sizes need not be those used later.
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
        BackendError: a backend that this machine or build does not have.
    """
    settings = _settings(model, dtype, backend, precision)
    given = None if example_inputs is None else samples.given(example_inputs)
    compiled, model = model, _unwrapped(model)
    report = Report(type(model).__name__)
    if _is_compiled(compiled):
        report.notes.append("it was compiled; this is the module that torch.compile was given")
    subject = model
    regions: dict[str, Region] = {}
    try:
        with (
            _untouched(model),
            _evaluating(model),
            config.precision(precision),
            registry.use_backend(registry.chosen(backend or "")),
        ):
            subject, regions, dtype = _optimised(model, given, dtype, settings, report)
    except Exception as error:  # whatever a module may do: it runs as it did
        report.notes.append(f"it could not be optimised ({type(error).__name__}: {error})")
        dtype = None
    if model.training:
        report.notes.append("it is in training mode: the original's forward runs until eval() is called")
    report.tell(regions)
    for m, was in zip(subject.modules(), model.modules(), strict=False):
        m.training = was.training
    return finished(subject, regions, model, report, dtype)


def _optimised(
    model: nn.Module,
    given: list[Sample] | None,
    dtype: torch.dtype | None,
    settings: Settings,
    report: Report,
) -> tuple[nn.Module, dict[str, Region], torch.dtype | None]:
    """The module that is to run, its regions, and the dtype that inputs are converted to."""
    if isinstance(model, torch.jit.ScriptModule):
        report.notes.append("it is a compiled TorchScript module; optimize the module that it was made of")
        return model, {}, None
    if are_all_hooked():
        report.notes.append(
            "hooks of all modules are registered, which see every layer; remove them, then optimize"
        )
        return model, {}, None
    if given is not None and dtype is None and (wrong := _refused(model, given)):
        report.notes.append(f"it does not take the example inputs ({wrong}); give what it is called with")
        return model, {}, None
    tried, why = (given, "") if given is not None else samples.guessed(model)
    subject = model if dtype is None else copied(model).to(dtype)
    if dtype is not None and tried:
        converted = [sample.to(dtype) for sample in tried]
        try:
            outputs(converted[0], subject)
            tried = converted
        except Exception as error:
            report.notes.append(f"it does not run in {dtype} ({error}); nothing is converted")
            subject, dtype = model, None
    if not tried:
        report.notes.append(why)
        return subject, {}, dtype
    large = tried[0] if given is not None else samples.larger(subject, tried[0])
    larger = [large] if large is not tried[0] else []
    regions = prove.regions(subject, tried, larger, settings, report)
    kept = timing.kept(subject, regions, large, report) if regions else {}
    if "" in regions and not kept:  # parts may gain what PyTorch's operations between them lose as a whole
        report.left[""] = report.undone.pop(ALL_REWRITES)
        regions = prove.regions(subject, tried, larger, settings, report, whole=False)
        kept = timing.kept(subject, regions, large, report) if regions else {}
    return subject, kept, dtype


def _is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile made it. To ask its class would be to import the compiler."""
    return type(model).__module__ == "torch._dynamo.eval_frame" and "_orig_mod" in model._modules


def _refused(model: nn.Module, given: Sequence[Sample]) -> str:
    """What the module says against the examples."""
    try:
        with torch.no_grad():
            for sample in given:
                sample.to_copy().run(model)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module itself, where an optimised or compiled one is given."""
    if _is_compiled(model):
        return _unwrapped(model.get_submodule("_orig_mod"))
    if isinstance(model, Optimized) and model._sr_original is not None:
        return model._sr_original
    return model


def _settings(model: Any, dtype: Any, backend: Any, precision: Any) -> Settings:
    if not isinstance(model, nn.Module):
        raise TypeError(f"optimize: model is {type(model).__name__}; give a torch.nn.Module")
    if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(
            f"optimize: dtype is {dtype!r}; give None, torch.float32, torch.bfloat16 or torch.float16"
        )
    if backend is not None:
        registry.find(backend)
        reasons = registry.unavailable(backend)
        if reasons:
            raise BackendError(
                f"optimize: backend {backend!r} was asked for and cannot run here: {'; '.join(reasons)}. "
                "Leave it out, and the first able one runs each layer."
            )
    if precision is not None and precision not in config.PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(config.PRECISIONS)}, got {precision!r}")
    return Settings(backend, precision)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Whatever the caller has switched on is off within; what runs of the model leave in it, and the random
    numbers that they draw, are taken back."""
    if any(is_lazy(t) for t in (*model.parameters(), *model.buffers())):
        raise ValueError("its parameters have no size yet; call it once, then optimize it")
    tensors = [t for t in (*model.parameters(), *model.buffers()) if not t.is_meta]
    kept = [(t, t.detach().clone()) for t in tensors]
    devices = sorted({t.device.index or 0 for t in tensors if t.is_cuda})
    try:
        with (
            torch.random.fork_rng(devices=devices),
            torch.inference_mode(False),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False) if devices else nullcontext(),
            unchanged(model),
        ):
            yield
    finally:
        for t, before in kept:
            if not torch.equal(t, before):
                with torch.inference_mode() if t.is_inference() else torch.no_grad():
                    t.copy_(before)


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
