"""The Inception Score: how sure a classifier is of every image, and how many classes it sees."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class InceptionScore(NamedTuple):
    """The mean and the standard deviation over the splits."""

    mean: float
    std: float


def inception_score(probabilities: Tensor, splits: int = 10, seed: int = 2020) -> InceptionScore:
    """The Inception Score `exp(E KL(p(y|x) | p(y)))`, averaged over splits (Salimans et al., NIPS 2016).

    It is at least 1 and at most C. The images are shuffled first, as torch-fidelity does with its default seed, since
    files are often sorted by class.

    Args:
        probabilities: class probabilities [N, C], whose rows sum to one.
        splits: the number of splits of nearly equal size; with few images per split the score is biased downwards.
        seed: the seed of the shuffle.

    Raises:
        ValueError: for fewer images than splits.
    """
    if probabilities.dim() != 2 or not 1 <= splits <= len(probabilities):
        raise ValueError(
            f"inception score: expected [N >= {splits}, C] for {splits} splits, got {list(probabilities.shape)}"
        )
    count = len(probabilities)
    order = torch.from_numpy(np.random.RandomState(seed).permutation(count)).to(probabilities.device)
    shuffled = probabilities[order].double()
    bounds = [index * count // splits for index in range(splits + 1)]
    scores = [split_score(shuffled[begin:end]) for begin, end in pairwise(bounds)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def split_score(probabilities: Tensor) -> float:
    """The score of one split, probabilities float64 [N, C]; a class without probability counts nothing."""
    marginal = probabilities.mean(0)
    divergence = (torch.xlogy(probabilities, probabilities) - torch.xlogy(probabilities, marginal)).sum(1)
    return float(divergence.mean().exp())
