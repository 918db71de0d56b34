# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend on emulated kernels and tensors of the CPU."""

from collections.abc import Iterator

import pytest
import torch

from sr_kernels.backends import cuda, cuda_check, cuda_plan
from tests.native.cuda import emulated


@pytest.fixture(scope="session")
def extension():
    emulated.require()
    return emulated.build()


@pytest.fixture(params=emulated.ORDERS)
def order(request, monkeypatch) -> None:
    """Every order in which an emulated block may run."""
    for name, value in emulated.ORDERS[request.param].items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def hopper(extension, monkeypatch) -> Iterator[cuda.CudaBackend]:
    """A CudaBackend whose kernels have passed their checks, on a device of compute capability 9.0."""
    monkeypatch.setattr(cuda_plan, "native", extension)
    cuda_plan.kernels.cache_clear()
    names = [*(kernel.name for kernel in cuda_plan.kernels()), cuda_check._MEMORY]
    monkeypatch.setattr(cuda_check, "_results", {-1: dict.fromkeys(names, "")})
    yield cuda.CudaBackend()
    cuda_plan.kernels.cache_clear()


@pytest.fixture
def backend(hopper, monkeypatch) -> cuda.CudaBackend:
    """The same with the portable kernels alone."""
    every = cuda_plan.kernels_on
    monkeypatch.setattr(cuda_plan, "kernels_on", lambda device: [k for k in every(device) if not k.special])
    return hopper


_MARGIN = 64  # elements


@pytest.fixture
def poisoned(monkeypatch) -> Iterator[None]:
    """New results are filled with NaN before a kernel writes them, and nothing is written around them."""
    made: list[tuple[torch.Tensor, float]] = []

    def filled(shape, strides, like):
        poison = torch.nan if like.is_floating_point() else 77
        size = (
            sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1 if all(shape) else 0
        )
        memory = like.new_full((size + 2 * _MARGIN,), poison)
        made.append((memory, poison))
        return memory.as_strided(shape, strides, _MARGIN)

    monkeypatch.setattr(cuda_plan, "empty", filled)
    yield
    for memory, poison in made:
        around = torch.cat([memory[:_MARGIN], memory[-_MARGIN:]])
        assert torch.equal(around, torch.full_like(around, poison)) or bool(around.isnan().all())
