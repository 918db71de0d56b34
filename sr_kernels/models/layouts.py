# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Foreign state-dict layouts, and how their keys become this package's (those of BasicSR and yjn870)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

State = dict[str, Tensor]


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, recognised or fitted; the message says what was found."""


@dataclass(frozen=True)
class Layout:
    """marks: keys that all must be there. rules: (pattern of a whole key's stem, replacement), first match
    wins, a key without match keeps its name. prepare: what renaming alone cannot do, run before it."""

    architecture: str
    name: str
    marks: tuple[str, ...]
    rules: tuple[tuple[str, str], ...] = ()
    prepare: Callable[[State], State] | None = field(default=None)

    def matches(self, keys: Iterable[str]) -> bool:
        return set(self.marks) <= set(keys)

    def convert(self, state: State) -> State:
        """The state dict under canonical keys; tensors are shared."""
        if self.prepare is not None:
            state = self.prepare(state)
        converted: State = {}
        for key, tensor in state.items():
            stem, _, leaf = key.rpartition(".")
            name = f"{self._rename(stem)}.{leaf}"
            if name in converted:
                raise CheckpointError(f"two tensors of the checkpoint mean {name!r}, one of them {key!r}")
            converted[name] = tensor
        return converted

    def _rename(self, stem: str) -> str:
        for pattern, replacement in self.rules:
            if match := re.fullmatch(pattern, stem):
                return match.expand(replacement)
        return stem


def _old_esrgan(state: State) -> State:
    """The oldest ESRGAN files number modules: the convolutions after the trunk (model.3, ...) are the
    doublings, then hr and last, in order."""
    stems = {key.rpartition(".")[0] for key in state}
    found = [re.fullmatch(r"model\.(\d+)", stem) for stem in stems]
    tail = sorted(int(m[1]) for m in found if m and m[1] != "0")
    if len(tail) < 2:
        raise CheckpointError(
            f"an old ESRGAN file needs model.<n> convolutions after the trunk, found {tail}"
        )
    names = [f"conv_up{i + 1}" for i in range(len(tail) - 2)] + ["conv_hr", "conv_last"]
    stem_of = {f"model.{n}": name for n, name in zip(tail, names, strict=True)}
    renamed: State = {}
    for key, tensor in state.items():
        stem, _, leaf = key.rpartition(".")
        renamed[f"{stem_of.get(stem, stem)}.{leaf}"] = tensor
    return renamed


def _original_edsr(state: State) -> State:
    """The original EDSR shifts by the mean in 1x1 convolutions; `detect` reads it from their biases."""
    state = dict(state)
    for name in ("sub_mean", "add_mean"):
        weight = state.pop(f"{name}.weight", None)
        if weight is not None and weight.dim() == 4:
            eye = torch.eye(weight.shape[0], weight.shape[1], dtype=weight.dtype)
            if weight.shape[2:] != (1, 1) or not torch.equal(weight[:, :, 0, 0].cpu(), eye):
                raise CheckpointError(
                    f"{name}.weight of the checkpoint is not the identity: not EDSR's shift"
                )
    return state


# Canonical layouts come first within an architecture; marks are chosen so that at most one layout matches.
LAYOUTS: tuple[Layout, ...] = (
    Layout("rrdbnet", "BasicSR", ("conv_first.weight", "body.0.rdb1.conv1.weight", "conv_body.weight")),
    Layout(
        "rrdbnet",
        "ESRGAN",
        ("conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight", "trunk_conv.weight"),
        (
            (r"RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)", r"body.\1.rdb\2.conv\3"),
            (r"trunk_conv", "conv_body"),
            (r"upconv(\d+)", r"conv_up\1"),
            (r"HRconv", "conv_hr"),
        ),
    ),
    Layout(
        "rrdbnet",
        "old ESRGAN",
        ("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"),
        (
            (r"model\.0", "conv_first"),
            (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0", r"body.\1.rdb\2.conv\3"),
            (r"model\.1\.sub\.\d+", "conv_body"),
        ),
        _old_esrgan,
    ),
    Layout("edsr", "BasicSR", ("conv_first.weight", "body.0.conv1.weight", "conv_after_body.weight")),
    Layout(
        "edsr",
        "original EDSR",
        ("head.0.weight", "body.0.body.0.weight", "tail.1.weight"),
        (
            (r"head\.0", "conv_first"),
            (r"body\.(\d+)\.body\.0", r"body.\1.conv1"),
            (r"body\.(\d+)\.body\.2", r"body.\1.conv2"),
            (r"body\.\d+", "conv_after_body"),
            (r"tail\.0\.(\d+)", r"upsample.\1"),
            (r"tail\.1", "conv_last"),
        ),
        _original_edsr,
    ),
    Layout("fsrcnn", "yjn870", ("first_part.0.weight", "mid_part.0.weight", "last_part.weight")),
    Layout("espcn", "yjn870", ("first_part.0.weight", "first_part.2.weight", "last_part.0.weight")),
    Layout("srvgg", "Real-ESRGAN", ("body.0.weight", "body.2.weight")),
)

# Relatives of a known architecture that compute something else: refused by name.
REFUSED: tuple[tuple[str, str], ...] = ((r".*\.conv1x1\..*", "ESRGAN+ (1x1 branches in its dense blocks)"),)
