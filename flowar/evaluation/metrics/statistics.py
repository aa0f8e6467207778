"""Count, mean and covariance of features, in float64; those of parts can be merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureStatistics:
    """The moments of N features of d dimensions.

    Attributes:
        count: the number N.
        mean: the mean, float64 [d].
        scatter: the sum over features of (x - mean)(x - mean)^T, float64 [d, d].
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def from_features(features: Tensor) -> FeatureStatistics:
        """The statistics of features [N, d], N >= 1.

        Raises:
            ValueError: for another shape, and for values that are not finite.
        """
        if features.dim() != 2 or not len(features):
            raise ValueError(f"features: expected [N >= 1, d], got {list(features.shape)}")
        values = features.double()
        mean = values.mean(0)
        if not mean.isfinite().all():
            raise ValueError("features: expected finite values, got NaN or infinity")
        centred = values - mean
        return FeatureStatistics(len(features), mean, centred.T @ centred)

    @staticmethod
    def from_moments(count: int, mean: Tensor, covariance: Tensor) -> FeatureStatistics:
        """The statistics of `count` features whose mean [d] and covariance [d, d] (divided by count - 1) are known.

        Raises:
            ValueError: if the shapes do not fit together, and for a count below two.
        """
        if mean.dim() != 1 or covariance.shape != (*mean.shape, *mean.shape) or count < 2:
            got = f"{list(mean.shape)}, {list(covariance.shape)} and {count}"
            raise ValueError(f"statistics: expected mean [d], covariance [d, d] and a count >= 2, got {got}")
        return FeatureStatistics(count, mean.double(), covariance.double() * (count - 1))

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, float64 [d, d].

        Raises:
            ValueError: for a single feature, which has none.
        """
        if self.count < 2:
            raise ValueError(f"covariance: expected at least two features, got {self.count}")
        return self.scatter / (self.count - 1)

    @property
    def singular(self) -> bool:
        """Whether the covariance cannot have full rank, as there are no more features than dimensions."""
        return self.count <= len(self.mean)

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """The statistics of both sets together (Chan et al., 1979).

        Raises:
            ValueError: for features of other dimensions.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"statistics: expected {len(self.mean)} dimensions, got {len(other.mean)}")
        count = self.count + other.count
        shift = other.mean - self.mean
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        return FeatureStatistics(
            count, self.mean + shift * (other.count / count), self.scatter + other.scatter + between
        )

    def to(self, device: torch.device | str) -> FeatureStatistics:
        return FeatureStatistics(self.count, self.mean.to(device), self.scatter.to(device))
