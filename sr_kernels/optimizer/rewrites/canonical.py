# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""One spelling for each operation: modules, functions and methods become calls of `vocabulary`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from sr_kernels import ops
from sr_kernels.backends.base import with_format
from sr_kernels.nn.activation import arguments_of
from sr_kernels.optimizer.graph import graphs
from sr_kernels.optimizer.graph.graphs import is_image, is_tensor, lookup, number, replace
from sr_kernels.optimizer.graph.vocabulary import activate, batch_norm, enlarge, pad
from sr_kernels.optimizer.rewrites import reparametrised
from sr_kernels.optimizer.rewrites.conv3xc import conv3xc, is_conv3xc
from sr_kernels.optimizer.rewrites.convs import DEFAULTS

Known = tuple[Any, tuple[Any, ...], dict[str, Any]]


def canonicalise(graph: fx.Graph, module: nn.Module) -> None:
    """Rewrites every node that has a canonical form; the others stay. Values must have been inferred."""
    for node in list(graph.nodes):
        _one(graph, node, module)
    graphs.sweep(graph)


def _one(graph: fx.Graph, node: fx.Node, module: nn.Module) -> None:
    if node.op == "call_module":
        inner = lookup(module, str(node.target))
        kind, makers = reparametrised.read(inner) or (None, {})
        form = conv3xc if is_conv3xc(inner) else _MODULES.get(kind)  # type: ignore[arg-type]
        if form is None or node.kwargs or len(node.args) != 1:
            return
        with graph.inserting_before(node):
            known = form(_Module(graph, str(node.target), inner, makers), node.args[0])
    elif node.op == "call_function" or node.op == "call_method":
        name = node.target if node.op == "call_function" else _METHODS.get(str(node.target))
        form = _FUNCTIONS.get(name)
        if form is None:
            return
        try:
            with graph.inserting_before(node):
                known = form(*node.args, **node.kwargs)
        except TypeError:  # arguments that this form does not know
            return
    else:
        return
    if known is None:
        return
    if isinstance(known, fx.Node):
        node.replace_all_uses_with(known)
        graph.erase_node(node)
        return
    new = replace(graph, node, *known)
    _describe_arguments(new, new, module)


def _describe_arguments(node: fx.Node, new: fx.Node, module: nn.Module) -> None:
    """Infers the values of the nodes that were made for `new`."""
    for arg in node.all_input_nodes:
        if "values" in arg.meta:
            continue
        arg.meta["path"] = new.meta.get("path", "")
        if arg.op == "get_attr":
            value = lookup(module, str(arg.target))
            count = len(new.meta.get("values", ()))
            arg.meta["values"] = [torch.empty_like(value, device="meta")] * count
        else:
            _describe_arguments(arg, new, module)
            graphs.describe(arg)


