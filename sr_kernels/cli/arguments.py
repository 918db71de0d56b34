# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Kinds of arguments that the commands share, for argparse."""

from __future__ import annotations

import argparse
import os
import re


def positive(text: str) -> int:
    """An integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, found {text!r}")
    return value


def threads(text: str) -> int:
    """A number of threads that a machine can start: up to four for each processor."""
    value, most = positive(text), 4 * (os.cpu_count() or 1)
    if value > most:
        raise argparse.ArgumentTypeError(
            f"must be at most {most}, four for each processor of this machine, found {value}"
        )
    return value


def setting(text: str) -> tuple[str, str]:
    """KEY=VALUE as a pair."""
    key, equals, value = text.partition("=")
    if not (key.isidentifier() and equals and value):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, found {text!r}")
    return key, value


def size(text: str) -> tuple[int, int]:
    """WxH as (width, height)."""
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, as 320x180, found {text!r}")
    return int(match[1]), int(match[2])
