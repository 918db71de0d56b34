# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""From a graph and the values of one run of it to steps: which nodes run natively, and what they read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.nn import Parameter
from torch.utils._pytree import tree_leaves

from sr_kernels import config, ops
from sr_kernels.backends.base import (
    DenseBlockArgs,
    dense_strides,
    is_pixel_major,
    memory_format_of,
    shuffled,
    unshuffled,
)
from sr_kernels.backends.cpu_program import Layer, Layers, Settings
from sr_kernels.backends.params import DTYPES
from sr_kernels.backends.registry import chosen, select
from sr_kernels.ops import _arguments
from sr_kernels.ops._conv_transpose2d import as_convolution, repeated
from sr_kernels.optimizer.graph.graphs import is_random
from sr_kernels.optimizer.plan.sizes import Decisions, Sizes
from sr_kernels.optimizer.plan.steps import Add, Call, Cat, Conv, Copy, Lowered, Shuffle, Step, Value

_TENSORS = frozenset(("input", "weight", "bias", "prelu_weight", "residual", "base", "layers"))
_EPILOGUE = ("activation", "negative_slope", "backend")
_CATS = (torch.cat, torch.concat, torch.concatenate)
# What asks tensors for no values: methods and attributes, functions.
_OF_SHAPE = frozenset(
    [
        "size",
        "shape",
        "stride",
        "dim",
        "ndim",
        "ndimension",
        "numel",
        "nelement",
        "element_size",
        "itemsize",
        "dtype",
        "device",
        "layout",
        "type",
        "is_floating_point",
        "is_complex",
        "is_contiguous",
        "is_cpu",
        "is_cuda",
        "requires_grad",
        "get_device",
        "__len__",
    ]
)
_FUNCTIONS_OF_SHAPE = (
    len,
    torch.numel,
    torch.is_tensor,
    torch.is_floating_point,
    torch.is_complex,
    isinstance,
)
# These give the same for the same numbers.
_MAKERS = (torch.zeros, torch.ones, torch.full, torch.arange, torch.linspace, torch.eye, torch.tensor)


