# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The check of integer arguments that layers, models and the pipeline share."""

from __future__ import annotations


def check_integer(name: str, value: object, least: int = 1) -> None:
    """Raises TypeError or ValueError, beginning with `name`, unless value is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; give an integer")
    if value < least:
        wanted = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{name} is {value}; give {wanted}")


def check_positive(owner: str, **values: object) -> None:
    """Raises TypeError or ValueError that names the first argument of `owner` (a layer, a model) which is no
    positive integer, nor a tuple or list of them."""
    for name, value in values.items():
        if isinstance(value, (tuple, list)):
            for i, number in enumerate(value):
                check_integer(f"{owner}: {name}[{i}]", number)
        else:
            check_integer(f"{owner}: {name}", value)
