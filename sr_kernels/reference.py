# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""The truth: every op in a few lines of plain PyTorch, any dtype, any device, differentiable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("none", "relu", "leaky_relu", "prelu", "silu", "gelu", "tanh", "sigmoid")
BASE_MODES = ("none", "nearest", "bilinear")


def activate(
    x: Tensor, activation: str, negative_slope: float = 0.01, prelu_weight: Tensor | None = None
) -> Tensor:
    """act(x), shape kept; gelu is the exact (erf) form, as torch's default."""
    match activation:
        case "none":
            return x
        case "relu":
            return F.relu(x)
        case "leaky_relu":
            return F.leaky_relu(x, negative_slope)
        case "prelu":
            assert prelu_weight is not None
            return F.prelu(x, prelu_weight)
        case "silu":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)
        case "tanh":
            return torch.tanh(x)
        case "sigmoid":
            return torch.sigmoid(x)
    raise ValueError(f"activation {activation!r} is not one of {ACTIVATIONS}")


def enlarge(base: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """base (N, C, h, w) enlarged to size (H, W), integer factors; mode "none" returns it as it is."""
    if mode == "none":
        return base
    factor = float(size[0] // base.shape[2])
    if mode == "nearest":
        return F.interpolate(base, scale_factor=factor, mode="nearest")
    return F.interpolate(base, scale_factor=factor, mode="bilinear", align_corners=False)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    upsample: int = 1,
    activation: str = "none",
    negative_slope: float = 0.01,
    prelu_weight: Tensor | None = None,
    residuals: Sequence[tuple[Tensor, float]] = (),
    scale: float = 1.0,
    activation_after_add: bool = False,
    pixel_shuffle: int = 1,
    base: Tensor | None = None,
    base_mode: str = "none",
) -> Tensor:
    """The op of the library, unfused. padding: (left, right, top, bottom) in the enlarged input's pixels."""
    x = F.interpolate(input, scale_factor=float(upsample), mode="nearest") if upsample > 1 else input
    left, right, top, bottom = padding
    if left == right >= 0 and top == bottom >= 0:
        y = F.conv2d(x, weight, bias, stride, (top, left), dilation, groups)
    else:
        y = F.conv2d(F.pad(x, tuple(padding)), weight, bias, stride, 0, dilation, groups)
    if not activation_after_add:
        y = activate(y, activation, negative_slope, prelu_weight)
    if scale != 1.0:
        y = y * scale
    for residual, factor in residuals:
        y = torch.add(y, residual, alpha=factor)
    if activation_after_add:
        y = activate(y, activation, negative_slope, prelu_weight)
    return shuffle_and_add(y, pixel_shuffle, base, base_mode)


def conv2d_chain(input: Tensor, layers: Sequence[Mapping[str, Any]]) -> Tensor:
    """Convolutions one after the other; layers: their keyword arguments beyond the input."""
    for layer in layers:
        input = conv2d(input, **layer)
    return input


def shuffle_and_add(y: Tensor, factor: int, base: Tensor | None, base_mode: str) -> Tensor:
    """The end of conv2d: pixel_shuffle(y) + the enlarged base."""
    if factor > 1:
        y = pixel_shuffle(y, factor)
    return y if base is None else y + enlarge(base, y.shape[-2:], base_mode)


def dense_block(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    negative_slope: float = 0.2,
    scale: float = 0.2,
    input_scale: float = 1.0,
    residuals: Sequence[tuple[Tensor, float]] = (),
) -> Tensor:
    """Residual dense block (ESRGAN, Wang et al. 2018): k-1 growing 3x3 convs with leaky ReLU, one plain.

    y = scale * conv_k(cat) + input_scale * input + sum(weight_i * residual_i)
    """
    features = [input]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        y = F.conv2d(torch.cat(features, 1), weight, bias, padding=weight.shape[-1] // 2)
        features.append(F.leaky_relu(y, negative_slope))
    y = F.conv2d(torch.cat(features, 1), weights[-1], biases[-1], padding=weights[-1].shape[-1] // 2)
    return residual_add(y, [(input, input_scale), *residuals], scale=scale)


def residual_add(input: Tensor, residuals: Sequence[tuple[Tensor, float]], *, scale: float = 1.0) -> Tensor:
    """scale * input + sum(weight_i * residual_i)."""
    y = input if scale == 1.0 else input * scale
    for residual, factor in residuals:
        y = torch.add(y, residual, alpha=factor)
    return y


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(N, C*r*r, H, W) -> (N, C, H*r, W*r) (ESPCN, Shi et al. 2016)."""
    n, c, h, w = input.shape
    if n == 0:  # the gradient of F.pixel_shuffle has a wrong shape for an empty batch
        r = upscale_factor
        return input.reshape(0, c // (r * r), h * r, w * r)
    return F.pixel_shuffle(input, upscale_factor)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(N, C, H*r, W*r) -> (N, C*r*r, H, W)."""
    n, c, h, w = input.shape
    if n == 0:  # F.pixel_unshuffle returns an empty batch with its old shape
        r = downscale_factor
        return input.reshape(0, c * r * r, h // r, w // r)
    return F.pixel_unshuffle(input, downscale_factor)


def image_to_float(image: Tensor) -> Tensor:
    """uint8 or uint16 (H, W, C) -> float32 (1, C, H, W) channels_last, full scale = 1."""
    full = 255.0 if image.dtype == torch.uint8 else 65535.0
    return (image.to(torch.float32) / full).permute(2, 0, 1).unsqueeze(0)


def float_to_image(input: Tensor, dtype: torch.dtype) -> Tensor:
    """float (1, C, H, W) -> dtype (H, W, C): clamped to [0, 1], rounded half to even, NaN -> 0."""
    full = 255.0 if dtype == torch.uint8 else 65535.0
    y = torch.round(torch.nan_to_num(input[0].float(), nan=0.0).clamp(0, 1) * full)
    return y.permute(1, 2, 0).to(torch.int32).to(dtype).contiguous()