def same_layout(shape: Sequence[int], a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether tensors of this shape and of strides a and b lie alike in memory."""
    return 0 in shape or all(n == 1 or i == j for n, i, j in zip(shape, a, b, strict=True))


class _Unfixed(Exception):
    """A number that an op is given does not follow from shapes."""


class Lowering:
    """One graph's. What it asks of sizes it asks by its decisions: the steps are those of all sizes with the
    same answers."""

    def __init__(self, graph: Graph, values: Mapping[Node, Any]) -> None:
        self.values = values
        self.layers = Layers(config.get_precision(), chosen())
        self.decisions = Decisions(Sizes(values, self.layers))
        self.steps: list[Step] = []
        self.constants: dict[Node, None] = {}
        self.fixed: dict[Node, Any] = {}
        self.made: dict[Node, Value] = {}
        self.outside: dict[Node, Value] = {}
        self.calls: dict[Node, Call] = {}
        self.seen_by_python: dict[Node, Value] = {}
        self.pixels: dict[Node, Value] = {}  # of tensors from outside, pixel by pixel
        self.known: dict[Any, Layer] = {}
        self.blocks: dict[Any, list[Layer]] = {}
        self.inputs = [node for node in graph.nodes if node.op == "placeholder"]
        self.output: Any = None
        for node in graph.nodes:
            self._lower(node)

    def result(self) -> Lowered:
        """What the graph came down to."""
        return Lowered(
            self.steps,
            self.inputs,
            self.output,
            list(self.constants),
            self.fixed,
            self.seen_by_python,
            self.outside,
            self.layers,
            self.decisions,
        )

    def _lower(self, node: Node) -> None:
        if node.op == "placeholder":
            return
        if node.op == "output":
            self.output = node.args[0]
            self._give(tree_leaves(self.output))
            return
        if node.op == "get_attr":
            self.constants[node] = None
            return
        value = self.values[node]
        if not isinstance(value, Tensor) and self._is_fixed(node, value):
            self.fixed[node] = value
            return
        if node.op != "call_module" and self._is_constant(node):
            self.constants[node] = None
            return
        lower = _NATIVE.get(node.target) if node.op == "call_function" else None
        try:
            done = lower is not None and lower(self, node)
        except _Unfixed:
            done = False
        if not done:
            self._call(node)

    def _is_fixed(self, node: Node, value: Any) -> bool:
        """Whether shapes alone decide what is no tensor."""
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            return False
        if node.op == "call_method":
            of_shape = node.target in _OF_SHAPE
        elif node.target is getattr:
            of_shape = node.args[1] in _OF_SHAPE
        else:
            of_shape = node.target in _FUNCTIONS_OF_SHAPE
        return of_shape or all(n in self.fixed for n in node._input_nodes)

    def _is_constant(self, node: Node) -> bool:
        read = node._input_nodes
        if not all(n in self.constants or n in self.fixed for n in read):
            return False
        is_constant = any(n in self.constants for n in read) and not is_random(node)
        if not (is_constant or node.target in _MAKERS):
            return False
        for n in read:
            if n in self.fixed:
                self._number(n)
        return True

    def _number(self, node: Node) -> Any:
        """What shapes decide, and a form depends on."""
        return self.decisions.ask(lambda sizes: sizes.values[node], node)

    # What Python sees.

    def _call(self, node: Node) -> None:
        kept = node.op == "call_module"  # a hook may keep what it is shown
        seen = [self._shown(n, kept) for n in node.all_input_nodes if n in self.made]
        call = self.calls[node] = Call(node, seen)
        self.steps.append(call)
        call.aliases = self.decisions.ask(lambda sizes: _aliases(node, sizes.values))
        if kept:
            self._give(node.all_input_nodes)

    def _shown(self, node: Node, is_kept: bool) -> Value:
        """A made value as the run before gave it."""
        value = self.seen_by_python.get(node)
        if value is None:
            value = self.made[node]
            if not self.decisions.ask(lambda sizes: _lies_as(sizes.values[node], torch.channels_last)):
                made, value = value, Value(value.shape, value.dtype, planar=True)
                self.steps.append(Copy(made, value))
            value.is_whole, value.node = True, node
            self.seen_by_python[node] = value
        value.is_fresh |= is_kept
        return value

    def _give(self, leaves: Sequence[Any]) -> None:
        """Values that are somebody else's from now on, and what shares memory with them."""
        for leaf in leaves:
            if not isinstance(leaf, Node):
                continue
            if leaf in self.made:
                self._shown(leaf, is_kept=True)
            elif leaf in self.calls:
                self._give(self.calls[leaf].aliases)

    # What native steps read.

    def _plain(self, arg: Any) -> Any:
        """An argument whose nodes, if any, stand for what shapes decide."""
        if isinstance(arg, Node):
            if arg not in self.fixed:
                raise _Unfixed
            return self._number(arg)
        if isinstance(arg, (list, tuple)):
            return tuple(self._plain(item) for item in arg)
        return arg

    def _known(self, *nodes: Any) -> bool:
        return all(node is None or node in self.constants for node in nodes)

    def _tensor(self, node: Any) -> Tensor | None:
        """The recorded tensor of a node if it is a picture of the CPU's, or stands for one; else None."""
        value = self.values.get(node) if isinstance(node, Node) else None
        if type(value) is Tensor or type(value) is Parameter:
            return value if value.dim() == 4 and (value.is_cpu or value.is_meta) else None
        return None

    def _from_outside(self, node: Node) -> Value:
        value = self.outside.get(node)
        if value is None:
            x = self.values[node]
            value = Value(tuple(x.shape), x.dtype, is_made=False, node=node)
            self.outside[node] = value
        return value

    def _any_layout(self, node: Node) -> Value:
        return self.made[node] if node in self.made else self._from_outside(node)

    def _pixel_major(self, node: Node, *, is_whole: bool = False) -> Value:
        """The value with each pixel's channels side by side, all pixels too if it is to be whole."""
        if node in self.made:
            self.made[node].is_whole |= is_whole
            return self.made[node]
        value = self._from_outside(node)

        def fits(sizes: Sizes) -> bool:
            x = sizes.values[node]
            return _lies_as(x, torch.channels_last) if is_whole else is_pixel_major(x)

        if self.decisions.ask(fits, node, is_whole):
            return value
        if node not in self.pixels:
            self.pixels[node] = Value(value.shape, value.dtype)
            self.steps.append(Copy(value, self.pixels[node]))
        self.pixels[node].is_whole |= is_whole
        return self.pixels[node]

    def _is_among_natives(self, node: Node, *read: Any) -> bool:
        """Whether what the node reads or gives is native anyway."""
        return any(n in self.made for n in read) or any(user.target in _NATIVE for user in node.users)

    # The ops.

    def _layer(self, given: Mapping[str, Any], x: Sequence[int], dtype: torch.dtype, **more: Any) -> Layer:
        """The layer of conv2d's keyword arguments but the tensors, of which `more` tells, for an input of
        shape x; both as in Settings."""
        numbers = tuple((key, value) for key, value in given.items() if key not in _TENSORS)
        key = x, dtype, *numbers, *more.values()
        try:
            return self.known[key]
        except (KeyError, TypeError):  # a list or a node among the numbers
            pass
        op, plain = "conv2d", {name: self._plain(value) for name, value in numbers}
        stride = _arguments.pair(op, "stride", plain.get("stride", 1))
        dilation = _arguments.pair(op, "dilation", plain.get("dilation", 1))
        plain |= {"stride": stride, "dilation": dilation}
        if "padding" not in more:
            padding = plain.get("padding", 0)
            plain["padding"] = _arguments.padding(op, padding, more["weight"][2:], stride, dilation)
        plain = {name: value for name, value in plain.items() if value is not None}
        layer = self.layers.find(Settings(shape=tuple(x), dtype=dtype, **plain, **more))
        with contextlib.suppress(TypeError):
            self.known[key] = layer
        return layer

    def _runs(self, layer: Layer, node: Node, x: Node) -> bool:
        if not self.decisions.ask(lambda sizes: sizes.layer(layer).is_native(), layer):
            return False
        self.decisions.ask(lambda sizes: sizes.layer(layer).is_enlarging, "enlarging", layer)

        def as_it_comes(sizes: Sizes) -> bool:
            return sizes.layer(layer).is_native(memory_format_of(sizes.values[x]))

        # An input that is to be converted, and the result back, is worth it for several layers.
        return self._is_among_natives(node, x) or self.decisions.ask(as_it_comes)

    def _conv2d(self, node: Node) -> bool:
        given = _given(node, "input", "weight", "bias")
        return self._convolution(node, given, given["input"], [given])

    def _conv2d_chain(self, node: Node) -> bool:
        given = _given(node, "input", "layers")
        backend = given.get("backend") or ""
        layers = [{**layer, "backend": backend} for layer in given["layers"]]
        return self._convolution(node, given, given["input"], layers)

    def _convolution(
        self, node: Node, given: dict[str, Any], input: Any, layers: Sequence[Mapping[str, Any]]
    ) -> bool:
        """conv2d of these arguments one after the other; nothing is done unless all are native."""
        recorded = self._tensor(input)
        if recorded is None:
            return False
        found = []
        shape: Sequence[int] = recorded.shape
        for arguments in layers:
            weight, bias, prelu = (arguments.get(name) for name in ("weight", "bias", "prelu_weight"))
            if weight is None or not self._known(weight, bias, prelu):
                return False
            pairs = self._pairs(arguments.get("residual"))
            base = arguments.get("base")
            if pairs is None or (base is not None and self._tensor(base) is None):
                return False
            layer = self._layer(
                arguments,
                shape,
                recorded.dtype,
                weight=self.values[weight].shape,
                slopes=0 if prelu is None else self.values[prelu].shape[0],
                residuals=tuple([number for _, number in pairs]),
                base=None if base is None else self.values[base].shape,
            )
            if not self._runs(layer, node, input):
                return False
            shape = layer.output_shape
            found.append((layer, weight, bias, prelu, [n for n, _ in pairs], base))
        x = self._pixel_major(input)
        for layer, weight, bias, prelu, residuals, base in found:
            y = Value(layer.output_shape, recorded.dtype)
            added = [self._pixel_major(n) for n in residuals]
            below = None if base is None else self._pixel_major(base)
            self.steps.append(Conv(layer, x, y, weight, bias, prelu, added, below))
            x = y
        self.made[node] = x
        return True

    def _pairs(self, residual: Any) -> list[tuple[Node, float]] | None:
        """(node, number) pairs; None where one is no picture."""
        if residual is None:
            return []
        pairs = [(residual, 1.0)] if isinstance(residual, Node) else residual
        if any(self._tensor(n) is None for n, _ in pairs):
            return None
        return [(n, self._plain(number)) for n, number in pairs]

    def _conv_transpose2d(self, node: Node) -> bool:
        given = _given(node, "input", "weight", "bias")
        input, weight, bias = given["input"], given["weight"], given.get("bias")
        prelu, recorded = given.get("prelu_weight"), self._tensor(input)
        if recorded is None or not self._known(weight, bias, prelu):
            return False
        op = "conv_transpose2d"
        stride = _arguments.pair(op, "stride", self._plain(given.get("stride", 1)))
        padding = _arguments.pair(op, "padding", self._plain(given.get("padding", 0)))
        s = stride[0]
        if s != stride[1] or self.decisions.ask(
            lambda sizes: any(n % s for n in sizes.values[node].shape[2:])
        ):
            return False
        size, full = tuple(recorded.shape[2:]), tuple(self.values[node].shape[2:])

        def rearrange(
            weight: Tensor, bias: Tensor | None, prelu: Tensor | None
        ) -> tuple[Tensor, Tensor | None, Tensor | None]:
            if prelu is not None and prelu.shape[0] > 1:
                prelu = repeated(prelu, s * s)
            return *as_convolution(size, full, weight, bias, s, padding)[:2], prelu

        def sides_of(sizes: Sizes) -> list[int]:
            small, large = (sizes.values[n].shape[2:] for n in (input, node))
            return as_convolution(small, large, sizes.values[weight], None, s, padding)[2]

        subpixel, sides = (
            as_convolution(size, full, self.values[weight], None, s, padding)[0],
            self.decisions.ask(sides_of),
        )
        slopes = 0 if prelu is None else self.values[prelu].shape[0]
        layer = self._layer(
            {key: value for key, value in given.items() if key in _EPILOGUE},
            recorded.shape,
            recorded.dtype,
            weight=tuple(subpixel.shape),
            padding=tuple(sides),
            slopes=slopes * s * s if slopes > 1 else slopes,
            pixel_shuffle=s,
        )
        if not self._runs(layer, node, input):
            return False
        x, y = self._pixel_major(input), Value(layer.output_shape, recorded.dtype)
        self.steps.append(Conv(layer, x, y, weight, bias, prelu, rearrange=rearrange))
        self.made[node] = y
        return True

    def _dense_block(self, node: Node) -> bool:
        given = _given(node, "input", "weights", "biases")
        input, weights, biases = given["input"], given["weights"], given["biases"]
        pairs, recorded = self._pairs(given.get("residual")), self._tensor(input)
        if recorded is None or pairs is None or not self._known(*weights, *biases):
            return False
        shapes = [tuple(self.values[weight].shape) for weight in weights]
        slope, scale = (self._plain(given.get(name, 0.2)) for name in ("negative_slope", "scale"))
        numbers = (self._plain(given.get("input_scale", 1.0)), *(number for _, number in pairs))
        layers = self._block(input, shapes, slope, scale, numbers, given.get("backend") or "")
        if layers is None:
            return False
        x = wide = self._pixel_major(input)
        features = [x]
        for i, layer in enumerate(layers):
            if i:
                wide = Value(layer.settings.shape, x.dtype)
                self.steps.append(Cat(list(features), wide))
            y = Value(layer.output_shape, x.dtype)
            conv = Conv(layer, wide, y, weights[i], biases[i])
            if i == len(layers) - 1:
                conv.residuals = [x, *(self._pixel_major(r) for r, _ in pairs)]
            self.steps.append(conv)
            features.append(y)
        self.made[node] = features[-1]
        return True

    def _block(
        self,
        input: Node,
        shapes: Sequence[tuple[int, ...]],
        slope: float,
        scale: float,
        numbers: tuple[float, ...],
        backend: str,
    ) -> list[Layer] | None:
        """A dense block's layers; None where it does not run natively."""
        x = self.values[input]

        def is_native(sizes: Sizes) -> bool:
            y = sizes.values[input]
            weights = [torch.empty(shape, dtype=y.dtype, device="meta") for shape in shapes]
            residuals = [(y, number) for number in numbers[1:]]
            args = DenseBlockArgs(y, weights, [None] * len(weights), residuals=residuals)
            return select("dense_block", "cpu", args, backend).name == "cpu"

        key = x.shape, x.dtype, tuple(shapes), slope, scale, numbers, backend
        if not self.decisions.ask(is_native, *key):
            return None
        if key not in self.blocks:
            n, _, h, w = x.shape
            found: list[Layer] = []
            for shape in shapes:
                settings = Settings((n, shape[1], h, w), x.dtype, shape, padding=(shape[2] // 2,) * 4)
                if len(found) < len(shapes) - 1:
                    settings = settings._replace(activation="leaky_relu", negative_slope=slope)
                else:
                    settings = settings._replace(scale=scale, residuals=numbers)
                found.append(self.layers.find(settings))
            self.blocks[key] = found
        return self.blocks[key]

    def _pixel_shuffle(self, node: Node) -> bool:
        return self._shuffle(node, inverse=False)

    def _pixel_unshuffle(self, node: Node) -> bool:
        return self._shuffle(node, inverse=True)

    def _shuffle(self, node: Node, *, inverse: bool) -> bool:
        op = "pixel_unshuffle" if inverse else "pixel_shuffle"
        name = "downscale_factor" if inverse else "upscale_factor"
        given = _given(node, "input", name)
        input, factor, backend = given["input"], self._plain(given[name]), given.get("backend") or ""
        recorded = self._tensor(input)
        if recorded is None or not self._is_among_natives(node, input):
            return False

        def is_native(sizes: Sizes) -> bool:
            return select(op, "cpu", (sizes.values[input], factor), backend).name == "cpu"

        if not self.decisions.ask(is_native):
            return False
        shape = (unshuffled if inverse else shuffled)(recorded.shape, factor)
        y = Value(shape, recorded.dtype)
        self.steps.append(Shuffle(self._pixel_major(input), y, factor, inverse))
        self.made[node] = y
        return True

    def _residual_add(self, node: Node) -> bool:
        given = _given(node, "input", "residual")
        pairs = self._pairs(given["residual"])
        recorded, scale = self._tensor(given["input"]), self._plain(given.get("scale", 1.0))
        if recorded is None or pairs is None or recorded.dtype not in DTYPES:
            return False
        if not self._is_among_natives(node, given["input"], *(n for n, _ in pairs)):
            return False
        numbers = [scale, *(number for _, number in pairs)]
        input, backend = given["input"], given.get("backend") or ""

        def is_native(sizes: Sizes) -> bool:
            args = sizes.values[input], [(sizes.values[n], number) for n, number in pairs], scale
            return select("residual_add", "cpu", args, backend).name == "cpu"

        # The sum of two is left to PyTorch's own add because that is as fast, not for what it gives.
        able = chosen(backend) == "auto" and numbers == [1.0, 1.0]
        if not (able or self.decisions.ask(is_native)):
            return False
        terms = [self._pixel_major(n, is_whole=True) for n in (given["input"], *(n for n, _ in pairs))]
        y = Value(tuple(recorded.shape), recorded.dtype, is_whole=True)
        self.steps.append(Add(terms, numbers, y))
        self.made[node] = y
        return True

    def _cat(self, node: Node) -> bool:
        given = _given(node, "tensors", "dim")
        parts, dim = given["tensors"], self._plain(given.get("dim", 0))
        if not isinstance(parts, (list, tuple)) or dim not in (1, -3) or given.get("out") is not None:
            return False
        found = [self._tensor(part) for part in parts]
        y = self.values[node]
        if any(part is None or part.dtype != y.dtype for part in found) or y.dtype.itemsize > 8:
            return False
        if not self._is_among_natives(node, *parts):
            return False
        formats = (torch.channels_last, torch.contiguous_format)
        if not self.decisions.ask(lambda sizes: any(_lies_as(sizes.values[node], f) for f in formats)):
            return False
        value = Value(tuple(y.shape), y.dtype)
        self.steps.append(Cat([self._any_layout(part) for part in parts], value))
        self.made[node] = value
        return True


def _given(node: Node, *names: str) -> dict[str, Any]:
    """A node's arguments by name; names: those of the first ones."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _storages(value: Any) -> set[int]:
    return {x.untyped_storage()._cdata for x in tree_leaves(value) if isinstance(x, Tensor)}


def _aliases(node: Node, values: Mapping[Node, Any]) -> list[Node]:
    """Arguments whose memory the result shares."""
    storages = _storages(values[node])
    return [n for n in node.all_input_nodes if storages & _storages(values[n])]


def _lies_as(x: Tensor, memory_format: torch.memory_format) -> bool:
    return same_layout(x.shape, x.stride(), dense_strides(x.shape, memory_format))


_NATIVE: dict[Any, Callable[[Lowering, Node], bool]] = {
    ops.conv2d: Lowering._conv2d,
    ops.conv2d_chain: Lowering._conv2d_chain,
    ops.conv_transpose2d: Lowering._conv_transpose2d,
    ops.dense_block: Lowering._dense_block,
    ops.pixel_shuffle: Lowering._pixel_shuffle,
    ops.pixel_unshuffle: Lowering._pixel_unshuffle,
    ops.residual_add: Lowering._residual_add,
    **dict.fromkeys(_CATS, Lowering._cat),
}
