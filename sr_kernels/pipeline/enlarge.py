# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""upscale(): the picture's kind in, the same kind out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sr_kernels import models
from sr_kernels.backends import use_backend
from sr_kernels.image.modes import from_pil, to_pil
from sr_kernels.image.picture import Picture
from sr_kernels.nn.checks import check_integer
from sr_kernels.pipeline.canvas import ArrayCanvas, Canvas, TensorCanvas
from sr_kernels.pipeline.network import Network
from sr_kernels.pipeline.schedule import run, run_alpha

Kind = TypeVar("Kind", Image.Image, np.ndarray, Tensor, Picture)
Model = str | os.PathLike[str] | nn.Module | None
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_ARRAYS = (np.uint8, np.uint16, np.float16, np.float32, np.float64)
_EMBEDDED = "compact"


def upscale(
    image: Kind,
    model: Model = None,
    scale: int | None = None,
    *,
    tile: int | None = None,
    halo: int | None = None,
    batch: int | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    backend: str | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Kind:
    """The image, `scale` times larger, as an object of the same kind.

    image: a PIL image (1, L, LA, P, RGB, RGBA, CMYK, I;16 ...; EXIF orientation is left alone); an array
        (H, W) or (H, W, C), uint8 or uint16 at full scale or floats in [0, 1], C = 1, 2 (gray and alpha),
        3 or 4 (RGB and alpha); a floating-point tensor (C, H, W) or (N, C, H, W) in [0, 1]; or a Picture.
        Floats are not clamped. Alpha is enlarged by bicubic interpolation.
    model: None, the embedded model for `scale`; "compact", the same; a checkpoint's path; or any module from
        (N, C, H, W) to (N, C, scale*H, scale*W). A model of one channel gets luma, chroma is bicubic; a
        gray picture goes through a model of three channels replicated, the outputs are averaged. The
        module's training mode and parameters stay as they are.
    scale: None is the model's own, 2 for the embedded one.
    tile: input pixels a side that are done at a time. None: what memory allows, at most about a megapixel
        where tiles are exact.
    halo: input pixels read around a tile. None: the model's receptive radius, with which tiles give the
        untiled result but for rounding, and exactly as long as the kernels' sums do not depend on the size
        (this package's do not under precision "highest"; PyTorch's own choose by size); where the model does
        not tell its radius, or it exceeds 128, or a smaller halo is given, tiles overlap and are cross-faded.
    batch: tiles run together, 1 by default.
    dtype: float32, bfloat16 or float16, the model's own by default; a tile that overflows in half precision
        is done again in float32.
    device: the model's for a module, else the tensor's, else a GPU where there is one, else the CPU.
    backend: as in sr_kernels.use_backend.
    options: arguments of the model that a checkpoint's file may leave open ({"activation": "relu"}), as in
        sr_kernels.models.load.
    progress: called with the tiles done and their total.

    Raises TypeError or ValueError that names the argument; FileNotFoundError for a missing checkpoint;
    BackendError where the backend asked for cannot run; MemoryError where no tile fits; FloatingPointError
    where the model gives NaN for a finite image.
    """
    scale, tile = _integer("scale", scale, 1), _integer("tile", tile, 1)
    halo, batch = _integer("halo", halo, 0), _integer("batch", batch, 1)
    opened = _open(image)
    module = resolve_model(model, scale, options)
    place = _device(device, model, module, image)
    with contextlib.nullcontext() if backend is None else use_backend(backend):
        canvas, alpha = opened.canvases(place)
        network = Network(module, canvas.channels, canvas.is_tensor, place, _dtype(dtype))
        check_scale(scale, network.scale)
        canvas.begin(network.scale)
        with network.evaluating():
            run(canvas, network, tile, halo, batch, progress)
            if alpha is not None:
                alpha.begin(network.scale)
                run_alpha(alpha, network.scale)
    return opened.closed(canvas, alpha)


def check_scale(asked: int | None, found: int) -> None:
    """Raises ValueError where a scale was asked for that the model does not have."""
    if asked is not None and asked != found:
        raise ValueError(
            f"scale is {asked}, the model enlarges {found}x: pass scale={found} (--scale {found}), "
            f"or a model made for {asked}x"
        )


def embedded_names() -> tuple[str, ...]:
    """What names the models that ship in the package: "compact", for any scale, and one name each."""
    return (_EMBEDDED, *(file.stem for file in models.embedded_files().values()))


def resolve_model(
    model: Model, scale: int | None = None, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """The module that `model` stands for: None or "compact", the embedded one for `scale` (2 by default);
    "compact_x4" and the like, that one; a path, what the checkpoint holds, with `scale` and `options` where
    the weights leave them open; a module, itself.

    Raises FileNotFoundError for a path where nothing is, ValueError for an unknown name, a scale that the
    embedded model lacks, or options where no checkpoint is read, TypeError for anything else.
    """
    if options and (model is None or isinstance(model, nn.Module) or model in embedded_names()):
        raise ValueError(f"options {dict(options)} are for a checkpoint's path; this model is made already")
    if isinstance(model, nn.Module):
        return model
    if model in (None, _EMBEDDED):
        return models.embedded(2 if scale is None else scale)
    for own, file in models.embedded_files().items():
        if model == file.stem:
            return models.embedded(own)
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            f"model must be None, a name, a path or a torch.nn.Module, found {type(model).__name__}"
        )
    path = Path(model)
    if path.exists():
        return models.load(path, **({} if scale is None else {"scale": scale}) | dict(options or {}))
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"model: there is no checkpoint at {path}")
    known = "an architecture without weights here" if str(model) in _architectures() else "not known"
    raise ValueError(
        f"model {str(model)!r} is {known}: give {', '.join(embedded_names())}, which the package carries, "
        "or a checkpoint's path"
    )


