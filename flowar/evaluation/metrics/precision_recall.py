"""Precision and recall: which images lie among those of the other set (Kynkäänniemi et al., NeurIPS 2019)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEIGHBOURS = 3
ROWS = 2048  # rows per block of distances: 2,048 by 50,000 take 0.8 GB in float64
ROUNDING = 1e-12  # of squared distances, relative to the largest squared norm


class PrecisionRecall(NamedTuple):
    """Flags of the generated images [N] that lie among the reference, and of the reference [M] among the generated."""

    precise: Tensor
    recalled: Tensor

    @property
    def precision(self) -> float:
        return float(self.precise.double().mean())

    @property
    def recall(self) -> float:
        return float(self.recalled.double().mean())


def precision_recall(generated: Tensor, reference: Tensor, neighbours: int = NEIGHBOURS) -> PrecisionRecall:
    """Find the images of each set that lie among the other set.

    A feature lies among a set if it is as near to one of its members as that member's k-th neighbour in the set.

    Args:
        generated, reference: features [N, d] and [M, d], more than `neighbours` rows each.
        neighbours: the number k.

    Raises:
        ValueError: for other shapes.
    """
    shapes = [list(features.shape) for features in (generated, reference)]
    if any(len(shape) != 2 or shape[0] <= neighbours for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"features: expected [N > {neighbours}, d] and [M > {neighbours}, d], got {shapes}")
    centre = reference.double().mean(0)  # large norms would cost digits of the distances
    fake, real = generated.double() - centre, reference.double() - centre
    return PrecisionRecall(among(fake, real, neighbours), among(real, fake, neighbours))


def among(features: Tensor, members: Tensor, neighbours: int) -> Tensor:
    """Flags (bool [N]) of the features [N, d] that lie among members [M, d]."""
    # The nearest of all is the member itself. Equal features are at distance zero but for rounding.
    radii = torch.cat(
        [squared_distances(part, members).kthvalue(neighbours + 1).values for part in members.split(ROWS)]
    )
    radii = radii + ROUNDING * members.square().sum(1).max()
    return torch.cat([(squared_distances(part, members) <= radii).any(1) for part in features.split(ROWS)])


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """The squared distances [N, M] of features [N, d] and [M, d]."""
    norms = first.square().sum(1)[:, None] + second.square().sum(1)
    return torch.addmm(norms, first, second.T, alpha=-2).clamp_(min=0)
