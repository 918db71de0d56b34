# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""A small trainer: Adam, cosine, moving average, exact resume."""

from __future__ import annotations

import copy
import hashlib
import io
import math
import pickle
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor, nn

from sr_kernels.image.files import commit
from sr_kernels.train.losses import LOSSES

# A run whose steps are all bad is broken, not unlucky.
MOST_SKIPPED_IN_A_ROW = 100
# What torch.load raises for a file that is cut short or something else.
_DAMAGE = (pickle.UnpicklingError, OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError)


class Sampler(Protocol):
    """What the trainer needs of data."""

    def draw(self, index: int) -> tuple[Tensor, Tensor]:
        """Batch number index, low and high resolution: the same one each time it is asked for."""

    def settings(self) -> dict[str, int | str]:
        """What the batches depend on, compared when a run is resumed."""


@dataclass(frozen=True)
class TrainingConfig:
    """What, beside the model and the data, determines the result."""

    steps: int
    learning_rate: float = 2e-3
    last_learning_rate: float = 1e-6
    warmup: int = 200
    ema_decay: float = 0.999
    gradient_norm: float = 1.0
    loss: str = "l1"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, found {self.loss!r}")


class Trainer:
    """Trains model on sampler's batches; .average is the moving average that is shipped.

    A step whose loss or gradient is not finite changes neither weights nor moments and is counted in
    .skipped; after 100 in a row FloatingPointError is raised. .step counts batches drawn, skipped ones
    included, and .seconds the time spent in steps, across resumes. Batches are a function of .step, so
    that a resumed run goes on bit for bit (same machine, same number of threads).
    """

    def __init__(self, model: nn.Module, sampler: Sampler, config: TrainingConfig):
        self.model = model.train()
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.sampler, self.config = sampler, config
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.step = 0
        self.skipped = 0
        self.seconds = 0.0
        self._skipped_in_a_row = 0

    def learning_rate(self) -> float:
        """This step's: a linear warm-up, then half a cosine down to the last one."""
        c = self.config
        warm = min(1.0, (self.step + 1) / (min(c.warmup, c.steps // 10) + 1))
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, self.step / c.steps)))
        return warm * (c.last_learning_rate + (c.learning_rate - c.last_learning_rate) * cosine)

    def train_step(self) -> float:
        """One batch; its loss, which is not finite where the step was skipped."""
        started = time.perf_counter()
        low, high = self.sampler.draw(self.step)
        loss = LOSSES[self.config.loss](self.model(low), high)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_norm)
        if torch.isfinite(loss) and torch.isfinite(norm):
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate()
            self.optimiser.step()
            self._update_average()
            self._skipped_in_a_row = 0
        else:
            self.skipped += 1
            self._skipped_in_a_row += 1
        self.step += 1
        self.seconds += time.perf_counter() - started
        if self._skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            raise FloatingPointError(
                f"the last {MOST_SKIPPED_IN_A_ROW} steps, up to step {self.step}, had a loss or gradient "
                "that is not finite: lower the learning rate or look at the data"
            )
        return loss.item()

    def settings(self) -> dict[str, Any]:
        """What the result depends on: the configuration, the sampler's settings, the network's tensors."""
        tensors = {name: list(tensor.shape) for name, tensor in self.model.state_dict().items()}
        size = sum(math.prod(shape) for shape in tensors.values())
        digest = hashlib.sha256(repr(tensors).encode()).hexdigest()[:8]
        network = f"of {len(tensors)} tensors and {size} values ({digest})"
        return {**asdict(self.config), **self.sampler.settings(), "network": network}

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs: tensors and plain values only."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "settings": self.settings(),
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "seconds": self.seconds,
        }

    def save(self, path: Path) -> None:
        """A checkpoint at path, whole or not at all."""
        data = io.BytesIO()
        torch.save(self.state(), data)
        _write(path, data.getvalue())

    def resume(self, path: Path) -> None:
        """Go on from the checkpoint at path, which must be of the same network, configuration and data.

        Raises FileNotFoundError without one, ValueError where the file is none of this trainer's or is
        damaged, or where its network, configuration or data differ.
        """
        data = io.BytesIO(path.read_bytes())
        try:
            state = torch.load(data, map_location="cpu", weights_only=True)
            theirs = dict(state["settings"])
        except _DAMAGE as error:
            raise ValueError(f"{path} is not a checkpoint of this trainer, or is damaged") from error
        ours = self.settings()
        changed = [k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)]
        if changed:
            found = ", ".join(f"{k} {theirs.get(k)} there, {ours.get(k)} here" for k in changed)
            raise ValueError(f"checkpoint {path} is of another run: {found}; resume with its own options")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"])
        self.step = state["step"]
        self.skipped = state["skipped"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        self.seconds = state["seconds"]

    def export(self, path: Path, metadata: dict[str, str]) -> None:
        """The average's weights, float32 and contiguous, as safetensors with metadata, at path."""
        tensors = {k: v.float().contiguous() for k, v in self.average.state_dict().items()}
        _write(path, safetensors.torch.save(tensors, metadata))

    @torch.no_grad()
    def _update_average(self) -> None:
        # Young averages follow faster, or the first steps would weigh for ever.
        decay = min(self.config.ema_decay, (1.0 + self.step) / (10.0 + self.step))
        averages = [p for p in self.average.state_dict().values() if p.is_floating_point()]
        currents = [p for p in self.model.state_dict().values() if p.is_floating_point()]
        torch._foreach_lerp_(averages, currents, 1.0 - decay)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    commit(data, path, overwrite=True)
