# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A module whose forward is replayed as a CUDA graph, one per shape of its inputs."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from sr_kernels.nn.replays import Replays


class Graphed(nn.Module):
    """Equal to `module` in inference; what Python and launches cost, one replay costs instead.

    For small pictures, where launching takes longer than computing: on an H100 SRVGG takes 1.3 ms for 256x256
    pixels call by call, and 0.23 ms as a graph (docs/gpu.md). The first two calls of a shape run the module,
    the third captures it, later ones replay. Graphs are kept per shape, strides, dtype and device of the
    inputs, precision and backend, least recently used out first: at most `most_graphs`, and while there are
    several at most `most_bytes` of memory. Inputs of more than `most_pixels` pixels (N*H*W), inputs not on a
    GPU, calls that need gradients, autocast, and modules in training mode run as they are.

    Weights that were written to or moved are noticed, but for inference tensors, which count no versions;
    after a parameter was replaced by another object, or a module by another, call `reset`.

    Inputs are positional tensors. The module must return one tensor that depends on them, parameters and
    buffers alone, and its forward must not wait for the device. The result is new memory at every call.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        most_graphs: int = 8,
        most_pixels: int = 1 << 19,
        most_bytes: int = 1 << 30,
    ) -> None:
        """Raises ValueError for a bound below 1, TypeError for what is no module."""
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"Graphed: module must be a torch.nn.Module, got {type(module).__name__}")
        for name, value in (
            ("most_graphs", most_graphs), ("most_pixels", most_pixels), ("most_bytes", most_bytes)
        ):  # fmt: skip
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.module = module
        self.most_graphs, self.most_pixels, self.most_bytes = most_graphs, most_pixels, most_bytes
        self.train(module.training)
        self.reset()

    def reset(self) -> None:
        """Forgets all graphs; later calls capture anew."""
        self._tensors: list[Tensor] | None = None
        self._replays = Replays(
            self.module,
            self._weights,
            most_graphs=self.most_graphs,
            most_pixels=self.most_pixels,
            most_bytes=self.most_bytes,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_replays", "_tensors")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.reset()

    def extra_repr(self) -> str:
        return f"graphs={len(self._replays)} of {self.most_graphs}"

    def forward(self, *inputs: Tensor) -> Tensor:
        trains = self.training or self.module.training
        if trains or not self._replays.takes(inputs) or self._needs_gradients(inputs):
            result: Tensor = self.module(*inputs)
            return result
        return self._replays(*inputs)

    def _needs_gradients(self, inputs: tuple[Tensor, ...]) -> bool:
        return torch.is_grad_enabled() and any(
            t.requires_grad for t in itertools.chain(inputs, self.module.parameters())
        )

    def _weights(self) -> list[Tensor]:
        if self._tensors is None:  # to walk through the modules takes longer than a small forward
            self._tensors = [*self.module.parameters(), *self.module.buffers()]
        return self._tensors
