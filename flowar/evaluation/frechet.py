"""The Fréchet distance between two sets of features, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Distance between the Gaussians fitted to features [N, d] and [M, d] (Heusel et al., NeurIPS 2017).

    `|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^(1/2))`. With few samples it is biased upwards: compare equal counts only.

    Raises:
        ValueError: unless both have d columns and at least two rows.
    """
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        raise ValueError(f"features: expected [N >= 2, d] and [M >= 2, d], got {shapes}")
    (mean1, cov1), (mean2, cov2) = ((x.double().mean(0), x.double().T.cov()) for x in (first, second))
    root = symmetric_root(cov1)
    # The eigenvalues of C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2): no complex matrix root is needed.
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross)


def symmetric_root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix [d, d]."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
