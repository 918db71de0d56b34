# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A case of a model that a user has: embedded, of a checkpoint, or an architecture with made-up weights."""

from __future__ import annotations

import ast
import contextlib
from dataclasses import dataclass
from typing import Any

import torch

from sr_kernels import models
from sr_kernels.bench import plain
from sr_kernels.bench.problem import Case, Problem
from sr_kernels.models import SRModel
from sr_kernels.pipeline import resolve_model


@dataclass(frozen=True)
class ModelCase(Case):
    """source: an embedded model's name, a checkpoint's path, or an architecture's name, which then gets
    Kaiming weights. options: the architecture's arguments, or what the checkpoint does not tell."""

    source: str = "compact"
    scale: int | None = None
    options: tuple[tuple[str, str], ...] = ()

    group = "network"
    whole = True

    def model(self) -> SRModel:
        """Raises what create, load and resolve_model raise, TypeError for a model without a plain form."""
        if self.source in models.list_models():
            sizes: dict[str, Any] = {} if self.scale is None else {"scale": self.scale}
            model = models.create(self.source, **sizes | {key: _value(text) for key, text in self.options})
            plain.kaiming_(model)
            return model
        found = resolve_model(self.source, self.scale, dict(self.options) or None)
        assert isinstance(found, SRModel)  # a name or a path stands for nothing else
        return found

    def build(self) -> Problem:
        """Raises ValueError for a size that the model does not take."""
        model = self.model()
        multiple = model.input_multiple
        if self.height % multiple or self.width % multiple:
            raise ValueError(f"size is {self.width}x{self.height}; this model takes multiples of {multiple}")
        network = plain.of(model)
        shape = (1, model.in_channels, self.height, self.width)
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        return Problem(network, network, (x,), base=getattr(network, "base", None))


def _value(text: str) -> Any:
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text
