"""The Fréchet distance between two sets of features, in float64 (FID, in the features of Inception)."""

from __future__ import annotations

from collections.abc import Callable

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
    between = (first.mean - second.mean).square().sum()
    return max(float(between + covariance.trace() + second.covariance.trace() - 2 * cross), 0.0)


def resampled_distance(features: Tensor, reference: FeatureStatistics) -> Callable[[Tensor], float]:
    """The Fréchet distance to `reference` of some of the features, as a function of their numbers.

    Where fewer features are drawn than there are dimensions, the eigenvalues come from a matrix with a row for each
    feature that occurs, not for each dimension: those of `root C1 root` are the squared singular values of
    `X root / sqrt(n - 1)`, whose products `X root X'` are taken once for all draws.

    Args:
        features: features [N, d], float64.
        reference: the statistics of the reference, on the same device.

    Returns:
        A function of feature numbers, int64 [n], some of which may occur more than once.

    Raises:
        ValueError: as `frechet_distance`; the function does, too.
    """
    root = symmetric_root(reference.covariance)
    dimensions = features.shape[1]
    centred = features - reference.mean
    rotated = centred @ root if len(features) < dimensions else None
    products = None if rotated is None else rotated @ rotated.T  # [N, N]

    def distance(chosen: Tensor) -> float:
        chosen = chosen.to(features.device)
        if products is None:
            return frechet_distance(FeatureStatistics.from_features(features[chosen]), reference, root)
        numbers, times = chosen.unique(return_counts=True)
        weights = times.double()
        return gram_distance(centred[numbers], products[numbers[:, None], numbers], weights, reference)

    return distance


def gram_distance(centred: Tensor, products: Tensor, weights: Tensor, reference: FeatureStatistics) -> float:
    """The Fréchet distance of n weighted features to a reference, by eigenvalues of an n x n matrix.

    Args:
        centred: features minus the mean of the reference, float64 [n, d].
        products: their inner products after `symmetric_root(reference.covariance)`, [n, n].
        weights: how often each occurs, [n].
        reference: the statistics of the reference.

    Raises:
        ValueError: for a single feature, and one that is not finite.
    """
    count = float(weights.sum())
    mean = weights @ centred / count
    if not mean.isfinite().all():
        raise ValueError("features: expected finite values, got NaN or infinity")
    if count < 2:
        raise ValueError(f"covariance: expected at least two features, got {count:.0f}")
    shares = weights / count
    rows = products @ shares
    around_mean = products - rows[:, None] - rows + shares @ rows
    around_mean = (around_mean + around_mean.T) / 2 * (weights.sqrt()[:, None] * weights.sqrt()) / (count - 1)
    variance = (weights @ (centred - mean).square()).sum() / (count - 1)
    reference_variance = reference.covariance.trace()
    eigenvalues = clamped(torch.linalg.eigvalsh(around_mean), float(variance * reference_variance))
    return max(float(mean.square().sum() + variance + reference_variance - 2 * eigenvalues.sqrt().sum()), 0.0)


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
