"""Exponential moving averages of the weights, several rates at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from flowar.training.parallel import local_all


class Averages:
    """Moving averages of the weights: for every rate one float32 tensor per parameter.

    Each is split over ranks as its parameter is.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], decays: Sequence[float]) -> None:
        self.parameters = dict(parameters)
        self.by_decay = {
            decay: {name: parameter.detach().clone() for name, parameter in self.parameters.items()} for decay in decays
        }

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the weights after `updates` optimizer steps: `average += (1 - decay) (weight - average)`.

        Early in a run an average forgets faster, so that it does not keep the initial weights.
        """
        weights = local_all([*self.parameters.values()])
        for decay, average in self.by_decay.items():
            early = min(decay, (1 + updates) / (10 + updates))
            torch._foreach_lerp_(local_all([*average.values()]), weights, 1 - early)

    def tensors(self) -> dict[str, Tensor]:
        """All averages, each under a name of its own."""
        return {
            f"average_{decay}.{name}": each for decay, named in self.by_decay.items() for name, each in named.items()
        }
