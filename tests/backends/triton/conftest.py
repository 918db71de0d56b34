# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Where there is no GPU, Triton's interpreter runs its kernels on CPU tensors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

from sr_kernels.backends import registry  # noqa: E402
from sr_kernels.backends.triton.launch import INTERPRETED  # noqa: E402


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """backend="triton" takes CPU tensors."""
    if not INTERPRETED:
        pytest.skip(
            "Triton compiles here: TRITON_INTERPRET=1 interprets; tests/gpu runs the kernels on the device"
        )
    monkeypatch.setitem(registry._ORDER, "cpu", (*registry.order("cpu"), "triton"))
    yield
    registry._prepared.clear()
