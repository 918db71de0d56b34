# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What the backward of a convolution owes its input, by the op itself where a kernel gains from it."""

from __future__ import annotations

import torch
from torch import Tensor

from sr_kernels.backends.base import ConvArgs, memory_format_of, with_format
from sr_kernels.backends.registry import may_gain, select

_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCUDA
)


def takes_kernels(grad: Tensor) -> bool:
    """Whether a gradient may go through kernels that have no derivative themselves."""
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return False
    return not torch._C._functorch.is_legacy_batchedtensor(grad)  # torch.autograd.grad's is_grads_batched


def input_gradient(grad: Tensor, a: ConvArgs, backend: str) -> Tensor | None:
    """The gradient of a.input for `grad` (N, Co, Ho, Wo) of the convolution alone. None leaves it to aten: no
    kernel of the backend in force gains, or a second derivative is recorded, which aten alone has.

    The gradient of a convolution of stride 1 is one itself: by the kernel turned round, inputs and outputs
    exchanged, its window k - 1 - padding before each pixel.
    """
    if not takes_kernels(grad):
        return None
    if max(*a.stride, *a.dilation, a.groups, a.upsample) > 1 or grad.numel() == 0:
        return None
    kh, kw = a.weight.shape[2:]
    left, right, top, bottom = a.padding
    padding = [kw - 1 - left, kw - 1 - right, kh - 1 - top, kh - 1 - bottom]
    grad = with_format(grad, memory_format_of(a.input))
    weight = a.weight.transpose(0, 1)
    back = ConvArgs(grad, weight, padding=padding)
    if not may_gain(grad.device.type) or not select("conv2d", grad.device.type, back, backend).gains(back):
        return None
    with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):  # the dtype is the forward's
        dx: Tensor = torch.ops.sr_kernels.conv2d.default(
            grad, weight.flip(2, 3), padding=padding, backend=backend
        )
    return dx
