# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs of one function, one per kind of its inputs, and their memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sr_kernels import config
from sr_kernels.backends import registry
from sr_kernels.backends.kept import stamp_of

# Runs before a capture: kernels are compiled, and what is packed of weights that have changed is kept from
# the second use on.
_WARM_RUNS = 2
_capturing = threading.Lock()


@dataclass
class _Graph:
    """A captured call with the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor
    weights: Hashable
    held: list[Tensor]  # what the graph reads: neither address nor id is given out again
    bytes: int
    done: torch.cuda.Event  # after the last replay


class CaptureError(RuntimeError):
    """A function's call cannot be captured."""


class Replays:
    """Calls a function of tensors: the first two of a kind of inputs as it is, the third is captured, later
    ones are replays. Kinds differ in shapes, strides, dtype and device of the inputs, precision and backend;
    least recently used graphs go first."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        weights: Callable[[], Sequence[Tensor]],
        *,
        most_graphs: int = 8,
        most_pixels: int = 1 << 19,
        most_bytes: int = 1 << 30,
    ) -> None:
        """function: gives one new tensor that depends on its inputs and the weights alone, without waiting
        for the device. weights: what it reads beside its inputs. Bounds: graphs at a time, pixels (N*H*W) of
        one input, bytes of all graphs while they are several."""
        self._function, self._weights = function, weights
        self.most_graphs, self.most_pixels, self.most_bytes = most_graphs, most_pixels, most_bytes
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._seen: OrderedDict[Hashable, tuple[Hashable, int]] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._graphs)

    def takes(self, inputs: Sequence[object]) -> bool:
        """Whether a call with these inputs may be captured: plain tensors of a GPU, not many pixels, and
        nobody who would see the call, gradients and training apart."""
        tensors = [x for x in inputs if type(x) is Tensor and x.is_cuda]
        if not tensors or len(tensors) < len(inputs) or torch.compiler.is_compiling():
            return False
        pixels = max(x.numel() // max(x.shape[1], 1) if x.dim() > 1 else x.numel() for x in tensors)
        return (
            0 < pixels <= self.most_pixels
            and not torch.is_autocast_enabled("cuda")
            and not torch.cuda.is_current_stream_capturing()
        )

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result for inputs that it `takes`, in new memory."""
        shapes = tuple((x.shape, x.stride(), x.dtype, x.device) for x in inputs)
        key = shapes, config.get_precision(), registry.chosen(), _modes()
        with self._lock:
            tensors = self._weights()
            weights = tuple((id(t), *stamp_of(t)) for t in tensors)
            found = self._graphs.get(key)
            if found is not None and found.weights != weights:
                self._graphs.pop(key).done.synchronize()
                found = None
            if found is None:
                before, runs = self._seen.pop(key, (weights, 0))
                runs = runs if before == weights else 0
                if runs < _WARM_RUNS:
                    self._seen[key] = weights, runs + 1
                    while len(self._seen) > 16 * self.most_graphs:
                        self._seen.popitem(last=False)
                    return self._function(*inputs)
                found = self._graphs[key] = self._capture(inputs, weights, tensors)
                self._evict()
            if key in self._graphs:
                self._graphs.move_to_end(key)
            return _replay(found, inputs)

    def _capture(self, inputs: tuple[Tensor, ...], weights: Hashable, tensors: Sequence[Tensor]) -> _Graph:
        try:
            return self._captured(inputs, weights, [*tensors, *(t.detach() for t in tensors)])
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            raise CaptureError(f"the call cannot be captured as a CUDA graph: {error}") from error

    def _captured(self, inputs: tuple[Tensor, ...], weights: Hashable, held: list[Tensor]) -> _Graph:
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
                output = self._function(*static)
            size = max(torch.cuda.memory_reserved() - before, 0)
        if not isinstance(output, Tensor):
            raise TypeError(f"a CUDA graph's function must return one tensor, got {type(output).__name__}")
        return _Graph(graph, static, output, weights, held, size, torch.cuda.Event())

    def _evict(self) -> None:
        """Graphs in excess, the oldest first; the newest stays."""
        held = sum(graph.bytes for graph in self._graphs.values())
        while len(self._graphs) > 1 and (len(self._graphs) > self.most_graphs or held > self.most_bytes):
            _, old = self._graphs.popitem(last=False)
            old.done.synchronize()
            held -= old.bytes


def _modes() -> Hashable:
    """What decides beside the arguments which kernels run."""
    return (
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )


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
