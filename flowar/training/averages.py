"""Exponential moving averages of the weights, several rates at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from flowar.training.parallel import local_all


class Averages:
    """For every rate a tensor a parameter, float32, split over ranks as the parameter is."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], decays: Sequence[float]) -> None:
        self.parameters = dict(parameters)
        self.of = {
            decay: {name: parameter.detach().clone() for name, parameter in self.parameters.items()} for decay in decays
        }

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the weights after so many optimizer steps: `average += (1 - decay) (weight - average)`.

        Early on an average forgets faster, so that it is not one of the initialisation.
        """
        weights = local_all([*self.parameters.values()])
        for decay, average in self.of.items():
            early = min(decay, (1 + updates) / (10 + updates))
            torch._foreach_lerp_(local_all([*average.values()]), weights, 1 - early)

    def tensors(self) -> dict[str, Tensor]:
        """All of them under names of their own."""
        return {f"average_{decay}.{name}": each for decay, named in self.of.items() for name, each in named.items()}
