# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers and constants for each channel in kernels and biases."""

import pytest
import torch
from torch import nn

from sr_kernels import ops
from tests.optimizer.rewrites.small import Of, calls, check, names, rewritten, shaken

NAME = "constants into conv"
MEAN = torch.tensor([0.45, 0.44, 0.4]).view(1, 3, 1, 1)


def test_behind_as_edsr_has_it():
    module = Of(lambda m, x: m.conv(x) / 255 + m.mean, conv=nn.Conv2d(5, 3, 3, padding=1), mean=MEAN.clone())
    found = check(shaken(module), 5, NAME, 2, ["conv2d"])
    assert calls(found, ops.conv2d)[0].kwargs["scale"] == 1 / 255


def test_behind_in_the_dtype_of_the_picture():
    def forward(m, x):
        return m.conv(x) / 255 + m.mean.to(x.dtype).view(1, 3, 1, 1)

    module = Of(forward, conv=nn.Conv2d(5, 3, 3, padding=1), mean=MEAN.flatten().clone())
    check(shaken(module), 5, NAME, 2, ["conv2d"])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.conv(x) * m.c,
        lambda m, x: m.c * m.conv(x),
        lambda m, x: m.conv(x) / m.c,
        lambda m, x: m.conv(x) + m.c,
        lambda m, x: m.conv(x) - m.c,
        lambda m, x: m.conv(x) + 0.5,
        lambda m, x: m.conv(x) - 0.5,
    ],
    ids=["c*", "*c", "/c", "+c", "-c", "+0.5", "-0.5"],
)
def test_behind(forward, bias):
    module = Of(forward, conv=nn.Conv2d(5, 3, 3, padding=1, bias=bias), c=nn.Parameter(MEAN[0].clone()))
    check(shaken(module), 5, NAME, 1, ["conv2d"])


def test_behind_a_shuffle():
    def forward(m, x):
        return m.shuffle(m.conv(x)) * m.c + m.mean

    module = Of(
        forward,
        conv=nn.Conv2d(5, 12, 3, padding=1),
        shuffle=nn.PixelShuffle(2),
        c=nn.Parameter(MEAN.clone()),
        mean=MEAN.clone(),
    )
    check(shaken(module), 5, NAME, 2, ["conv2d"])


def test_a_gain_makes_room_for_a_residual():
    module = Of(
        lambda m, x: m.conv(x) * m.c + x, conv=nn.Conv2d(3, 3, 3, padding=1), c=nn.Parameter(MEAN.clone())
    )
    found = check(shaken(module), 3, NAME, 1, ["conv2d"])
    assert found.counts["conv + scale + residual"] == 1


@pytest.mark.parametrize("groups", [1, 3])
def test_before_without_padding(groups):
    module = Of(
        lambda m, x: m.conv((x - m.mean) * 255 / m.c),
        conv=nn.Conv2d(3, 6, 3, groups=groups),
        mean=MEAN.clone(),
        c=nn.Parameter(MEAN.clone()),
    )
    check(shaken(module), 3, NAME, 3, ["conv2d"], sizes=((1, 9, 12), (2, 7, 5), (1, 3, 4)))


def test_before_with_padding_only_the_product():
    module = Of(
        lambda m, x: m.conv((x - m.mean) * 255), conv=nn.Conv2d(3, 6, 3, padding=1), mean=MEAN.clone()
    )
    check(shaken(module), 3, NAME, 1, ["sub", "conv2d"])


def test_not_where_something_else_reads_it():
    def forward(m, x):
        y = x * 0.5
        return m.conv(y) * y

    check(shaken(Of(forward, conv=nn.Conv2d(3, 3, 3, padding=1))), 3, NAME, 0, ["mul", "conv2d", "mul"])


def test_not_through_an_activation():
    module = Of(
        lambda m, x: torch.tanh(m.conv(x)) * m.c,
        conv=nn.Conv2d(5, 3, 3, padding=1),
        c=nn.Parameter(MEAN.clone()),
    )
    check(shaken(module), 5, NAME, 0, ["conv2d", "mul"])


def test_not_a_gain_behind_a_residual():
    module = Of(
        lambda m, x: (m.conv(x) + x) * m.c, conv=nn.Conv2d(3, 3, 3, padding=1), c=nn.Parameter(MEAN.clone())
    )
    sizes = ((1, 9, 12), (2, 7, 5))
    check(shaken(module), 3, NAME, 0, ["conv2d", "mul"], sizes=sizes)


@pytest.mark.parametrize("shape", [(1, 1, 5, 1), (2, 3, 1, 1), (5,)], ids=str)
def test_not_of_another_shape(shape):
    """Of rows, of samples, of columns."""
    module = Of(lambda m, x: m.conv(x) + m.c, conv=nn.Conv2d(3, 3, 1), c=nn.Parameter(torch.rand(shape)))
    check(shaken(module), 3, NAME, 0, ["conv2d", "add"], sizes=((2, 5, 5), (2, 5, 5)), gradients=False)


def test_not_of_another_dtype():
    """It would lift the result's."""
    module = Of(lambda m, x: m.conv(x).float() + m.c, conv=nn.Conv2d(5, 3, 3, padding=1), c=MEAN.clone())
    module.eval()
    module.conv.half()
    found = rewritten(module, 5, dtype=torch.float16)
    assert found.counts[NAME] == 0
    assert names(found) == ["conv2d", "float", "add"]


def test_not_of_what_is_a_residual_too():
    def forward(m, x):
        y = x * 3
        return m.conv(y) + y

    check(shaken(Of(forward, conv=nn.Conv2d(3, 3, 3, padding=1))), 3, NAME, 0, ["mul", "conv2d"])
