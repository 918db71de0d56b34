# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The kernels of ours on a GPU: each test runs for every backend that is able there and asserts that it ran.

`--gpu-device cpu` runs the same tests on the CPU's backend, to try the tests themselves without a GPU.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sr_kernels.backends import available_backends, registry
from tests.gpu import cases

_FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--gpu-device") == "cuda" and not torch.cuda.is_available():
        for item in items:
            if _FOLDER in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def able(device: str) -> list[str]:
    """Ours, in the order of the automatic choice."""
    return [name for name in registry.order(device) if name != "torch" and not available_backends()[name]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """backend: each of ours; with dtype and sample: those that cases.OVER lists for the test."""
    if "backend" not in metafunc.fixturenames:
        return
    test = metafunc.definition.originalname
    device = metafunc.config.getoption("--gpu-device")
    backends = able(device)
    if not backends:
        absent = "; ".join(f"{n}: {', '.join(r)}" for n, r in available_backends().items() if r)
        none = pytest.param("none", marks=pytest.mark.skip(reason=f"no backend of ours ({absent})"))
        metafunc.parametrize("backend", [none])
        backends = ["none"]
    elif test not in cases.OVER:
        metafunc.parametrize("backend", backends)
    if test not in cases.OVER:
        return
    everything = metafunc.config.getoption("--gpu-all")
    found = [
        (backend, dtype, sample)
        for backend in backends
        for dtype in cases.DTYPES
        for sample in cases.over(test, backend, dtype, everything)
    ]
    if backends == ["none"]:
        metafunc.parametrize(("dtype", "sample"), [entry[1:] for entry in found[:1]], ids=["none"])
        return
    names = [f"{backend}-{str(dtype)[6:]}-{cases.name(sample)}" for backend, dtype, sample in found]
    metafunc.parametrize(("backend", "dtype", "sample"), found, ids=names)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many samples each backend has left to PyTorch, and why."""
    skipped = terminalreporter.stats.get("skipped", [])
    texts = [str(r.longrepr[2]) for r in skipped if isinstance(r.longrepr, tuple)]
    found = Counter(text.removeprefix("Skipped: ") for text in texts if cases.REFUSES in text)
    if found:
        terminalreporter.section("refused samples")
        for text, count in sorted(found.items()):
            terminalreporter.write_line(f"{count:4} {text}")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--gpu-device"))


@pytest.fixture(autouse=True)
def _device_survives(device: str) -> Iterator[None]:
    """An error such as an illegal access leaves the process without its device: the other tests go on in a
    new process where pytest-xdist makes one, and end here otherwise."""
    yield
    if device != "cuda":
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        text = f"the device is lost: {str(error).splitlines()[0]}"
        if "PYTEST_XDIST_WORKER" not in os.environ:
            pytest.exit(text, returncode=1)
        print(text, file=sys.__stderr__, flush=True)
        os._exit(1)


@pytest.fixture(autouse=True)
def _full_float32() -> Iterator[None]:
    """float32 is float32, in eager too: without TF32."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed
