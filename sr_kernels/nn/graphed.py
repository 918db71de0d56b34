# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A module whose forward is replayed as a CUDA graph, one per shape of its inputs."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sr_kernels import config
from sr_kernels.backends import registry

# Runs before a capture: kernels are compiled, and what is packed of weights that have changed is kept from
# the second use on.
_WARM_RUNS = 2
_capturing = threading.Lock()


@dataclass
class _Graph:
    """A captured forward with the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor
    weights: Hashable
    bytes: int
    done: torch.cuda.Event = field(default_factory=torch.cuda.Event)  # after the last replay


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
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._seen: OrderedDict[Hashable, tuple[Hashable, int]] = OrderedDict()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_graphs", "_seen", "_lock", "_tensors")
        return {name: value for name, value in self.__dict__.items() if name not in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.reset()

    def extra_repr(self) -> str:
        return f"graphs={len(self._graphs)} of {self.most_graphs}"

    def forward(self, *inputs: Tensor) -> Tensor:
        if not self._graphable(inputs):
            result: Tensor = self.module(*inputs)
            return result
        shapes = tuple((x.shape, x.stride(), x.dtype, x.device) for x in inputs)
        key = shapes, config.get_precision(), registry.chosen(), torch.is_inference_mode_enabled()
        with self._lock:
            weights = self._weights()
            found = self._graphs.get(key)
            if found is not None and found.weights != weights:
                del self._graphs[key]
                found = None
            if found is None:
                before, runs = self._seen.pop(key, (weights, 0))
                runs = runs if before == weights else 0
                if runs < _WARM_RUNS:
                    self._seen[key] = weights, runs + 1
                    while len(self._seen) > 16 * self.most_graphs:
                        self._seen.popitem(last=False)
                    result = self.module(*inputs)
                    return result
                found = self._graphs[key] = self._capture(inputs, weights)
                self._evict()
            if key in self._graphs:
                self._graphs.move_to_end(key)
            return _replay(found, inputs)

    def _graphable(self, inputs: tuple[Tensor, ...]) -> bool:
        if not inputs or torch.compiler.is_compiling() or self.training or self.module.training:
            return False
        if not all(type(x) is Tensor and x.is_cuda for x in inputs):
            return False
        pixels = max(x.numel() // max(x.shape[1], 1) if x.dim() > 1 else x.numel() for x in inputs)
        needs = torch.is_grad_enabled() and any(
            t.requires_grad for t in itertools.chain(inputs, self.module.parameters())
        )
        return (
            0 < pixels <= self.most_pixels
            and not needs
            and not torch.is_autocast_enabled("cuda")
            and not torch.cuda.is_current_stream_capturing()
        )

    def _weights(self) -> Hashable:
        """Differs where a parameter or buffer was moved or written to."""
        if self._tensors is None:  # to walk through the modules takes longer than a small forward
            self._tensors = [*self.module.parameters(), *self.module.buffers()]
        return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in self._tensors)

    def _capture(self, inputs: tuple[Tensor, ...], weights: Hashable) -> _Graph:
        static = tuple(torch.empty_like(x) for x in inputs)
        graph = torch.cuda.CUDAGraph()
        device = inputs[0].device
        # One capture at a time in a process, and on a stream of this device: torch's own is the first one's.
        with _capturing, torch.cuda.device(device):
            for mine, given in zip(static, inputs, strict=True):
                mine.copy_(given)
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            with torch.cuda.graph(graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"):
                output = self.module(*static)
            size = max(torch.cuda.memory_reserved() - before, 0)
        if not isinstance(output, Tensor):
            raise TypeError(f"Graphed: the module must return one tensor, got {type(output).__name__}")
        return _Graph(graph, static, output, weights, size)

    def _evict(self) -> None:
        """Graphs in excess, the oldest first; the newest stays."""
        held = sum(graph.bytes for graph in self._graphs.values())
        while len(self._graphs) > 1 and (len(self._graphs) > self.most_graphs or held > self.most_bytes):
            _, old = self._graphs.popitem(last=False)
            old.done.synchronize()
            held -= old.bytes


def _replay(found: _Graph, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.cuda.device(found.output.device):
        stream = torch.cuda.current_stream()
        stream.wait_event(found.done)  # another stream's replay of the same memory
        for mine, given in zip(found.inputs, inputs, strict=True):
            mine.copy_(given)
        found.graph.replay()
        result = found.output.clone()
        found.done.record(stream)
    return result