class _Module:
    """A module inside, whose parameters become nodes."""

    def __init__(self, graph: fx.Graph, path: str, module: Any, makers: reparametrised.Makers) -> None:
        self.graph, self.path, self.module, self.makers = graph, path, module, makers

    def node(self, name: str) -> fx.Node | None:
        if name in self.makers:
            return self.makers[name](self.graph, lambda source: self.graph.get_attr(f"{self.path}.{source}"))
        if getattr(self.module, name) is None:
            return None
        return self.graph.get_attr(f"{self.path}.{name}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def _conv2d_module(m: _Module, x: Any) -> Known | None:
    if not is_image(x):
        return None
    sides: Any = m.padding
    if m.padding_mode != "zeros":
        x = graphs.insert_here(m.graph, pad, x, tuple(m._reversed_padding_repeated_twice), m.padding_mode)
        sides = 0
    return _conv(x, m.node("weight"), m.node("bias"), m.stride, sides, m.dilation, m.groups)


def _conv(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Known | None:
    if not is_image(input) or not graphs.static((stride, padding, dilation, groups)):
        return None
    kwargs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    given = {name: _plain(value) for name, value in kwargs.items() if _plain(value) != defaults[name]}
    return ops.conv2d, (input, weight, bias), given


def _own_conv(input: Any, weight: Any, bias: Any = None, **options: Any) -> Known | None:
    """ops.conv2d itself, as the library's layers call it."""
    names = ("stride", "padding", "dilation", "groups")
    known = _conv(input, weight, bias, **{name: options.pop(name) for name in names if name in options})
    if known is None:
        return None
    return known[0], known[1], {**known[2], **{k: v for k, v in options.items() if v != DEFAULTS.get(k)}}


def _plain(value: Any) -> Any:
    """(1, 1) as 1."""
    if isinstance(value, (tuple, list)):
        return value[0] if len(set(value)) == 1 and len(value) in (1, 2) else tuple(value)
    return value


def _conv_transpose2d_module(m: _Module, x: Any) -> Known | None:
    if m.padding_mode != "zeros":
        return None
    return _conv_transpose2d(
        x, m.node("weight"), m.node("bias"), m.stride, m.padding, m.output_padding, m.groups, m.dilation
    )


def _conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Known | None:
    if not is_image(input) or groups != 1 or _plain(dilation) != 1:
        return None
    if not graphs.static((stride, padding, output_padding)):
        return None
    kwargs = {"stride": stride, "padding": padding, "output_padding": output_padding}
    return (
        ops.conv_transpose2d,
        (input, weight, bias),
        {name: _plain(value) for name, value in kwargs.items()},
    )


def _own_conv_transpose2d(input: Any, weight: Any, bias: Any = None, **options: Any) -> Known | None:
    """ops.conv_transpose2d itself, without the arguments that say nothing."""
    if not is_image(input):
        return None
    given = {name: _plain(v) for name, v in options.items() if v != DEFAULTS.get(name, 0)}
    return ops.conv_transpose2d, (input, weight, bias), given


def _activation_module(m: _Module, x: Any) -> Known | None:
    arguments = arguments_of(m.module)
    if arguments is None or not is_tensor(x):
        return None
    slopes = m.node("weight") if arguments.get("activation") == "prelu" else None
    return _activation(arguments.get("activation", "none"), x, arguments.get("negative_slope", 0.01), slopes)


def _activation(name: str, x: Any, slope: float = 0.01, weight: Any = None) -> Known | None:
    if not is_tensor(x) or number(slope) is None:
        return None
    return activate, (x, name, float(slope), weight), {}


def _leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Known | None:
    return _activation("leaky_relu", input, negative_slope)


def _gelu(input: Any, *, approximate: str = "none") -> Known | None:
    return _activation("gelu", input) if approximate == "none" else None


def _simple(name: str) -> Callable[..., Known | None]:
    def form(input: Any, inplace: bool = False) -> Known | None:
        return _activation(name, input)

    return form


def _by_function(function: Any, *names: str) -> Callable[[_Module, Any], Known]:
    """A module without tensors as the function that it calls, whose arguments are its attributes: shapes then
    follow without running it."""
    return lambda m, x: (function, (x, *(getattr(m, name) for name in names)), {})


_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def _identity(m: _Module, x: Any) -> fx.Node | None:
    return x if isinstance(x, fx.Node) else None


def _dropout(m: _Module, x: Any) -> fx.Node | None:
    return x if not m.module.training and isinstance(x, fx.Node) else None


def _dropout_function(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> fx.Node | None:
    return input if training is False and isinstance(input, fx.Node) else None


def _pixel_shuffle(input: Any, upscale_factor: Any) -> Known | None:
    static = is_image(input) and isinstance(upscale_factor, int)
    return (ops.pixel_shuffle, (input, upscale_factor), {}) if static else None


def _pixel_unshuffle(input: Any, downscale_factor: Any) -> Known | None:
    static = is_image(input) and isinstance(downscale_factor, int)
    return (ops.pixel_unshuffle, (input, downscale_factor), {}) if static else None


def _interpolate(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Known | None:
    if antialias or align_corners or mode not in ("nearest", "bilinear") or not is_image(input):
        return None
    if size is not None:
        scale_factor = _times_own_size(size, input)
    factors = set(scale_factor) if isinstance(scale_factor, (tuple, list)) else {scale_factor}
    factor = number(factors.pop())
    if factors or factor is None or factor < 1 or factor != int(factor):
        return None
    return enlarge, (input, int(factor), mode), {}


def _times_own_size(size: Any, x: fx.Node) -> Any:
    """The two numbers that x's height and width are multiplied by to give the size; None where it is not
    made so. That it was so for the pictures tried would say nothing of others."""
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        return None
    return [_times(side, x, axis) for axis, side in zip((2, 3), size, strict=True)]


def _times(side: Any, x: fx.Node, axis: int) -> float | None:
    if graphs.is_call(side, operator.mul):
        for a, b in (side.args, side.args[::-1]):
            if number(b) is not None and _is_size(a, x, axis):
                return number(b)
    return 1.0 if _is_size(side, x, axis) else None


def _is_size(node: Any, x: fx.Node, axis: int) -> bool:
    """x.size(axis), x.shape[axis], or an item of such a slice of it, as unpacking takes."""
    if not isinstance(node, fx.Node):
        return False
    if node.op == "call_method" and node.target == "size":
        return node.args[0] is x and len(node.args) == 2 and node.args[1] in (axis, axis - 4)
    if not graphs.is_call(node, operator.getitem) or not isinstance(node.args[1], int):
        return False
    whole, item = graphs.operands(node)
    places = list(range(4))
    if graphs.is_call(whole, operator.getitem) and isinstance(whole.args[1], slice):
        whole, part = whole.args
        if not graphs.static([part.start, part.stop, part.step]):
            return False
        places = places[part]
    is_shape = graphs.is_call(whole, getattr) and whole.args[1] == "shape"
    is_shape |= isinstance(whole, fx.Node) and whole.op == "call_method" and whole.target == "size"
    if not is_shape or whole.args[0] is not x or not -len(places) <= item < len(places):
        return False
    return places[item] == axis


def _upsample_module(m: _Module, x: Any) -> Known | None:
    return _interpolate(x, m.size, m.scale_factor, m.mode, m.align_corners, m.recompute_scale_factor)


def _pad_module(mode: str) -> Callable[[_Module, Any], Known | None]:
    def form(m: _Module, x: Any) -> Known | None:
        return _pad(x, m.padding, mode)

    return form


def _pad(input: Any, pad_: Any, mode: str = "constant", value: Any = None) -> Known | None:
    if not is_image(input) or not isinstance(pad_, (tuple, list)) or len(pad_) not in (2, 4):
        return None
    if mode == "constant" and value not in (None, 0, 0.0):
        return None
    sides = (*pad_, 0, 0)[:4]
    return pad, (input, tuple(sides), mode), {}


def _pad_function(input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Known | None:
    return _pad(input, pad, mode, value)


def _batch_norm_module(m: _Module, x: Any) -> Known | None:
    if m.module.training or m.running_mean is None or not is_image(x):
        return None
    nodes = [m.node(name) for name in ("running_mean", "running_var", "weight", "bias")]
    return batch_norm, (x, *nodes, m.eps), {}


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Known | None:
    if training is not False or running_mean is None or not is_image(input):
        return None
    return batch_norm, (input, running_mean, running_var, weight, bias, eps), {}


def _with_format(y: Any, memory_format: Any) -> fx.Node | None:
    return y if isinstance(y, fx.Node) else None  # `layout` decides on formats


def _arithmetic(function: Any) -> Callable[..., Known | None]:
    def form(input: Any, other: Any, *, alpha: Any = 1) -> Known | None:
        if not (is_tensor(input) or is_tensor(other)):
            return None
        if alpha != 1:
            if number(alpha) is None or not isinstance(other, fx.Node):
                return None
            other = graphs.insert_here(other.graph, operator.mul, other, alpha)
        return function, (input, other), {}

    return form


def _cat(tensors: Any, dim: Any = 0) -> Known | fx.Node | None:
    if not isinstance(tensors, (list, tuple)) or not all(is_image(t) for t in tensors) or dim not in (1, -3):
        return None
    return (torch.cat, (list(tensors), 1), {}) if len(tensors) > 1 else tensors[0]


_MODULES: dict[type, Callable[[_Module, Any], Known | fx.Node | None]] = {
    nn.Conv2d: _conv2d_module,
    nn.ConvTranspose2d: _conv_transpose2d_module,
    nn.BatchNorm2d: _batch_norm_module,
    nn.PixelShuffle: lambda m, x: _pixel_shuffle(x, m.upscale_factor),
    nn.PixelUnshuffle: lambda m, x: _pixel_unshuffle(x, m.downscale_factor),
    nn.Upsample: _upsample_module,
    nn.UpsamplingNearest2d: _upsample_module,
    nn.ZeroPad2d: _pad_module("constant"),
    nn.ReflectionPad2d: _pad_module("reflect"),
    nn.ReplicationPad2d: _pad_module("replicate"),
    nn.CircularPad2d: _pad_module("circular"),
    nn.MaxPool2d: _by_function(F.max_pool2d, *_MAX),
    nn.AvgPool2d: _by_function(F.avg_pool2d, *_AVERAGE),
    nn.AdaptiveMaxPool2d: _by_function(F.adaptive_max_pool2d, "output_size", "return_indices"),
    nn.AdaptiveAvgPool2d: _by_function(F.adaptive_avg_pool2d, "output_size"),
    nn.Identity: _identity,
    nn.Dropout: _dropout,
    nn.Dropout2d: _dropout,
    **dict.fromkeys(
        (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid), _activation_module
    ),
}

_FUNCTIONS: dict[Any, Callable[..., Known | fx.Node | None]] = {
    **dict.fromkeys((F.conv2d, torch.conv2d), _conv),
    **dict.fromkeys((F.conv_transpose2d, torch.conv_transpose2d), _conv_transpose2d),
    **dict.fromkeys((F.relu, torch.relu), _simple("relu")),
    F.silu: _simple("silu"),
    **dict.fromkeys((F.tanh, torch.tanh), _simple("tanh")),
    **dict.fromkeys((F.sigmoid, torch.sigmoid), _simple("sigmoid")),
    F.leaky_relu: _leaky_relu,
    ops.conv2d: _own_conv,
    ops.conv_transpose2d: _own_conv_transpose2d,
    F.gelu: _gelu,
    **dict.fromkeys((F.prelu, torch.prelu), lambda input, weight: _activation("prelu", input, 0.0, weight)),
    **dict.fromkeys((F.pixel_shuffle, torch.pixel_shuffle), _pixel_shuffle),
    **dict.fromkeys((F.pixel_unshuffle, torch.pixel_unshuffle), _pixel_unshuffle),
    F.interpolate: _interpolate,
    F.pad: _pad_function,
    **dict.fromkeys((F.dropout, torch.dropout), _dropout_function),
    F.batch_norm: _batch_norm,
    with_format: _with_format,
    **dict.fromkeys((operator.add, torch.add), _arithmetic(operator.add)),
    **dict.fromkeys((operator.sub, torch.sub, torch.subtract), _arithmetic(operator.sub)),
    **dict.fromkeys((operator.mul, torch.mul, torch.multiply), _arithmetic(operator.mul)),
    **dict.fromkeys((operator.truediv, torch.div), _arithmetic(operator.truediv)),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _cat),
}

_METHODS: dict[str, Any] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "multiply": torch.mul,
    "div": torch.div,
}
