# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a report tells, in figures and as text."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from torch import nn

from sr_kernels import optimize
from sr_kernels.optimizer import Report
from sr_kernels.optimizer.graph.capture import capture
from sr_kernels.optimizer.report import Parity, Timing
from tests.optimizer.networks import Body, net, picture


class Parts(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.parts = nn.ModuleList(Body() for _ in range(count))

    def forward(self, x):
        for part in self.parts if x.sum() > -1e9 else ():
            x = part(x)
        return x


def test_of_a_whole():
    report = optimize(net()).report()
    text = str(report)
    assert text.startswith("Net: optimised as a whole, ")
    assert f"{report.fused['conv + pixel shuffle']:5} x conv + pixel shuffle" in text
    ((path, calls, ours),) = report.regions
    assert path == ""
    assert 3 <= ours <= calls
    assert f"{ours} of {calls} operations by fused kernels" in text
    assert report.parity.holds
    assert f"parity: largest error {report.parity.ours:.1e} of the output's RMS against float64" in text


def test_of_parts():
    text = str(optimize(Parts(5).eval()).report())
    assert "Parts: optimised in parts (parts.0, parts.1, parts.2 and 2 more)" in text
    assert "the module itself: " in text


def test_of_nothing():
    text = str(optimize(nn.Linear(3, 3).eval()).report())
    assert text.startswith("Linear: nothing was optimised")


def test_every_line():
    report = Report("Some")
    report.regions, report.fused = [("a", 10, 4)], {"conv + activation": 4}
    report.left = dict.fromkeys("bcdef", "it was not called") | {"": "it branches"}
    report.undone = {"a rule": "largest error 1.0e-01"}
    report.parity = Parity(1e-6, 2e-6, 8e-6, False, True, "")
    report.time = Timing((1, 3, 8, 8), 4.0, 3.0, 1.5)
    report.notes = ["a note"]
    assert str(report).splitlines() == [
        "Some: optimised in parts (a), 4 of 10 operations by fused kernels",
        "  a note",
        "fused",
        "      4 x conv + activation",
        "left as it was",
        "  b, c, d and 2 more: it was not called",
        "  the module itself: it branches",
        "undone",
        "  a rule: largest error 1.0e-01",
        "parity: largest error 1.0e-06 of the output's RMS against eager, eager 2.0e-06, allowed 8.0e-06",
        "time: 1.50 ms for (1, 3, 8, 8), eager 4.00, channels_last 3.00 ms: 2.00x",
    ]


def test_it_is_free_of_tensors():
    def leaves(value):
        if dataclasses.is_dataclass(value):
            value = vars(value)
        if isinstance(value, dict):
            value = [*value, *value.values()]
        if isinstance(value, (list, tuple)):
            return [leaf for item in value for leaf in leaves(item)]
        return [value]

    report = optimize(Parts(2).eval(), picture()).report()
    found = leaves(report)
    assert found
    assert not any(isinstance(leaf, (torch.Tensor, nn.Module)) for leaf in found)


def test_what_pytorch_computes_is_named():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, x):
            y = self.a(x)
            return self.b(y * torch.softmax(y, 1))

    report = optimize(Gated().eval()).report()
    assert report.others == {"softmax": 1, "mul": 1}
    assert "2 of 4 operations" in str(report)
    assert "between them by PyTorch: 1 x softmax, 1 x mul" in str(report)


def test_activations_are_named():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, x):
            y = self.a(x)
            return self.b(y * torch.sigmoid(y))

    report = optimize(Attention().eval()).report()
    assert report.others == {"sigmoid": 1, "mul": 1}


def decides(x):
    return x if x.sum() > 0 else -x


def counts(x):
    return x[:, : int(x.shape[1] * 1.0)]


def loops(x):
    return sum(row for row in x)


def writes(x):
    y = x * 1
    y[:, 0] = 0
    return y


def measures(x):
    return x * len(x)


def copies(x):
    return torch.as_tensor(np.asarray(x.detach()))


def fails(x):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("does", "words"),
    [
        (decides, "decides by a value or size"),
        (counts, "makes a number of Python's"),
        (loops, "unpacks or loops over"),
        (writes, "writes into a part of a tensor"),
        (measures, "asks for a length"),
        (copies, "takes the tensor itself"),
        (fails, "following its forward fails"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_reasons_are_in_words_and_name_the_line(does, words):
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(does(x))

    reason = capture(Asks()).reason
    assert words in reason
    first = does.__code__.co_firstlineno
    line = int(re.search(r"\(test_report.py, line (\d+)\)", reason).group(1))
    assert first < line <= first + 3
    for word in ("Proxy", "_Value", "symbolic", "torch.fx", "call_function", "node"):
        assert word not in reason
