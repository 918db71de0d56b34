# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The instruction sets of this machine and their kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import sr_kernels._C as _C
from sr_kernels.backends import cpu_pack


class Isa:
    """One instruction set of this machine: its index in the extension, vector width and kernels."""

    def __init__(
        self,
        index: int,
        name: str,
        lanes: int,
        fast_bf16: bool,
        kernels: Sequence[tuple[str, str, str, int, int, int]],
    ) -> None:
        self.index = index
        self.name = name
        self.lanes = lanes
        self.kernels = [cpu_pack.Kernel(index, lanes, i, *kernel) for i, kernel in enumerate(kernels)]
        self.unit = self.kernels[0].unit  # of all but the kernels that a set adds to the one below it
        # The unit that multiplies bfloat16 values, and whether it does so in less time than float32 takes.
        self.bf16 = next((k.unit for k in reversed(self.kernels) if k.kind == "bf16"), None)
        self.fast_bf16 = fast_bf16
        self._chosen: dict[tuple[int, int, str], cpu_pack.Kernel] = {}

    def kernel_for(self, co: int, ci: int, kind: str) -> cpu_pack.Kernel:
        """The kernel for these channels among those of a kind, see `_kind`."""
        key = (co, ci, kind)
        kernel = self._chosen.get(key)
        if kernel is None:
            kernel = self._chosen[key] = self._choose(*key)
        return kernel

    def _choose(self, co: int, ci: int, kind: str) -> cpu_pack.Kernel:
        if kind in ("direct", "winograd") and co <= 4 and ci >= self.lanes:
            return next(k for k in self.kernels if k.kind == "thin" and k.channels == co)
        # Fewest padded channels first, then the widest block: it reads each input least often.
        able = [k for k in self.kernels if k.kind == kind and (kind != "bf16" or k.unit == self.bf16)]
        return min(able, key=lambda k: (math.ceil(co / k.channels) * k.channels, -k.channels))


ISAS = [Isa(index, *isa) for index, isa in enumerate(_C.isas())]