class _Opened:
    """An image taken apart into colours and alpha, and how to put the result together."""

    def __init__(self, colours: Any, alpha: np.ndarray | None, close: Callable[[Any, Any], Any]) -> None:
        self.colours, self.alpha, self.close = colours, alpha, close

    def canvases(self, device: torch.device) -> tuple[Canvas, Canvas | None]:
        if isinstance(self.colours, Tensor):
            return TensorCanvas(self.colours, device), None
        colours = ArrayCanvas(self.colours, device)
        return colours, None if self.alpha is None else ArrayCanvas(self.alpha[..., None], device)

    def closed(self, canvas: Canvas, alpha: Canvas | None) -> Any:
        return self.close(canvas.result(), None if alpha is None else alpha.result())


def _open(image: Any) -> _Opened:
    if isinstance(image, Image.Image):
        picture = from_pil(image)
        exif = image.info.get("exif")

        def to_image(colours: np.ndarray, alpha: np.ndarray | None) -> Image.Image:
            enlarged = to_pil(_picture(colours, alpha, picture))
            if exif:
                enlarged.info["exif"] = exif
            return enlarged

        return _Opened(picture.pixels, picture.alpha, to_image)
    if isinstance(image, Picture):
        return _Opened(image.pixels, image.alpha, lambda colours, alpha: _picture(colours, alpha, image))
    if isinstance(image, Tensor):
        return _open_tensor(image)
    if isinstance(image, np.ndarray):
        return _open_array(image)
    raise TypeError(
        f"image must be a PIL image, a NumPy array, a tensor or a Picture, found {type(image).__name__}"
    )


def _open_tensor(image: Tensor) -> _Opened:
    if not image.is_floating_point():
        raise TypeError(
            f"image is a tensor of {image.dtype}; give floats in [0, 1], or pixels as an (H, W, C) array"
        )
    if image.is_meta:
        raise ValueError("image is a tensor on the meta device, without values")
    if image.dim() not in (3, 4) or 0 in image.shape:
        raise ValueError(
            f"image has shape {tuple(image.shape)}; give (C, H, W) or (N, C, H, W), nothing empty"
        )
    if image.dim() == 3:
        return _Opened(image[None], None, lambda result, _: result[0])
    return _Opened(image, None, lambda result, _: result)


def _open_array(image: np.ndarray) -> _Opened:
    if image.dtype.newbyteorder("=") not in _ARRAYS:
        raise TypeError(f"image is an array of {image.dtype}; give uint8, uint16, or float16/32/64 in [0, 1]")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}; give (H, W) or (H, W, C), nothing empty")
    if image.ndim == 2:
        return _Opened(image[..., None], None, lambda colours, _: colours[..., 0])
    if image.shape[2] > 4:
        raise ValueError(
            f"image has shape {image.shape}, {image.shape[2]} channels; give (H, W, C) with C = 1, 2, 3 or 4"
        )
    if image.shape[2] in (1, 3):
        return _Opened(image, None, lambda colours, _: colours)
    return _Opened(image[..., :-1], image[..., -1], lambda colours, alpha: np.dstack([colours, alpha]))


def _picture(colours: np.ndarray, alpha: np.ndarray | None, of: Picture) -> Picture:
    return Picture(colours, None if alpha is None else alpha[..., 0], of.icc_profile, of.mode)


def _device(
    device: torch.device | str | None, model: Model, module: nn.Module, image: object
) -> torch.device:
    if device is not None:
        return _usable(device)
    if isinstance(model, nn.Module) and (parameter := next(module.parameters(), None)) is not None:
        if parameter.is_meta:
            raise ValueError("model has its parameters on the meta device, without values: load weights")
        return parameter.device
    if isinstance(image, Tensor):
        return image.device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _usable(device: torch.device | str) -> torch.device:
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device must be a torch.device or its name, found {type(device).__name__}")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"device is {str(device)!r}, which PyTorch cannot use here ({reason}); give another, 'cpu'"
        ) from error
    if found.type == "meta":
        raise ValueError("device is 'meta', which holds no values; give one that computes, such as 'cpu'")
    return found


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in _DTYPES.values():
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, found {dtype}")
    return found


def _integer(name: str, value: Any, least: int) -> int | None:
    if isinstance(value, np.integer):
        value = int(value)
    if value is not None:
        check_integer(name, value, least)
    return value


def _architectures() -> list[str]:
    return [str(name) for name in models.list_models()]
