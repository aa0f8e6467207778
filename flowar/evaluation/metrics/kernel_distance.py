"""The kernel distance of two sets of features (KID, in the features of Inception)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

DEGREE = 3


class KernelDistance(NamedTuple):
    """The mean and the standard deviation over subsets, and the size of the subsets."""

    mean: float
    std: float
    subset_size: int


def kernel_distance(
    first: Tensor, second: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> KernelDistance:
    """The unbiased squared maximum mean discrepancy, with kernel `(x·y / d + 1)^3` (Bińkowski et al., ICLR 2018).

    Its mean is 0 if both sets come from one distribution; it may then be negative. Subsets are drawn without
    replacement, in the order of torch-fidelity.

    Args:
        first, second: features [N, d] and [M, d], at least four rows each.
        subsets: the number of subsets.
        subset_size: the size of a subset, which is reduced to half of the smaller set, so that the subsets differ.
        seed: the seed of the subsets.

    Raises:
        ValueError: for other shapes.
    """
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 4:
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        raise ValueError(f"features: expected [N >= 4, d] and [M >= 4, d], got {shapes}")
    size = min(subset_size, len(first) // 2, len(second) // 2)
    generator = np.random.RandomState(seed)
    distances = []
    for _ in range(subsets):
        parts = (draw(features, size, generator) for features in (first, second))
        distances.append(squared_discrepancy(*parts))
    return KernelDistance(float(np.mean(distances)), float(np.std(distances)), size)


def draw(features: Tensor, size: int, generator: np.random.RandomState) -> Tensor:
    """Draw `size` different rows of features, in float64."""
    chosen = torch.from_numpy(generator.choice(len(features), size, replace=False))
    return features[chosen.to(features.device)].double()


def squared_discrepancy(first: Tensor, second: Tensor) -> float:
    """The unbiased estimate for two sets [m, d] of equal size."""
    m = len(first)
    within = sum(kernel.sum() - kernel.trace() for kernel in (kernel_of(first, first), kernel_of(second, second)))
    return float(within / (m * (m - 1)) - 2 * kernel_of(first, second).mean())


def kernel_of(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** DEGREE
