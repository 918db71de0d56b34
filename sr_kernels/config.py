# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The one table of environment variables, and the precision setting. Imports no torch."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

BACKENDS = ("cpu", "cuda", "triton", "torch")
CPU_ISAS = ("scalar", "avx2", "avx512", "avx512bf16", "amx")
PRECISIONS = ("highest", "high", "medium")


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        name = text.strip().lower()
        if name not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return name

    return parse


def _path(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").replace(";", " ").split())


@dataclass(frozen=True)
class Variable:
    """One environment variable; `parse` turns its text into a value or raises ValueError."""

    name: str
    meaning: str
    default: str
    parse: Callable[[str], Any]
    build_time: bool = False


ENVIRONMENT: dict[str, Variable] = {
    v.name: v
    for v in (
        Variable(
            "SR_KERNELS_BACKEND",
            "backend of every op: auto lets the first able one run, any other name is explicit and raises "
            "where that backend cannot run",
            "auto",
            _one_of("auto", *BACKENDS),
        ),
        Variable(
            "SR_KERNELS_CPU_ISA",
            "highest instruction set that the CPU kernels may use; never raises what the machine has",
            CPU_ISAS[-1],
            _one_of(*CPU_ISAS),
        ),
        Variable(
            "SR_KERNELS_CACHE_DIR",
            "folder of what is kept between runs, such as the results of self-checks",
            os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "sr_kernels"),
            _path,
        ),
        Variable(
            "SR_KERNELS_BUILD_NATIVE",
            "build the native extension: 1 fails where it cannot be built, 0 leaves it out, auto tries",
            "auto",
            _one_of("auto", "0", "1"),
            build_time=True,
        ),
        Variable(
            "SR_KERNELS_CUDA_ARCHS",
            "CUDA architectures to compile for, such as 80 90a, separated by spaces, commas or semicolons",
            "80 86 89 90a 120",
            _words,
            build_time=True,
        ),
    )
}


def get(name: str) -> Any:
    """The parsed value of a variable of the table, its default where it is unset or empty.

    Raises KeyError for a name outside the table and ValueError for a value that does not parse.
    """
    variable = ENVIRONMENT[name]
    text = os.environ.get(name) or variable.default
    # a path's meaning depends on the folder and the home at the time
    return _parse(name, text) if variable.parse is _path else _parsed(name, text)


def _parse(name: str, text: str) -> Any:
    variable = ENVIRONMENT[name]
    try:
        return variable.parse(text)
    except ValueError as error:
        raise ValueError(f"environment variable {name}={text!r}: {error}; {variable.meaning}") from None


_parsed = functools.lru_cache(64)(_parse)
_precision = "high"


_of_context: contextvars.ContextVar[str | None] = contextvars.ContextVar("sr_kernels_precision", default=None)


def get_precision() -> str:
    """The precision in force: "highest", "high" or "medium"."""
    return _of_context.get() or _precision


@contextlib.contextmanager
def precision(name: str | None) -> Iterator[None]:
    """Within it, in this thread, that precision; None leaves the one in force. Raises ValueError for another
    name."""
    if name is None:
        yield
        return
    if name not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    token = _of_context.set(name)
    try:
        yield
    finally:
        _of_context.reset(token)


class set_precision:
    """Sets how far an op may stray from eager PyTorch, for the whole process, as torch's own
    `set_float32_matmul_precision` does.

    An op's error against float64 is at most 2x eager's for "highest", 4x for "high" (the default). "medium"
    lets float32 layers round their inputs and weights to bfloat16 where the processor multiplies such values
    faster (AMX, AVX512-BF16 on AMD): they are then as exact as eager is in bfloat16, about three digits. Used
    as a context manager, it restores the former setting on exit. Raises ValueError for another name.
    """

    def __init__(self, precision: str) -> None:
        global _precision
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.previous = _precision
        _precision = precision

    def __enter__(self) -> set_precision:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _precision
        _precision = self.previous
