# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Every test starts from one seed and at most two threads; `poisoned` fills new memory with NaN."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# Without a GPU Triton's kernels are run by its interpreter, which is chosen when they are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Of tests/gpu; they stand here because pytest reads options from the outermost conftest alone."""
    group = parser.getgroup("gpu")
    group.addoption(
        "--gpu-device", default="cuda", help='where tests/gpu run; "cpu" tries the tests themselves'
    )
    group.addoption(
        "--gpu-all", action="store_true", help="every sample in every dtype, minutes of compiling"
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(min(2, len(os.sched_getaffinity(0)), torch.get_num_threads()))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """torch.empty and its kin give NaN (integers: the largest value): what is left unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)
    torch.utils.deterministic.fill_uninitialized_memory = fill
