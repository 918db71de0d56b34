# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""python -m tests.gpu.sanitize: each kind of kernel once, on small shapes, for compute-sanitizer to watch.

Inputs are made and results judged on the CPU, so that few kernels but ours run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sr_kernels import ops, reference
from sr_kernels.backends import BackendError, available_backends, record_kernels, registry
from tests import samples
from tests.closeness import assert_as_close
from tests.gpu import cases
from tests.gpu.support import place, synchronize

CONVS = [
    samples.Conv(),
    samples.Conv(activation="prelu", slopes=7, residuals=(1.0,), layout="channels_last"),
    samples.Conv(shape=(1, 6, 5, 7), channels=12, shuffle=2, base="bilinear", factor=2),
    samples.Conv(shape=(1, 64, 9, 35), channels=64, layout="channels_last", activation="relu"),
    samples.Conv(shape=(1, 64, 9, 35), channels=32, layout="sliced"),
    samples.Conv(shape=(1, 3, 9, 35), channels=64, layout="channels_last"),
    samples.Conv(shape=(1, 64, 9, 35), channels=3, layout="channels_last"),
    samples.Conv(shape=(1, 64, 5, 17), channels=48, shuffle=4, base="nearest", factor=4),
    samples.Conv(shape=(1, 64, 5, 17), channels=48, shuffle=4, base="bilinear", factor=4, activation="tanh"),
    samples.Conv(shape=(1, 32, 5, 9), channels=32, upsample=2, layout="channels_last"),
    samples.Conv(shape=(1, 32, 9, 11), channels=32, stride=2, layout="channels_last"),
    samples.Conv(shape=(1, 12, 7, 9), channels=12, kernel=(1, 1), padding=0),
]
DENSE = samples.Dense(shape=(1, 64, 6, 19), growth=(32, 32), layout="channels_last")


def conv2d(a: dict[str, Any], sample: Any, backend: str) -> Tensor:
    """The op, or, on backend "", plain PyTorch."""
    return ops.conv2d(**a, backend=backend) if backend else reference.conv2d(**samples.plain(sample, a))


def dense_block(a: dict[str, Any], sample: Any, backend: str) -> Tensor:
    """As conv2d."""
    if backend:
        return ops.dense_block(**a, backend=backend)
    a = {**a, "residuals": a["residual"] or ()}
    del a["residual"]
    return reference.dense_block(**a)


def check(op: Any, sample: Any, dtype: torch.dtype, backend: str, device: str) -> str:
    """The kernels that ran, or why none did. Raises AssertionError for a wrong result."""
    arguments = sample.arguments(dtype)
    try:
        with record_kernels() as names:
            y = op(place(arguments, device), sample, backend)
    except BackendError as error:
        if not cases.may_refuse(backend, sample, dtype):
            raise
        return f"refused: {error}"
    synchronize(device)
    assert_as_close(
        y.cpu(), op(arguments, sample, ""), op(samples.convert(arguments, torch.float64), sample, "")
    )
    return ", ".join(names)


def moves(backend: str, device: str) -> None:
    """The memory-bound ops."""
    x = torch.randn(1, 12, 6, 10, dtype=torch.float16)
    y = place(x, device)
    assert torch.equal(ops.pixel_shuffle(y, 2, backend=backend).cpu(), reference.pixel_shuffle(x, 2))
    assert torch.equal(ops.pixel_unshuffle(y, 2, backend=backend).cpu(), reference.pixel_unshuffle(x, 2))
    ops.residual_add(y, y, scale=0.5, backend=backend)
    image = samples.image((7, 5, 3), "contiguous", torch.uint8)
    back = ops.float_to_image(ops.image_to_float(place(image, device), backend=backend), backend=backend)
    assert torch.equal(back.cpu(), image)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all of it; 1 where no backend of ours is able."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.sanitize", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backends", nargs="*", default=None, help="(default: all of ours that are able)")
    args = parser.parse_args(arguments)
    absent = {name: why for name, why in available_backends().items() if why}
    able = [name for name in registry.order(args.device) if name != "torch" and name not in absent]
    chosen = able if args.backends is None else args.backends
    for name in registry.order(args.device):
        if name in absent:
            print(f"{name}: absent: {'; '.join(absent[name])}")
    with torch.no_grad():
        for backend in chosen:
            for dtype in (torch.float16, torch.float32):
                for op, sample in [*((conv2d, sample) for sample in CONVS), (dense_block, DENSE)]:
                    ran = check(op, sample, dtype, backend, args.device)
                    print(f"{backend} {dtype} {op.__name__} {sample.name}: {ran}", flush=True)
            moves(backend, args.device)
    return 0 if chosen else 1


if __name__ == "__main__":
    sys.exit(main())
