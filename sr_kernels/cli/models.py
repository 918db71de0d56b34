# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""sr-kernels models: the weights that the package carries, and the architectures that it reads."""

from __future__ import annotations

import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Register `models` with the command line's subparsers."""
    return commands.add_parser(
        "models",
        help="list the embedded weights and the known architectures",
        description="List the weights that the package carries, and the architectures whose checkpoints "
        "--weights takes (with their default sizes).",
    )


def run(args: argparse.Namespace) -> int:
    """Print both tables; the exit status."""
    import torch
    from torch import nn

    from sr_kernels import models

    def count(model: nn.Module) -> str:
        return f"{sum(p.numel() for p in model.parameters()):,}"

    embedded = [["embedded weights", "scale", "parameters", "bytes", "radius"]]
    for path in models.embedded_files().values():
        model = models.load(path)
        size = f"{path.stat().st_size:,}"
        embedded.append([path.stem, f"{model.scale}x", count(model), size, str(model.receptive_radius())])
    print(aligned(embedded) if len(embedded) > 1 else "no embedded weights in this installation")
    print()
    architectures = [["architecture", "scale", "parameters", "channels", "radius"]]
    for name in models.list_models():
        with torch.device("meta"):
            model = models.create(name)
        radius = str(model.receptive_radius())
        architectures.append([name, f"{model.scale}x", count(model), str(model.in_channels), radius])
    print(aligned(architectures))
    return 0


def aligned(rows: list[list[str]]) -> str:
    """Rows as columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
