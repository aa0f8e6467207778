"""The state of a training run: weights, their averages, the optimizers, and how many steps were made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowar.model import FlowAR
from flowar.storage.checkpoint import skeleton
from flowar.training.averages import Averages
from flowar.training.config import OptimConfig
from flowar.training.optimizer import Optimizer, moments, new_optimizers, set_updates
from flowar.training.parallel import whole


@dataclass
class TrainState:
    """The state of a training run, which its checkpoints hold.

    It has no random numbers, as they follow from seed, epoch, step and image.

    Attributes:
        model: the model, whose parameters may be split over ranks (FSDP2).
        optimizers: the optimizers; each parameter has one.
        averages: the moving averages of the parameters.
        step: the number of batches seen.
        updates: the number of batches that were not skipped.
        skipped_in_a_row: the number of steps since the last update.
    """

    model: FlowAR
    optimizers: list[Optimizer]
    averages: Averages
    step: int = 0
    updates: int = 0
    skipped_in_a_row: int = 0

    @staticmethod
    def new(model: FlowAR, optim: OptimConfig) -> TrainState:
        """The state of a run that begins with `model`."""
        return TrainState(model, new_optimizers(model, optim), Averages(model.named_parameters(), optim.ema_decays))

    def identity(self) -> dict[str, Any]:
        """The model's configuration."""
        return self.model.config.to_dict()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state by name; loading writes to these very tensors."""
        weights = {f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        return weights | moments(self.model, self.optimizers) | self.averages.tensors()

    def progress(self) -> dict[str, int]:
        """All counters of the state."""
        return {"step": self.step, "updates": self.updates, "skipped_in_a_row": self.skipped_in_a_row}

    def set_progress(self, progress: dict[str, Any]) -> None:
        """Set the counters that `progress` returned."""
        self.step, self.updates = progress["step"], progress["updates"]
        self.skipped_in_a_row = progress["skipped_in_a_row"]
        set_updates(self.optimizers, self.updates)

    @torch.no_grad()
    def average_model(self, decay: float) -> FlowAR:
        """A model of averaged weights, whole on every rank; all ranks must call this together."""
        named = self.averages.by_decay[decay]
        device = next(iter(named.values())).device
        model = skeleton(FlowAR, self.model.config, torch.float32).to_empty(device=device)
        for name, parameter in model.named_parameters():
            parameter.copy_(whole(named[name]))
        return model.eval().requires_grad_(False)
