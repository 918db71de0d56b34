# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Convolution layers whose activation, residual, pixel shuffle or nearest enlargement run in the same op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch.nn.functional as F
from torch import Tensor, nn

from sr_kernels import ops
from sr_kernels.nn.activation import Activated
from sr_kernels.nn.checks import check_positive
from sr_kernels.nn.geometry import conv_range

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Residual = Tensor | Sequence[tuple[Tensor, float]]


def is_plain(module: nn.Module, kind: type[nn.Module] = nn.Conv2d) -> bool:
    """Whether only the parameters of `module` matter: exactly that kind, no hooks, no parametrisation of
    either sort (weight_norm). Anything else is to be called as the module that it is."""
    return type(module) is kind and not is_hooked(module)


def is_hooked(module: nn.Module) -> bool:
    """Whether calling `module` runs anything besides its forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def fused_conv2d(conv: nn.Conv2d, input: Tensor, **epilogue: Any) -> Tensor:
    """ops.conv2d with the parameters and geometry of `conv`; epilogue: the op's other keyword arguments."""
    padding: Any = conv.padding
    if conv.padding_mode != "zeros":
        input = F.pad(input, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
        padding = 0
    return ops.conv2d(
        input,
        conv.weight,
        conv.bias,
        stride=conv.stride,
        padding=padding,
        dilation=conv.dilation,
        groups=conv.groups,
        **epilogue,
    )


class ConvAct2d(Activated, nn.Conv2d):
    """act(conv2d(input)): (N, Ci, H, W) -> (N, Co, Ho, Wo), as nn.Sequential(nn.Conv2d, activation).

    Unlike nn.Conv2d's the input must have its N: (C, H, W) is refused, here and by the layers derived.
    Arguments up to dtype, the parameters `weight` and `bias` and their initial values are nn.Conv2d's.
    activation: None, "relu", "leaky_relu" (with negative_slope), "prelu" (num_parameters 1 or out_channels,
    initial slope prelu_init; parameter `prelu_weight`), "silu", "gelu", "tanh" or "sigmoid".
    Raises TypeError or ValueError that names the argument.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        activation: str | None = None,
        negative_slope: float = 0.01,
        num_parameters: int = 1,
        prelu_init: float = 0.25,
    ) -> None:
        check_positive(
            type(self).__name__,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
        )
        nn.Conv2d.__init__(
            self,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.set_activation(
            activation, negative_slope, num_parameters, prelu_init, out_channels, device, dtype
        )

    def epilogue(self) -> dict[str, Any]:
        """Keyword arguments of ops.conv2d beyond the convolution's own."""
        return self.activation_arguments()

    def forward(self, input: Tensor) -> Tensor:
        return fused_conv2d(self, input, **self.epilogue())

    @classmethod
    def from_torch(cls, conv: nn.Conv2d, activation: nn.Module | None = None, **options: Any) -> Self:
        """The layer equal to `activation(conv(x))`; the parameters are shared, not copied.

        options: the layer's own keyword arguments (upscale_factor, scale_factor, scale, ...).
        """
        layer = cls(
            conv.in_channels,
            cls._out_channels(conv.out_channels, **options),
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device="meta",
            **options,
        )
        layer.weight, layer.bias = conv.weight, conv.bias
        layer.adopt_activation(activation)
        return layer.train(conv.training)

    @staticmethod
    def _out_channels(conv_channels: int, **options: Any) -> int:
        return conv_channels

    def conv_module(self) -> nn.Conv2d:
        """torch's own convolution, sharing the parameters."""
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,  # type: ignore[arg-type]
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.dilation,  # type: ignore[arg-type]
            self.groups,
            self.bias is not None,
            self.padding_mode,
            device="meta",
        )
        conv.weight, conv.bias = self.weight, self.bias
        return conv

    def to_torch(self) -> nn.Sequential:
        """The same layer from torch's own modules, sharing the parameters."""
        modules = [self.conv_module(), self.activation_module()]
        return nn.Sequential(*(m for m in modules if m is not None)).train(self.training)

    def extra_repr(self) -> str:
        return nn.Conv2d.extra_repr(self) + self.activation_repr()


