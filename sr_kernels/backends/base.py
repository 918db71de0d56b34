# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""What a backend is: the arguments that it gets, and its answers. registry.py chooses among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def conv_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    upsample: int,
) -> tuple[int, int]:
    """(Ho, Wo) of a convolution of an input (H, W), which is enlarged and padded before."""
    left, right, top, bottom = padding
    h, w = size[0] * upsample, size[1] * upsample
    return (
        (h + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1,
        (w + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1,
    )


@dataclass(slots=True)
class ConvArgs:
    """Validated arguments of the op. Shapes: input (N, Ci, H, W), weight (Co, Ci/groups, kh, kw)."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None  # (Co,)
    stride: Sequence[int] = (1, 1)
    padding: Sequence[int] = (0, 0, 0, 0)  # left, right, top, bottom; pixels of the enlarged input
    dilation: Sequence[int] = (1, 1)
    groups: int = 1
    upsample: int = 1  # nearest, before the convolution
    activation: str = "none"
    negative_slope: float = 0.01
    prelu_weight: Tensor | None = None  # (1,) or (Co,)
    residuals: Sequence[tuple[Tensor, float]] = ()  # at most two, each (N, Co, Ho, Wo)
    scale: float = 1.0
    activation_after_add: bool = False
    pixel_shuffle: int = 1
    base: Tensor | None = None  # (N, Co/r^2, Ho*r, Wo*r), or an integer factor smaller with a base_mode
    base_mode: str = "none"

    def conv_size(self) -> tuple[int, int]:
        """(Ho, Wo): the convolution's output, before the shuffle."""
        size, kernel = self.input.shape[2:], self.weight.shape[2:]
        return conv_size(size, kernel, self.stride, self.padding, self.dilation, self.upsample)

    def output_shape(self) -> tuple[int, int, int, int]:
        """(N, Co/r^2, Ho*r, Wo*r)."""
        r = self.pixel_shuffle
        h, w = self.conv_size()
        return self.input.shape[0], self.weight.shape[0] // (r * r), h * r, w * r


@dataclass(slots=True)
class DenseBlockArgs:
    """y = scale * conv_k(cat) + input_scale * input + sum(w_i * residual_i); see reference.dense_block."""

    input: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor | None]
    negative_slope: float = 0.2
    scale: float = 0.2
    input_scale: float = 1.0
    residuals: Sequence[tuple[Tensor, float]] = ()


@dataclass(slots=True)
class ChainArgs:
    """Convolutions one after the other. What passes between two is no tensor of its own: from the second on,
    `input` holds one pixel that stands for the shape alone, see `expanded`."""

    layers: Sequence[ConvArgs]

    @property
    def input(self) -> Tensor:
        return self.layers[0].input


@dataclass(slots=True)
class ActivationArgs:
    """Of the backward: the gradient of act's result, and what act' follows from, both (N, C, H, W)."""

    grad: Tensor
    saved: Tensor  # act's input, or its result
    activation: str
    negative_slope: float
    prelu_weight: Tensor | None  # (1,) or (C,)
    from_output: bool  # saved is act's result
    scale: float = 1.0  # of act's result before anything was added to it


def expanded(shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor (N, C, H, W) of this shape whose pixels are all one, uninitialised, in memory of C values."""
    return like.new_empty(shape[1]).view(1, -1, 1, 1).expand(tuple(shape))


class BackendError(RuntimeError):
    """An explicitly chosen backend cannot run, or no backend can; the message holds the reasons."""


def memory_format_of(x: Tensor) -> torch.memory_format:
    """channels_last where the strides of x (N, C, H, W) are in that order, even with gaps, else contiguous.

    The rule is aten's `suggest_memory_format`: it also tells the two apart for one channel or one pixel,
    where `is_contiguous` is true of both.
    """
    shape, strides = x.shape, x.stride()
    least = 0
    for d in (1, 3, 2, 0):
        if shape[d] == 0 or strides[d] < least or (d == 0 and least == strides[1]):
            return torch.contiguous_format
        least = strides[d] * shape[d] if shape[d] > 1 else strides[d]
    return torch.channels_last


def dense_strides(shape: Sequence[int], memory_format: torch.memory_format) -> tuple[int, int, int, int]:
    """The strides of a new tensor of this shape (N, C, H, W) and format; only N may be 0."""
    _, c, h, w = shape
    if memory_format == torch.channels_last:
        return c * h * w, 1, c * w, c
    return c * h * w, h * w, w, 1


def with_format(y: Tensor, memory_format: torch.memory_format) -> Tensor:
    """y (N, C, H, W) with exactly the strides of `dense_strides`; copied only where the order differs."""
    strides = dense_strides(y.shape, memory_format)
    if y.stride() == strides:
        return y
    y = y.contiguous(memory_format=memory_format)
    return y if y.stride() == strides else y.as_strided(y.shape, strides)


def is_pixel_major(x: Tensor) -> bool:
    """Whether each pixel's channels of x (N, C, H, W) lie side by side."""
    return x.stride(1) == 1 or x.shape[1] == 1


def pixel_major(x: Tensor) -> Tensor:
    """x (N, C, H, W) itself where each pixel's channels lie side by side, else a channels_last copy."""
    return x if is_pixel_major(x) else x.contiguous(memory_format=torch.channels_last)


def dtype_reasons(tensors: Sequence[Tensor | None], dtypes: Sequence[torch.dtype]) -> list[str]:
    """Why kernels of these dtypes refuse the tensors."""
    known = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    found = sorted({str(t.dtype) for t in tensors if t is not None and t.dtype not in dtypes})
    return [f"the kernels take {', '.join(known)}, not {', '.join(found)}"] if found else []


def move_reasons(op: str, x: Tensor) -> list[str]:
    """Why kernels that move values, or make pictures of them, refuse x."""
    if op == "float_to_image" and x.dtype != torch.float32:
        return [f"pictures are made of float32, not of {x.dtype}"]
    return [f"elements of {x.dtype} are wider than 8 bytes"] if x.dtype.itemsize > 8 else []


def shuffled(shape: Sequence[int], factor: int) -> tuple[int, int, int, int]:
    """The shape of pixel_shuffle's result."""
    n, c, h, w = shape
    return n, c // (factor * factor), h * factor, w * factor


def unshuffled(shape: Sequence[int], factor: int) -> tuple[int, int, int, int]:
    """The shape of pixel_unshuffle's result."""
    n, c, h, w = shape
    return n, c * factor * factor, h // factor, w // factor


def dense_block_reasons(
    a: DenseBlockArgs, dtypes: Sequence[torch.dtype], widest: int | None = None
) -> list[str]:
    """Why kernels of these dtypes, and of windows up to `widest`, refuse a dense block that they compute
    layer by layer, two residuals at most each. All its tensors have one dtype, see ops/_check.py."""
    reasons = dtype_reasons([a.input], dtypes)
    if len(a.residuals) > 1:
        reasons.append("the kernels add two residuals at most, and the block's input is one of them")
    shapes = [weight.shape[2:] for weight in a.weights]
    if any(kh != kw or kh % 2 == 0 for kh, kw in shapes):
        reasons.append("kernels must be square and odd")
    if widest is not None and any(kh > widest for kh, _ in shapes):
        reasons.append(f"kernels must be at most {widest}x{widest}")
    return reasons


class Backend:
    """One implementation of the op family. Every method gets validated arguments and returns a new tensor
    whose memory format is the input's (see `memory_format_of`), and calls `registry.record` with the name
    of the kernel that ran."""

    name: str = ""

    def unavailable(self) -> list[str]:
        """Why this backend cannot run on this machine at all; empty when it can."""
        return []

    def reasons(self, op: str, args: object) -> list[str]:
        """Why this backend refuses these arguments; empty when it takes them.

        op is the name of the method; args is its ConvArgs, ChainArgs or DenseBlockArgs, and for the other ops
        the tuple of the method's arguments. The answer depends on device, dtype, shapes and strides alone.
        """
        raise NotImplementedError

    def slower(self, op: str, args: object) -> list[str]:
        """Why another backend would take less time, where measurements (benchmarks/) say so; the automatic
        choice alone asks. As `reasons`, it depends on device, dtype, shapes and strides."""
        return []

    def gains(self, args: ConvArgs) -> bool:
        """Whether a kernel of this backend takes less time for this convolution, which the gradient of
        another has been turned into, than PyTorch's own for that gradient; packing its weights included."""
        return False

    def prepare(self, op: str, args: Any) -> Callable[[Any], Tensor]:
        """What runs op on arguments like these, of the same shapes, strides, dtypes, devices and numbers; it
        is kept, and called by several threads at once."""
        method: Callable[..., Tensor] = getattr(self, op)
        return (lambda args: method(*args)) if isinstance(args, tuple) else method

    def conv2d(self, args: ConvArgs) -> Tensor:
        raise NotImplementedError

    def conv2d_chain(self, args: ChainArgs) -> Tensor:
        """Only where it takes less time than conv2d layer by layer, which is what runs otherwise."""
        raise NotImplementedError

    def dense_block(self, args: DenseBlockArgs) -> Tensor:
        raise NotImplementedError

    def activation_backward(self, args: ActivationArgs) -> tuple[Tensor, Tensor, Tensor | None]:
        """(dz, db, dslopes): dz = scale * grad * act', of grad's dtype, channels_last; db (C,) float32, its
        sum over pixels; dslopes (C,) float32, of PReLU alone. Only where PyTorch's operations take longer."""
        raise NotImplementedError

    def pixel_shuffle(self, input: Tensor, factor: int) -> Tensor:
        raise NotImplementedError

    def pixel_unshuffle(self, input: Tensor, factor: int) -> Tensor:
        raise NotImplementedError

    def residual_add(self, input: Tensor, residuals: Sequence[tuple[Tensor, float]], scale: float) -> Tensor:
        raise NotImplementedError

    def image_to_float(self, image: Tensor) -> Tensor:
        raise NotImplementedError

    def float_to_image(self, input: Tensor, dtype: torch.dtype) -> Tensor:
        raise NotImplementedError
