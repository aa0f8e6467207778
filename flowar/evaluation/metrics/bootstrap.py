"""The bootstrap: the standard error of a metric over other images of the same kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def bootstrap_error(statistic: Callable[[Tensor], float], count: int, replicates: int, seed: int = 0) -> float:
    """The standard deviation of a statistic over resamples of the images (Efron, 1979).

    The mean of the resamples is not used: with images that occur twice it is biased for some metrics, as the Fréchet
    distance, while the spread is right.

    Args:
        statistic: a function of image numbers, int64 [count], some of which occur more than once.
        count: the number of images.
        replicates: the number of resamples, at least two.
        seed: the seed of the resamples.

    Raises:
        ValueError: for fewer than two replicates.
    """
    if replicates < 2:
        raise ValueError(f"bootstrap: expected at least two replicates, got {replicates}")
    generator = torch.Generator().manual_seed(seed)
    draws = (torch.randint(count, (count,), generator=generator) for _ in range(replicates))
    return float(torch.tensor([statistic(indices) for indices in draws], dtype=torch.float64).std())
