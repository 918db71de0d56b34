# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""sr-kernels optimize: what sr_kernels.optimize makes of a network, as a report or as an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path

from sr_kernels import config
from sr_kernels.cli.arguments import positive, setting, size, threads

_DTYPES = ("float32", "bfloat16", "float16")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Register `optimize` with the command line's subparsers."""
    parser = commands.add_parser(
        "optimize",
        help="tell what fusing makes of a network, or write it as ONNX",
        description="Fuse a checkpoint's network, in plain PyTorch, as sr_kernels.optimize does, prove it on "
        "the spot, and tell what was fused, what was not and why, parity and time; or write the fused "
        "network as ONNX.",
    )
    add = parser.add_argument
    add(
        "weights",
        metavar="WEIGHTS",
        help="a checkpoint, .safetensors or .pth, or a shipped model's name",
    )
    add("--report", action="store_true", help="print the report (what happens without --onnx anyway)")
    add("--onnx", type=Path, metavar="OUT", help="write the network in standard operators, for any size")
    add("--scale", type=positive, metavar="N", help="times larger, where the weights leave it open")
    add(
        "--set",
        type=setting,
        action="append",
        metavar="KEY=VALUE",
        help="an argument of the architecture that the weights leave open (repeatable)",
    )
    add("--size", type=size, metavar="WxH", help="of the picture that parity and times are taken on")
    add("--dtype", choices=_DTYPES, help="to compute in (default: the weights' own)")
    add("--precision", choices=config.PRECISIONS, help="of the kernels (default: high)")
    add("--backend", choices=("auto", *config.BACKENDS), default="auto", help="(default: auto)")
    add("--threads", type=threads, metavar="N", help="(default: PyTorch's own choice)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Optimise, print, write as the parsed arguments say; the exit status."""
    if args.onnx is not None:
        if args.dtype not in (None, "float32"):
            raise ValueError("--onnx writes float32; leave --dtype out")
        if not args.onnx.resolve().parent.is_dir():
            raise FileNotFoundError(f"--onnx {args.onnx}: there is no folder {args.onnx.resolve().parent}")
    import torch

    from sr_kernels.optimizer.export import check_packages

    if args.onnx is not None:
        check_packages()
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads or before)
    try:
        return _run(args)
    finally:
        torch.set_num_threads(before)


def _run(args: argparse.Namespace) -> int:
    import torch

    from sr_kernels.bench import plain
    from sr_kernels.models import SRModel
    from sr_kernels.optimizer import optimize
    from sr_kernels.optimizer.export import write_onnx
    from sr_kernels.pipeline import resolve_model

    # in torch.nn's own layers, as its authors run it: the library's own network is fused already
    found = resolve_model(args.weights, args.scale, dict(args.set or ()) or None)
    assert isinstance(found, SRModel)
    model = plain.of(found)
    example = None
    if args.size is not None:
        width, height = args.size
        example = torch.rand(
            (1, found.in_channels, height, width), generator=torch.Generator("cpu").manual_seed(0)
        )
    fast = optimize(
        model,
        example,
        dtype=None if args.dtype is None else getattr(torch, args.dtype),
        backend=None if args.backend == "auto" else args.backend,
        precision=args.precision,
    )
    if args.report or args.onnx is None:
        print(fast.report())
    if args.onnx is not None:
        told = write_onnx(fast, args.onnx)
        print(f"{args.onnx}: {args.onnx.stat().st_size:,} bytes; {told}")
    return 0
