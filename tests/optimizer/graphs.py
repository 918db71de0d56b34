# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Graphs built node by node, the plainest way to run one, and a session's result beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from sr_kernels import ops, record_kernels
from sr_kernels.optimizer.plan import arena
from sr_kernels.optimizer.plan.form import Form
from sr_kernels.optimizer.plan.session import Session

CL = torch.channels_last


def interpreted(graph: Graph, module: nn.Module, inputs: Any) -> tuple[Any, dict[Node, Any]]:
    """The output, and what each node gave."""
    values: dict[Node, Any] = {}
    given = iter(inputs)
    for node in graph.nodes:
        args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
        match node.op:
            case "placeholder":
                values[node] = next(given)
            case "get_attr":
                owner, _, name = node.target.rpartition(".")
                values[node] = getattr(module.get_submodule(owner), name)
            case "call_function":
                values[node] = node.target(*args, **kwargs)
            case "call_method":
                values[node] = getattr(args[0], node.target)(*args[1:], **kwargs)
            case "call_module":
                values[node] = module.get_submodule(node.target)(*args, **kwargs)
            case "output":
                return args[0], values
    raise AssertionError("no output")


class Builder:
    """A graph and the module that holds its parameters."""

    def __init__(self, dtype: torch.dtype = torch.float32, backend: str | None = None) -> None:
        self.graph = Graph()
        self.module = nn.Module()
        self.dtype = dtype
        self.backend = backend
        self.random = torch.Generator().manual_seed(5)
        self.count = 0
        self.channels: dict[Node, int] = {}

    def input(self, channels: int) -> Node:
        self.count += 1
        node = self.graph.placeholder(f"input{self.count}")
        self.channels[node] = channels
        return node

    def parameter(self, *shape: int, fan_in: int = 1, buffer: bool = False) -> Node:
        self.count += 1
        name = f"p{self.count}"
        value = (torch.randn(shape, generator=self.random) / fan_in**0.5).to(self.dtype)
        if buffer:
            self.module.register_buffer(name, value)
        else:
            self.module.register_parameter(name, nn.Parameter(value))
        node = self.graph.get_attr(name)
        self.channels[node] = shape[1] if len(shape) == 4 else 0
        return node

    def conv(self, x: Node, channels: int, kernel: int = 3, *, bias: bool = True, **kwargs: Any) -> Node:
        ci = self.channels[x] // kwargs.get("groups", 1)
        r = kwargs.get("pixel_shuffle", 1)
        weight = self.parameter(channels, ci, kernel, kernel, fan_in=ci * kernel**2)
        args = (x, weight, self.parameter(channels) if bias else None)
        kwargs = {"padding": kernel // 2, "backend": self.backend, **kwargs}
        if kwargs.get("activation") == "prelu":
            kwargs["prelu_weight"] = self.parameter(channels)
        return self.call(ops.conv2d, *args, channels=channels // r**2, **kwargs)

    def dense_block(self, x: Node, growth: tuple[int, ...], **kwargs: Any) -> Node:
        c = self.channels[x]
        weights, biases, ci = [], [], c
        for co in (*growth, c):
            weights.append(self.parameter(co, ci, 3, 3, fan_in=9 * ci))
            biases.append(self.parameter(co))
            ci += co
        return self.call(ops.dense_block, x, weights, biases, channels=c, backend=self.backend, **kwargs)

    def cat(self, *parts: Node) -> Node:
        return self.call(torch.cat, list(parts), 1, channels=sum(self.channels[part] for part in parts))

    def call(self, target: Any, *args: Any, channels: int = 0, **kwargs: Any) -> Node:
        node = self.graph.call_function(target, args, kwargs)
        self.channels[node] = channels
        return node

    def method(self, name: str, *args: Any, channels: int = 0, **kwargs: Any) -> Node:
        node = self.graph.call_method(name, args, kwargs)
        self.channels[node] = channels
        return node

    def session(self, output: Any, *inputs: Any) -> Session:
        """With that output, recorded on these inputs."""
        self.graph.output(output)
        with torch.no_grad():
            _, values = interpreted(self.graph, self.module, inputs)
            return session_of(self.graph, values, inputs)

    def plain(self, *inputs: Any) -> Any:
        with torch.no_grad():
            return interpreted(self.graph, self.module, inputs)[0]


def session_of(graph: Graph, values: dict[Node, Any], inputs: Any) -> Session:
    """Of these values of the nodes."""
    form = Form(graph, values)
    sizes = form.fitted(values)
    assert sizes is not None
    return Session(form, sizes, inputs)


def poison() -> None:
    """NaN in all memory that is kept for later calls."""
    for kept in arena._free.values():
        kept.memory.fill_(255)


def picture(*shape: int, dtype: torch.dtype = torch.float32, layout: Any = CL, seed: int = 1) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=layout) if isinstance(layout, torch.memory_format) else x


def assert_same(ours: Any, theirs: Any) -> None:
    """The same tree of the same bits, laid out alike."""
    mine, others = tree_leaves(ours), tree_leaves(theirs)
    assert len(mine) == len(others)
    for a, b in zip(mine, others, strict=True):
        if not isinstance(b, Tensor):
            assert a == b
            continue
        assert isinstance(a, Tensor)
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert a.stride() == b.stride()
        assert not torch.isnan(b).any()
        assert torch.equal(a, b), f"differ by up to {(a.double() - b.double()).abs().max()}"


def check(builder: Builder, output: Any, *inputs: Any) -> Session:
    """Bits, layouts and structure of two calls beside the ops called one by one; other inputs the second
    time, and NaN in the arena in between."""
    session = builder.session(output, *inputs)
    assert_same(session.run(builder.module, inputs), builder.plain(*inputs))
    poison()
    others = [_other(x) for x in inputs]
    assert_same(session.run(builder.module, others), builder.plain(*others))
    return session


def _other(x: Tensor) -> Tensor:
    """Other values in the same layout, gaps and all."""
    storage = x.untyped_storage().clone()
    torch.empty(0, dtype=x.dtype).set_(storage).mul_(-0.75)
    return torch.empty(0, dtype=x.dtype).set_(storage, x.storage_offset(), x.shape, x.stride())


def ran(session: Session, module: nn.Module, *inputs: Any) -> list[str]:
    """The kernels of one call."""
    with record_kernels() as names:
        session.run(module, inputs)
    return names
