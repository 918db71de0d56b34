# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks as they are found: those of the package spandrel, in sizes that a CPU builds and runs in a second,
and the plain forms of our own."""

from __future__ import annotations

import enum
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sr_kernels.bench import plain

_ONE = {"depths": (1,), "num_heads": (2,), "embed_dim": 16}


@dataclass(frozen=True)
class Public:
    """A class of spandrel.architectures: its package, its name, arguments that make it small, the channels
    of what it takes."""

    package: str
    name: str
    small: dict[str, Any] = field(default_factory=dict)
    channels: tuple[int, ...] = (3,)
    side: int = 16  # pixels, of the smallest picture that it takes
    step: int = 8  # to another size that it takes

    def build(self) -> nn.Module:
        """In eval mode, with weights of one seed. Raises what the class raises."""
        with torchvision_or_stub():
            found = vars(importlib.import_module(f"spandrel.architectures.{self.package}")).values()
            kind = next(c for c in found if getattr(c, "__name__", "") == self.name)
            torch.manual_seed(0)
            module: nn.Module = kind(**self.small).eval()
        return module.requires_grad_(False)

    def inputs(self, side: int = 0) -> tuple[Tensor, ...]:
        """A picture for each set of channels that it takes."""
        side = max(side, self.side)
        generator = torch.Generator("cpu").manual_seed(1)
        return tuple(torch.rand((1, c, side, side), generator=generator) for c in self.channels)


PUBLIC = (
    Public("ATD", "ATD", {**_ONE, "category_size": 32, "num_tokens": 8, "reducted_dim": 4, "upscale": 2}),
    Public("CRAFT", "CRAFT", {"depths": [1], "num_heads": [6]}),
    Public("Compact", "SRVGGNetCompact", {"num_conv": 3}),
    Public("DAT", "DAT", {"embed_dim": 16, "depth": [2], "num_heads": [2], "split_size": [2, 4]}),
    Public("DCTLSA", "DCTLSA"),
    Public("DITN", "DITN_Real", {"dim": 20, "ITL_blocks": 1, "SAL_blocks": 1}),
    Public(
        "DRCT", "DRCT", {**_ONE, "embed_dim": 32, "window_size": 8, "upsampler": "pixelshuffle", "upscale": 2}
    ),
    Public("DRUNet", "DRUNet", channels=(1,)),
    Public("DnCNN", "DnCNN", channels=(1,)),
    Public("ESRGAN", "RRDBNet", {"num_filters": 32, "num_blocks": 2}),
    Public("FBCNN", "FBCNN"),
    Public("FDAT", "FDAT", {"embed_dim": 24, "num_groups": 1, "depth_per_group": 1}),
    Public(
        "FFTformer",
        "FFTformer",
        {"dim": 16, "num_blocks": [1, 1, 1], "num_refinement_blocks": 1},
        side=32,
        step=32,
    ),
    Public("GRL", "GRL", {"embed_dim": 24, "depths": [1], "num_heads_window": [2], "num_heads_stripe": [2]}),
    Public("HAT", "HAT", {**_ONE, "embed_dim": 60, "window_size": 8, "num_feat": 16, "upscale": 2}),
    Public("HVICIDNet", "CIDNet", {"channels": [8, 8, 16, 32]}),
    Public(
        "KBNet", "KBNet_s", {"width": 16, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
    ),
    Public("LaMa", "LaMa", {"in_nc": 4}, channels=(3, 1)),
    Public("MMRealSR", "MMRRDBNet_test", {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 1}),
    Public(
        "MixDehazeNet", "MixDehazeNet", {"embed_dims": [8, 16, 32, 16, 8], "depths": [1, 1, 1, 1, 1]}, side=64
    ),
    Public("MoESR", "MoESR", {"dim": 16, "n_blocks": 1, "n_block": 1}),
    Public("MoSR", "MoSR", {"dim": 16, "n_block": 2}),
    Public("NAFNet", "NAFNet", {"enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}),
    Public("OmniSR", "OmniSR", {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16}),
    Public("PLKSR", "PLKSR", {"n_blocks": 2, "dim": 32}),
    Public("PLKSR", "RealPLKSR", {"n_blocks": 2, "dim": 32}),
    Public("RCAN", "RCAN", {"n_resgroups": 1, "n_resblocks": 2}),
    Public("RGT", "RGT", {"embed_dim": 16, "depth": [2], "num_heads": [2]}),
    Public("RealCUGAN", "UpCunet2x", side=32),
    Public("RealCUGAN", "UpCunet3x"),
    Public("RealCUGAN", "UpCunet4x", side=32),
    Public("RetinexFormer", "RetinexFormer", {"n_feat": 16}),
    Public("SAFMN", "SAFMN", {"dim": 16, "n_blocks": 2}),
    Public("SAFMNBCIE", "SAFMN_BCIE", {"dim": 16, "n_blocks": 1, "num_layers": 1}),
    Public("SCUNet", "SCUNet", side=64),
    Public("SPAN", "SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 24}),
    Public("SeemoRe", "SeemoRe", {"num_layers": 1, "embedding_dim": 16}),
    Public("SwiftSRGAN", "Generator", {"num_blocks": 2}),
    Public("Swin2SR", "Swin2SR", {**_ONE, "embed_dim": 24, "window_size": 8, "upsampler": "pixelshuffle"}),
    Public("SwinIR", "SwinIR", {**_ONE, "window_size": 8, "upsampler": "pixelshuffle", "upscale": 2}),
)


def plain_networks() -> dict[str, nn.Module]:
    """Our own architectures at their usual sizes, as a user of PyTorch alone writes them."""
    made = {
        "SRVGG 64f/16 x4": plain.SRVGG(),
        "ESPCN x3": plain.ESPCN(),
        "FSRCNN x3": plain.FSRCNN(),
        "EDSR-baseline x4": plain.EDSR(),
        "RRDBNet-23 x4": plain.RRDBNet(),
    }
    return {name: plain.frozen(plain.kaiming_(network)) for name, network in made.items()}


def installed() -> bool:
    """Whether spandrel is there."""
    return importlib.util.find_spec("spandrel") is not None


@contextmanager
def torchvision_or_stub() -> Iterator[None]:
    """Where torchvision is absent something stands in for the little of it that spandrel's modules name when
    they are imported; no network in PUBLIC runs more of it than `normalize`."""
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    if importlib.util.find_spec(names[0]) is not None:
        yield
        return
    whole, transforms, functional = (types.ModuleType(name) for name in names)
    functional.__dict__.update(InterpolationMode=_InterpolationMode, normalize=_normalize, rotate=_absent)
    transforms.__dict__.update(functional=functional)
    whole.__dict__.update(transforms=transforms)
    sys.modules.update(zip(names, (whole, transforms, functional), strict=True))
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


class _InterpolationMode(enum.Enum):
    NEAREST, BILINEAR, BICUBIC = "nearest", "bilinear", "bicubic"


def _normalize(tensor: Tensor, mean: Any, std: Any, inplace: bool = False) -> Tensor:
    shift, scale = (torch.as_tensor(v, dtype=tensor.dtype).view(-1, 1, 1) for v in (mean, std))
    return (tensor - shift) / scale


def _absent(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError("torchvision is not installed")
