# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Deep copies of modules that torch's own protocol refuses."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def copied(module: M, shared: nn.Module | None = None) -> M:
    """A deep copy, but for a module that it names and shares. What a hook has computed and left as an
    attribute, as that of torch.nn.utils.weight_norm does with `weight`, is copied without its history: the
    hook computes it again."""
    found: dict[int, object] = {id(shared): shared}
    for m in module.modules():
        for x in vars(m).values():
            if isinstance(x, Tensor) and not x.is_leaf:
                found[id(x)] = x.detach().clone()
    return copy.deepcopy(module, found)
