"""Precision and recall: which images lie among those of the other set (Kynkäänniemi et al., NeurIPS 2019)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEIGHBOURS = 3
ROWS = 2048  # rows per block of distances: 2,048 by 50,000 take 0.8 GB in float64
ROUNDING = 1e-12  # of squared distances, relative to the largest squared norm
NEAREST = 32  # members among which half of a set has its third neighbour, but for one member in millions


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


def precision_recall_errors(
    generated: Tensor, reference: Tensor, replicates: int, neighbours: int = NEIGHBOURS, seed: int = 0
) -> tuple[float, float] | None:
    """The standard errors of precision and recall over other images of both kinds, or None for sets too small to halve.

    They are the standard deviations over random halves of both sets, drawn without replacement: a jackknife that leaves
    n / 2 of n out needs no other factor. Resamples with images that occur twice would have radii of zero.

    Args:
        generated, reference: features as for `precision_recall`.
        replicates: the number of halves, at least two.
        neighbours: the number k.
        seed: the seed of the halves.
    """
    if min(len(generated), len(reference)) // 2 <= neighbours:
        return None
    centre = reference.double().mean(0)
    generator = torch.Generator().manual_seed(seed)
    fake, real = (
        (features.double() - centre, random_halves(len(features), replicates, generator).to(features.device))
        for features in (generated, reference)
    )
    precision, recall = shares_of_halves(fake, real, neighbours), shares_of_halves(real, fake, neighbours)
    return float(precision.std()), float(recall.std())


def random_halves(count: int, replicates: int, generator: torch.Generator) -> Tensor:
    """Flags (bool [replicates, count]) of random halves of a set, rounded down."""
    return torch.rand(replicates, count, generator=generator).argsort(1) < count // 2


def shares_of_halves(features: tuple[Tensor, Tensor], members: tuple[Tensor, Tensor], neighbours: int) -> Tensor:
    """The share of every half of the features that lies among that half of the members, float64 [replicates].

    Args:
        features, members: features [N, d] and [M, d], each with the flags of its halves, [replicates, N] and [.., M].
        neighbours: the number k.
    """
    radii = radii_of_halves(*members, neighbours)
    found = torch.zeros(len(radii), dtype=torch.float64, device=radii.device)
    for part, halves in zip(features[0].split(ROWS), features[1].split(ROWS, 1), strict=True):
        distances = squared_distances(part, members[0])
        among_half = torch.stack([(distances <= radius).any(1) for radius in radii])
        found += (among_half & halves).sum(1)
    return found / features[1].sum(1)


def radii_of_halves(members: Tensor, halves: Tensor, neighbours: int) -> Tensor:
    """The squared distances [replicates, M] of members to their k-th neighbour in every half; -1 of those not in it."""
    parts = []
    for part in members.split(ROWS):
        nearest, numbers = squared_distances(part, members).topk(min(NEAREST, len(members)), largest=False)
        # As many as come before the k-th neighbour; the member itself is the nearest.
        before = [(half[numbers].cumsum(1) <= neighbours).sum(1).clamp(max=nearest.shape[1] - 1) for half in halves]
        parts.append(torch.stack([nearest.gather(1, each[:, None])[:, 0] for each in before]))
    radii = torch.cat(parts, 1) + ROUNDING * members.square().sum(1).max()
    return radii.where(halves, -1.0)


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """The squared distances [N, M] of features [N, d] and [M, d]."""
    norms = first.square().sum(1)[:, None] + second.square().sum(1)
    return torch.addmm(norms, first, second.T, alpha=-2).clamp_(min=0)
