"""The loss on held-out images, and whether it has begun to rise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowar.model import FlowAR
from flowar.system.precision import Precision
from flowar.system.ranks import Ranks
from flowar.training.draws import Draws, Stream
from flowar.training.latent_store import LatentStore
from flowar.training.step import forward_precision

AT_ONCE = 128
EPOCH = 2**40  # the epoch whose draws are used, which no run reaches
TURNED = 1.02  # times the lowest loss; noise and times are fixed, so that it hardly varies but by learning


@dataclass
class HeldOut:
    """Images that are held out, each with noise and times of its own that are the same at every evaluation.

    Attributes:
        store: the store that has them.
        images: the numbers of the images in the store, int64 [N].
    """

    store: LatentStore
    images: Tensor

    @staticmethod
    def evenly_spaced(store: LatentStore, images: Tensor, limit: int) -> HeldOut:
        """All of the images, or `limit` of them, evenly spaced."""
        return HeldOut(store, images[torch.linspace(0, len(images) - 1, min(limit, len(images))).long()])

    @torch.no_grad()
    def loss(self, model: FlowAR, precision: Precision, ranks: Ranks) -> list[float]:
        """Mean squared error of the velocity by scale, without dropout of any kind; the paper's uniform times.

        All ranks must call this together; each one takes its share.
        """
        model.eval()
        total = torch.zeros(len(model.config.grids), dtype=torch.float64, device=ranks.device)
        for numbers in ranks.share(self.images).split(AT_ONCE):
            total += self._errors(model, numbers, precision, ranks.device).double().sum(0)
        return [float(each) / len(self.images) for each in ranks.sum(total)]

    def _errors(self, model: FlowAR, numbers: Tensor, precision: Precision, device: torch.device) -> Tensor:
        """The mean squared errors of the velocity by image and scale, [B, K]."""
        config, draws = model.config, Draws.for_images(0, EPOCH, numbers)
        latents, labels = self.store.batch(numbers, draws)
        draws = draws.to(device)
        times = draws.uniform(Stream.TIMES, (len(config.grids),)).T
        noise = draws.normal(Stream.NOISE, (config.tokens, config.latent_channels))
        with forward_precision(precision, device):
            return model.loss(latents.to(device), labels, noise, times).per_image


def turned(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """A warning if the held-out loss has begun to rise in the last of these rows of metrics, otherwise None.

    It has if that row is the first whose loss is more than `TURNED` times the lowest loss before it.
    """
    losses = [(row["step"], row["held_out_loss"]) for row in rows if "held_out_loss" in row]
    before, (step, last) = losses[:-1], losses[-1]
    if not before or has_turned(before) or not has_turned(losses):
        return None
    best, lowest = min(before, key=lambda each: each[1])
    return (
        f"the held-out loss has turned: {lowest:.4f} at step {best}, {last:.4f} at step {step}; from here on the model "
        "learns its training images by heart. More images, dropout, a smaller model or fewer steps may help"
    )


def has_turned(losses: Sequence[tuple[int, float]]) -> bool:
    """Whether one of these losses (step, loss) is more than `TURNED` times the lowest before it."""
    lowest = float("inf")
    for _, loss in losses:
        if loss > TURNED * lowest:
            return True
        lowest = min(lowest, loss)
    return False
