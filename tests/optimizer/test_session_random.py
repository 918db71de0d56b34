# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Graphs drawn at random: layers, concatenations, sums, views and Python in every order, bit for bit."""

from __future__ import annotations

import operator
import random

import pytest
import torch

from sr_kernels import ops
from tests.optimizer.graphs import CL, Builder, check, picture

pytest.importorskip("sr_kernels.backends.cpu", reason="the native extension is not built")

CHANNELS = (4, 8, 8, 16)


class Drawing:
    """A graph whose values are of one size, in which every step draws what it reads from those before."""

    def __init__(self, seed, dtype):
        self.draw = random.Random(seed)
        self.b = Builder(dtype, self.draw.choice([None, "cpu"]))
        self.nodes = [self.b.input(3), self.b.input(8)]

    def any(self):
        recent = self.nodes[-4:] if self.draw.random() < 0.7 else self.nodes
        return self.draw.choice(recent)

    def alike(self, channels):
        return [node for node in self.nodes if self.b.channels[node] == channels]

    def conv(self):
        x, co, kwargs = self.any(), self.draw.choice(CHANNELS), {}
        others = self.alike(co)
        others += [x] * 2 if x in others else []
        if others and self.draw.random() < 0.5:
            count = self.draw.choice([1, 1, 2])
            kwargs["residual"] = [
                (self.draw.choice(others), self.draw.choice([1.0, 0.5])) for _ in range(count)
            ]
            kwargs["scale"] = self.draw.choice([1.0, 0.2])
        if others and self.draw.random() < 0.2:
            kwargs["base"] = self.draw.choice(others)
        activation = self.draw.choice([None, "relu", "prelu", "silu"])
        return self.b.conv(x, co, self.draw.choice([1, 3, 3]), activation=activation, **kwargs)

    def cat(self):
        return self.b.cat(*(self.any() for _ in range(self.draw.choice([1, 2, 2, 3]))))

    def grow(self):
        """A concatenation with one part more than an earlier one."""
        cats = [node for node in self.nodes if node.target is torch.cat]
        if not cats:
            return self.cat()
        return self.b.cat(*self.draw.choice(cats).args[0], self.any())

    def block(self):
        return self.b.dense_block(self.any(), (4, 8), residual=None)

    def add(self):
        x = self.any()
        other = self.draw.choice(self.alike(self.b.channels[x]))
        return self.b.call(
            ops.residual_add, x, [(other, self.draw.choice([1.0, -0.5]))], channels=self.b.channels[x]
        )

    def shuffle(self):
        x = self.b.conv(self.any(), 16, pixel_shuffle=2)
        return self.b.call(ops.pixel_unshuffle, x, 2, channels=16)

    def stack(self):
        x = self.any()
        for _ in range(3):
            x = self.b.conv(x, 8)
        return x

    def tanh(self):
        x = self.any()
        return self.b.call(torch.tanh, x, channels=self.b.channels[x])

    def view(self):
        x = self.any()
        half = (self.b.channels[x] + 1) // 2
        return self.b.call(operator.getitem, x, (slice(None), slice(0, half)), channels=half)

    def graph(self):
        kinds = [self.conv] * 5 + [self.cat] * 3 + [self.grow] * 2
        kinds += [self.block, self.add, self.add, self.shuffle, self.stack, self.tanh, self.view]
        while len(self.nodes) < 16:
            node = self.draw.choice(kinds)()
            if self.b.channels[node] <= 64:
                self.nodes.append(node)
        return self.b, self.draw.sample(self.nodes[2:], 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("seed", range(40))
def test_any_graph(monkeypatch, seed, dtype):
    monkeypatch.setattr("sr_kernels.optimizer.plan.buffers._SMALL", seed % 2 * (1 << 30))
    monkeypatch.setattr("sr_kernels.optimizer.plan.buffers._WORTH", 1.0)
    monkeypatch.setattr("sr_kernels.optimizer.plan.chains._LARGE", 1 if seed % 3 else 1 << 30)
    monkeypatch.setattr("sr_kernels.optimizer.plan.chains._WORTH", 1.0)
    b, outputs = Drawing(seed, dtype).graph()
    shape = 1 + seed % 2, 6 + seed % 5, 7 + seed % 3
    inputs = (picture(shape[0], c, *shape[1:], dtype=dtype, layout=CL, seed=c) for c in (3, 8))
    check(b, outputs, *inputs)