class ResidualConv2d(ConvAct2d):
    """scale * act(conv(input)) + residual, or act(scale * conv(input) + residual) with activation_after_add.

    forward(input, residual): residual is a tensor of the output's shape, or at most two (tensor, weight)
    pairs. to_torch() gives the convolution and activation; the addition is the caller's.
    """

    def __init__(
        self, *args: Any, scale: float = 1.0, activation_after_add: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.scale = float(scale)
        self.activation_after_add = bool(activation_after_add)

    def epilogue(self) -> dict[str, Any]:
        return {
            **super().epilogue(),
            "scale": self.scale,
            "activation_after_add": self.activation_after_add,
        }

    def forward(self, input: Tensor, residual: Residual) -> Tensor:  # type: ignore[override]
        return fused_conv2d(self, input, residual=residual, **self.epilogue())

    def extra_repr(self) -> str:
        after = ", activation_after_add=True" if self.activation_after_add else ""
        return f"{super().extra_repr()}, scale={self.scale}{after}"


class PixelShuffleConv2d(ConvAct2d):
    """pixel_shuffle(act(conv(input)), r) [+ base]: (N, Ci, H, W) -> (N, out_channels, r*Ho, r*Wo).

    The sub-pixel convolution of ESPCN (Shi et al. 2016), as nn.Sequential(nn.Conv2d(in_channels,
    out_channels * r * r, ...), activation, nn.PixelShuffle(r)). forward(input, base): base has the output's
    shape, or is an integer factor smaller and enlarged on the fly (base_mode "nearest" or "bilinear").
    A PReLU comes before the shuffle: num_parameters is 1 or out_channels * r * r.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *args: Any,
        upscale_factor: int = 2,
        base_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_positive(type(self).__name__, out_channels=out_channels, upscale_factor=upscale_factor)
        if base_mode not in (None, "nearest", "bilinear"):
            raise ValueError(f"base_mode is {base_mode!r}; give None, 'nearest' or 'bilinear'")
        super().__init__(in_channels, out_channels * upscale_factor**2, *args, **kwargs)
        self.upscale_factor = upscale_factor
        self.base_mode = base_mode

    @staticmethod
    def _out_channels(conv_channels: int, **options: Any) -> int:
        factor = options.get("upscale_factor", 2)
        if conv_channels % factor**2:
            raise ValueError(
                f"upscale_factor {factor} needs a multiple of {factor**2} channels, conv has {conv_channels}"
            )
        return conv_channels // factor**2

    def forward(self, input: Tensor, base: Tensor | None = None) -> Tensor:
        mode = None if base is None else self.base_mode
        return fused_conv2d(
            self, input, pixel_shuffle=self.upscale_factor, base=base, base_mode=mode, **self.epilogue()
        )

    def input_range(self, lo: int, hi: int, axis: int) -> tuple[int, int]:
        return conv_range(self, lo // self.upscale_factor, hi // self.upscale_factor, axis)

    def to_torch(self) -> nn.Sequential:
        return nn.Sequential(*super().to_torch(), nn.PixelShuffle(self.upscale_factor)).train(self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, upscale_factor={self.upscale_factor}"


class UpsampleConv2d(ConvAct2d):
    """act(conv(nearest(input, s))): (N, Ci, H, W) -> (N, Co, ...), padding in the enlarged pixels.

    As nn.Sequential(nn.Upsample(scale_factor=s), nn.Conv2d, activation); the enlarged input is never stored.
    """

    def __init__(self, *args: Any, scale_factor: int = 2, **kwargs: Any) -> None:
        check_positive(type(self).__name__, scale_factor=scale_factor)
        super().__init__(*args, **kwargs)
        if self.padding_mode != "zeros":
            raise ValueError(f"UpsampleConv2d: padding_mode is {self.padding_mode!r}; only 'zeros' is known")
        self.scale_factor = scale_factor

    def forward(self, input: Tensor) -> Tensor:
        return fused_conv2d(self, input, upsample=self.scale_factor, **self.epilogue())

    def input_range(self, lo: int, hi: int, axis: int) -> tuple[int, int]:
        lo, hi = conv_range(self, lo, hi, axis)
        return lo // self.scale_factor, hi // self.scale_factor

    def to_torch(self) -> nn.Sequential:
        enlarge = nn.Upsample(scale_factor=self.scale_factor)
        return nn.Sequential(enlarge, *super().to_torch()).train(self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale_factor={self.scale_factor}"


class ConvTransposeAct2d(Activated, nn.ConvTranspose2d):
    """act(conv_transpose2d(input)), as nn.Sequential(nn.ConvTranspose2d, activation).

    (N, Ci, H, W) -> (N, Co, Ho, Wo), by a convolution and a pixel shuffle. Unlike nn.ConvTranspose2d's the
    input must have its N, and forward takes no output_size: give output_padding. Arguments, parameters and
    initial values are nn.ConvTranspose2d's (groups and dilation must be 1), the activation's ConvAct2d's.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        activation: str | None = None,
        negative_slope: float = 0.01,
        num_parameters: int = 1,
        prelu_init: float = 0.25,
    ) -> None:
        check_positive(
            type(self).__name__,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
        )
        if groups != 1 or dilation not in (1, (1, 1)):
            raise ValueError(
                f"ConvTransposeAct2d: groups is {groups} and dilation {dilation}; only 1 is supported"
            )
        nn.ConvTranspose2d.__init__(
            self,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            device,
            dtype,
        )
        self.set_activation(
            activation, negative_slope, num_parameters, prelu_init, out_channels, device, dtype
        )

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        return ops.conv_transpose2d(
            input,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,  # type: ignore[arg-type]
            output_padding=self.output_padding,
            **self.activation_arguments(),
        )

    @classmethod
    def from_torch(cls, conv: nn.ConvTranspose2d, activation: nn.Module | None = None) -> Self:
        """The layer equal to `activation(conv(x))`; the parameters are shared, not copied."""
        layer = cls(**_transpose_arguments(conv))
        layer.weight, layer.bias = conv.weight, conv.bias
        layer.adopt_activation(activation)
        return layer.train(conv.training)

    def to_torch(self) -> nn.Sequential:
        """The same layer from torch's own modules, sharing the parameters."""
        conv = nn.ConvTranspose2d(**_transpose_arguments(self))
        conv.weight, conv.bias = self.weight, self.bias
        modules = [conv, self.activation_module()]
        return nn.Sequential(*(m for m in modules if m is not None)).train(self.training)

    def extra_repr(self) -> str:
        return nn.ConvTranspose2d.extra_repr(self) + self.activation_repr()


def _transpose_arguments(conv: nn.ConvTranspose2d) -> dict[str, Any]:
    names = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "output_padding",
        "groups",
        "dilation",
        "padding_mode",
    )
    return {name: getattr(conv, name) for name in names} | {
        "bias": conv.bias is not None,
        "device": "meta",
    }
