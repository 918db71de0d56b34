# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Why a forward cannot be followed, in words of the one who wrote it, and where."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

# What torch.fx, Python or torch say where something is asked of a stand-in that only a tensor can tell.
_WORDS = (
    ("inputs to control flow", "its forward decides by a value or size that only a call tells"),
    ("cannot be iterated", "its forward unpacks or loops over what has a length that only a call tells"),
    ("must be a string, a bytes-like object or a real number", "{number}"),
    ("cannot be interpreted as an integer", "{number}"),
    ("slice indices must be integers", "{number}"),
    ("item assignment", "its forward writes into a part of a tensor"),
    ("not installed as a submodule", "its forward calls a module that is no attribute of one"),
    ("unknown to einops", "its forward gives a tensor to einops, which takes no stand-in for one"),
    ("'len' is not supported", "its forward asks for a length that only a call tells"),
)
_NUMBER = "its forward makes a number of Python's of a value or size that only a call tells"
_STAND_INS = ("Proxy", "_Value", "symbolic", "torch.fx", "__array_struct__")
_HERE, _TORCH = (str(Path(module).parent) for module in (__file__, torch.__file__))


def why_not_followed(error: Exception) -> str:
    """A sentence for a report."""
    text = str(error).strip()
    where = _where(error)
    for part, words in _WORDS:
        if part in text:
            return words.format(number=_NUMBER) + where
    if any(word in text for word in _STAND_INS):
        return f"its forward does with a tensor what takes the tensor itself{where}"
    first = text.splitlines()[0].rstrip(".")[:160] if text else ""
    return f"following its forward fails{where}: " + ": ".join(filter(None, (type(error).__name__, first)))


def _where(error: Exception) -> str:
    """The line that was followed last, of the code that is not torch's or the library's."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        outside = not frame.filename.startswith((_HERE, _TORCH, "<")) and "/einops/" not in frame.filename
        if outside and frame.lineno:
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""
