# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The convolution of SPAN (Wan et al. 2024), which is trained as four and merged at every call of eval mode.

    y = conv.2(conv.1(conv.0(pad(x, 1)))) + sk(x),    leaky ReLU of 0.05 behind where it has one

with 1x1, 3x3 and 1x1 convolutions and a 1x1 beside. The picture is padded before the first, so that nothing
is lost at the border: y is one 3x3 convolution of kernel W2*W1*W0, sk's 1x1 added in its centre, and of bias
W2*(W1*b0 + b1) + b2 + b_sk, W*b being the sum over taps and channels. What is stored as eval_conv is what
the last call made of the sources; the sources count.

Such a module is known by what it is made of. That its forward is this one is what parity shows.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from sr_kernels import ops
from sr_kernels.nn.conv import is_hooked, is_plain
from sr_kernels.optimizer.graph.capture import leaf
from sr_kernels.optimizer.graph.vocabulary import activate
from sr_kernels.optimizer.rewrites import weights

_SLOPE = 0.05


@leaf
def is_conv3xc(m: nn.Module) -> bool:
    """Whether a module has the parts of such a convolution, all plain, in eval mode."""
    children: dict[str, Any] = dict(m.named_children())
    if set(children) != {"sk", "conv", "eval_conv"} or not callable(getattr(m, "update_params", None)):
        return False
    if m.training or is_hooked(m) or not isinstance(getattr(m, "has_relu", None), bool):
        return False
    if not is_plain(children["conv"], nn.Sequential) or len(children["conv"]) != 3:
        return False
    first, middle, last = children["conv"]
    convs = (children["sk"], first, middle, last, children["eval_conv"])
    if not all(is_plain(c) and c.groups == 1 and c.padding_mode == "zeros" for c in convs):
        return False
    stride = middle.stride
    return (
        [c.kernel_size for c in convs] == [(1, 1), (1, 1), (3, 3), (1, 1), (3, 3)]
        and [c.padding for c in convs] == [(0, 0)] * 4 + [(1, 1)]
        and [c.stride for c in convs] == [stride, (1, 1), stride, (1, 1), stride]
        and all(c.dilation == (1, 1) for c in convs)
        and all(c.bias is not None for c in convs)
    )


def conv3xc(m: Any, x: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The canonical form; m as in `canonical`."""
    graph: fx.Graph = m.graph
    made = graph.call_function

    def of(name: str) -> tuple[fx.Node, fx.Node]:
        return graph.get_attr(f"{m.path}.{name}.weight"), graph.get_attr(f"{m.path}.{name}.bias")

    (w0, b0), (w1, b1), (w2, b2), (ws, bs) = of("conv.0"), of("conv.1"), of("conv.2"), of("sk")
    w = made(weights.composed, (made(weights.composed, (w0, w1)), w2))
    w = made(weights.total, ([w, ws], [(0, 0, 0, 0), (1, 1, 1, 1)], [1.0, 1.0]))
    b = made(weights.shifted, (b1, None, made(weights.seen, (w1, b0, 1))))
    b = made(weights.shifted, (b2, None, made(weights.seen, (w2, b, 1))))
    b = made(weights.total_bias, ([b, bs], [1.0, 1.0]))
    stride = m.conv[1].stride
    options: dict[str, Any] = {"padding": 1} if stride == (1, 1) else {"padding": 1, "stride": stride}
    args = (x, made(weights.rounded, (w, ws)), made(weights.rounded, (b, ws)))
    if not m.has_relu:
        return ops.conv2d, args, options
    return activate, (made(ops.conv2d, args, options), "leaky_relu", _SLOPE, None), {}
