# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""An ONNX file of a super-resolution network as ncnn's pair of files, layer by layer as pnnx writes them.

pnnx itself holds all weights once for each convolution: 22 GB for an RRDBNet. Source of the format: ncnn's
wiki, "param and model file structure" and "operation param weight table".
"""

from __future__ import annotations

import importlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_MAGIC = 7767517
_BINARY = {"Add": 0, "Sub": 1, "Mul": 2, "Div": 3}
_REVERSED = {"Sub": 7, "Div": 8}
_UNSHUFFLE = [0, 1, 3, 5, 2, 4]  # the axes of a pixel-unshuffle, (N, C, H, r, W, r)


@dataclass
class _Layer:
    kind: str
    inputs: list[str]
    output: str
    parameters: dict[int, Any]
    weights: list[np.ndarray] = field(default_factory=list)


def write(source: Path, folder: Path) -> Path:
    """Writes model.param and model.bin, float32, into the folder; the .param's path.

    The network must have one input and one output. Raises ValueError for an operation that has no place here.
    """
    onnx = importlib.import_module("onnx")
    graph = onnx.load(source).graph
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    nodes = [_Node(node, onnx) for node in graph.node]
    for node in [node for node in nodes if node.kind == "Constant"]:
        constants[node.output] = onnx.numpy_helper.to_array(node.attributes["value"])
        nodes.remove(node)
    layers = [_Layer("Input", [], graph.input[0].name, {})]
    while nodes:
        layers += _layers(nodes, constants)
    layers = _with_splits(_fused(layers))
    target = folder / "model.param"
    with target.with_suffix(".bin").open("wb") as weights:
        for layer in layers:
            if layer.kind in ("Convolution", "Deconvolution"):
                weights.write(bytes(4))  # the tag of float32
            for array in layer.weights:
                weights.write(np.ascontiguousarray(array, np.float32).tobytes())
    outputs = [layer.output.split(",") for layer in layers]
    lines = [str(_MAGIC), f"{len(layers)} {sum(map(len, outputs))}"]
    for i, (layer, names) in enumerate(zip(layers, outputs, strict=True)):
        given = [f"{key}={value}" for key, value in layer.parameters.items()]
        counts = [str(len(layer.inputs)), str(len(names))]
        lines.append(" ".join([layer.kind, f"l{i}", *counts, *layer.inputs, *names, *given]))
    target.write_text("\n".join(lines) + "\n")
    return target


class _Node:
    """An ONNX node."""

    def __init__(self, node: Any, onnx: Any) -> None:
        self.kind, self.inputs = node.op_type, list(node.input)
        self.output = node.output[0]
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


Constants = dict[str, np.ndarray]


def _layers(nodes: list[_Node], constants: Constants) -> list[_Layer]:
    """Takes the next node, or the few that belong together, from the list."""
    node = nodes.pop(0)
    if node.kind == "Reshape":
        return [_unshuffle(node, nodes, constants)]
    if node.kind in _BINARY:
        return _binary(node, constants)
    if node.kind not in _PLAIN:
        raise ValueError(f"operation {node.kind} has no layer here")
    layer = _PLAIN[node.kind](node, constants)
    return [layer]


def _convolution(node: _Node, constants: Constants) -> _Layer:
    a, weight = node.attributes, constants[node.inputs[1]]
    top, left, bottom, right = a["pads"]
    transposed = node.kind == "ConvTranspose"
    if a["group"] != 1 or (top, left) != (bottom, right):
        raise ValueError(f"{node.kind} with groups {a['group']}, padding {a['pads']} has no layer here")
    if transposed:
        weight = weight.transpose(1, 0, 2, 3)
    outputs, _, height, width = weight.shape
    bias = [constants[name] for name in node.inputs[2:]]
    (sy, sx), (dy, dx) = a["strides"], a["dilations"]
    parameters = {0: outputs, 1: width, 11: height, 2: dx, 12: dy, 3: sx, 13: sy, 4: left, 14: top}
    if transposed:
        parameters |= dict(zip((19, 18), a.get("output_padding", (0, 0)), strict=True))
    kind = "Deconvolution" if transposed else "Convolution"
    parameters |= {5: len(bias), 6: weight.size}
    return _Layer(kind, node.inputs[:1], node.output, parameters, [weight, *bias])


def _prelu(node: _Node, constants: Constants) -> _Layer:
    slopes = constants[node.inputs[1]].ravel()
    return _Layer("PReLU", node.inputs[:1], node.output, {0: slopes.size}, [slopes])


def _relu(node: _Node, constants: Constants) -> _Layer:
    slope = node.attributes.get("alpha", 0.01) if node.kind == "LeakyRelu" else 0.0
    return _Layer("ReLU", node.inputs, node.output, {0: float(np.float32(slope))})


def _resize(node: _Node, constants: Constants) -> _Layer:
    a, scales = node.attributes, constants[node.inputs[2]]
    if a["mode"] != b"nearest" or len(set(scales[2:])) > 1:
        raise ValueError(f"Resize {a['mode'].decode()} by {scales} has no layer here")
    return _Layer(
        "Interp", node.inputs[:1], node.output, {0: 1, 1: float(scales[2]), 2: float(scales[3]), 6: 0}
    )


def _shuffle(node: _Node, constants: Constants) -> _Layer:
    if node.attributes["mode"] != b"CRD":
        raise ValueError("DepthToSpace in another order than PyTorch's has no layer here")
    return _Layer("PixelShuffle", node.inputs, node.output, {0: node.attributes["blocksize"], 1: 0})


def _concat(node: _Node, constants: Constants) -> _Layer:
    if node.attributes["axis"] != 1:
        raise ValueError(f"Concat along axis {node.attributes['axis']} has no layer here")
    return _Layer("Concat", node.inputs, node.output, {0: 0})


def _unshuffle(first: _Node, nodes: list[_Node], constants: Constants) -> _Layer:
    """A pixel-unshuffle, which the exporter writes as reshape, transpose, reshape."""
    if [node.kind for node in nodes[:2]] != ["Transpose", "Reshape"]:
        raise ValueError("operation Reshape has no layer here, but in a pixel-unshuffle")
    transpose, last = nodes.pop(0), nodes.pop(0)
    shape = constants[first.inputs[1]]
    if list(transpose.attributes["perm"]) != _UNSHUFFLE or shape[3] != shape[5]:
        raise ValueError("operation Transpose has no layer here, but in a pixel-unshuffle")
    return _Layer("Reorg", first.inputs[:1], last.output, {0: int(shape[3]), 1: 0})


def _binary(node: _Node, constants: Constants) -> list[_Layer]:
    """With a number, with a value for each channel, or of two pictures."""
    code = _BINARY[node.kind]
    found = [i for i, name in enumerate(node.inputs) if name in constants]
    if not found:
        return [_Layer("BinaryOp", node.inputs, node.output, {0: code})]
    other, value = node.inputs[1 - found[0]], constants[node.inputs[found[0]]]
    if value.size == 1:
        code = _REVERSED.get(node.kind, code) if found[0] == 0 else code
        return [_Layer("BinaryOp", [other], node.output, {0: code, 1: 1, 2: float(value.ravel()[0])})]
    name = f"{node.output}/constant"
    memory = _Layer("MemoryData", [], name, {0: 1, 1: 1, 2: value.size}, [value.ravel()])
    inputs = [name, other] if found[0] == 0 else [other, name]
    return [memory, _Layer("BinaryOp", inputs, node.output, {0: code})]


_PLAIN: dict[str, Callable[[_Node, Constants], _Layer]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "PRelu": _prelu,
    "Relu": _relu,
    "LeakyRelu": _relu,
    "Tanh": lambda node, constants: _Layer("TanH", node.inputs, node.output, {}),
    "Resize": _resize,
    "DepthToSpace": _shuffle,
    "Concat": _concat,
}


def _fused(layers: list[_Layer]) -> list[_Layer]:
    """A ReLU with the convolution before it, where nobody else reads that."""
    uses = Counter(name for layer in layers for name in layer.inputs)
    makers = {layer.output: layer for layer in layers}
    found = []
    for layer in layers:
        before = makers.get(layer.inputs[0]) if layer.kind == "ReLU" else None
        if before is None or before.kind != "Convolution" or uses[before.output] > 1:
            found.append(layer)
            continue
        slope = layer.parameters[0]
        before.parameters |= {9: 2, -23310: f"1,{slope}"} if slope else {9: 1}
        before.output = layer.output
    return found


def _with_splits(layers: list[_Layer]) -> list[_Layer]:
    """What several layers read goes through a Split, one output for each of them."""
    uses = Counter(name for layer in layers for name in layer.inputs)
    taken: defaultdict[str, int] = defaultdict(int)
    found = []
    for layer in layers:
        for i, name in enumerate(layer.inputs):
            if uses[name] > 1:
                layer.inputs[i] = f"{name}/{taken[name]}"
                taken[name] += 1
        found.append(layer)
        if (count := uses[layer.output]) > 1:
            copies = ",".join(f"{layer.output}/{i}" for i in range(count))
            found.append(_Layer("Split", [layer.output], copies, {}))
    return found
