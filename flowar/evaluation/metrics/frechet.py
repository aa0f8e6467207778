"""The Fréchet distance between two sets of features, in float64 (FID, in the features of Inception)."""

from __future__ import annotations

import torch
from torch import Tensor

from flowar.evaluation.metrics.statistics import FeatureStatistics

TOLERANCE = 1e-6  # of a matrix root's square and of negative eigenvalues, relative to the matrix


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics, root: Tensor | None = None) -> float:
    """Distance between the Gaussians fitted to two sets of features (Heusel et al., NeurIPS 2017).

    It is `|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^(1/2))`. Covariances may be singular, as those of fewer features than
    dimensions are: nothing is added to their diagonals. With few features the distance is biased upwards, the more so
    the more dimensions there are: compare equal counts only.

    Args:
        first, second: statistics with the same dimensions, of at least two features each.
        root: `symmetric_root(second.covariance)`, if it is known.

    Raises:
        ValueError: for other dimensions, too few features, and covariances that are none.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features: expected equal dimensions, got {len(first.mean)} and {len(second.mean)}")
    covariance = first.covariance
    root = symmetric_root(second.covariance) if root is None else root
    # The eigenvalues of C1 C2 are those of the symmetric C2^(1/2) C1 C2^(1/2): no complex matrix root is needed.
    scale = float(covariance.trace() * second.covariance.trace())
    cross = clamped(torch.linalg.eigvalsh(root @ covariance @ root), scale).sqrt().sum()
    return float((first.mean - second.mean).square().sum() + covariance.trace() + second.covariance.trace() - 2 * cross)


def symmetric_root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix [d, d].

    Raises:
        ValueError: if the matrix is not positive semi-definite, or the root's square is not the matrix.
    """
    values, vectors = torch.linalg.eigh(matrix)
    scale = float(values.abs().max())
    root = (vectors * clamped(values, scale).sqrt()) @ vectors.T
    residual = float((root @ root - matrix).abs().max())
    if not residual <= TOLERANCE * scale:
        raise ValueError(f"matrix root: expected a residual of at most {TOLERANCE * scale:.3g}, got {residual:.3g}")
    return root


def clamped(eigenvalues: Tensor, scale: float) -> Tensor:
    """Eigenvalues of a positive semi-definite matrix, those at zero that rounding made negative set to zero.

    Raises:
        ValueError: if one is more negative than rounding at `scale` explains: its root would be imaginary.
    """
    if float(eigenvalues.min()) < -TOLERANCE * scale:
        low, high = float(eigenvalues.min()), float(eigenvalues.max())
        raise ValueError(f"covariance: expected eigenvalues >= 0, got some from {low:.3g} to {high:.3g}")
    return eigenvalues.clamp(min=0)
