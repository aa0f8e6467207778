"""All metrics of a set of features, each with its standard error."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from flowar.evaluation.extractors import Features, MetricNames
from flowar.evaluation.metrics.bootstrap import bootstrap_error
from flowar.evaluation.metrics.frechet import frechet_distance, symmetric_root
from flowar.evaluation.metrics.inception_score import inception_score
from flowar.evaluation.metrics.kernel_distance import kernel_distance
from flowar.evaluation.metrics.precision_recall import precision_recall
from flowar.evaluation.metrics.statistics import FeatureStatistics
from flowar.evaluation.reference import Reference

NORMAL_95 = 1.96  # standard errors on both sides of the mean that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Measurement:
    """The value of a metric and its standard error.

    Attributes:
        value: the value.
        better: the direction in which values are better.
        error: the standard error; None if it was not asked for.
        error_by: the way the error was estimated.
    """

    value: float
    better: Literal["lower", "higher"]
    error: float | None
    error_by: str

    def record(self) -> dict[str, Any]:
        """Plain data, with the 95 % interval."""
        interval = None
        if self.error is not None:
            interval = [self.value - NORMAL_95 * self.error, self.value + NORMAL_95 * self.error]
        return asdict(self) | {"interval": interval}


@dataclass(frozen=True)
class Measuring:
    """The metrics of some features against a reference.

    Attributes:
        features: the features of the images.
        labels: the labels of the images, if they are the extractor's classes.
        reference: the reference.
        names: the names of the metrics.
        replicates: the number of bootstrap replicates; 0 leaves all errors out.
        device: the device to compute on; the Fréchet distance takes d x d eigenvalues for every replicate.
    """

    features: Features
    labels: Tensor | None
    reference: Reference
    names: MetricNames
    replicates: int
    device: torch.device

    def all(self) -> tuple[dict[str, Measurement], dict[str, str]]:
        """Every metric by name, and the reason why others are unavailable."""
        found = {self.names.frechet: self.frechet(self.features.pooled, self.reference.pooled)}
        missing: dict[str, str] = {}
        if self.reference.spatial is None:
            missing[self.names.spatial_frechet] = "the reference has no spatial statistics"
        else:
            found[self.names.spatial_frechet] = self.frechet(self.features.spatial, self.reference.spatial)
        found[self.names.score] = self.score()
        if self.reference.features is None:
            needing = (self.names.kernel, "precision", "recall")
            missing |= dict.fromkeys(needing, "the reference has statistics alone, no features")
        else:
            found |= self.against_features(self.reference.features.to(self.device))
        if self.labels is None:
            missing["class agreement"] = "the images have no labels that are the extractor's classes"
        else:
            found["class agreement"] = self.share(self.features.probabilities.argmax(1) == self.labels, "images")
        return found, missing

    def frechet(self, features: Tensor, reference: FeatureStatistics) -> Measurement:
        """The Fréchet distance of features [N, d]."""
        values, reference = features.to(self.device).double(), reference.to(self.device)
        root = symmetric_root(reference.covariance)

        def distance(chosen: Tensor) -> float:
            return frechet_distance(FeatureStatistics.from_features(values[chosen.to(self.device)]), reference, root)

        value = distance(torch.arange(len(values)))
        error = bootstrap_error(distance, len(values), self.replicates) if self.replicates else None
        return Measurement(value, "lower", error, "bootstrap over the images")

    def score(self) -> Measurement:
        """The Inception Score of the extractor's probabilities."""
        probabilities = self.features.probabilities.to(self.device)

        def score(chosen: Tensor) -> float:
            return inception_score(probabilities[chosen.to(self.device)]).mean

        value = inception_score(probabilities).mean
        error = bootstrap_error(score, len(probabilities), self.replicates) if self.replicates else None
        return Measurement(value, "higher", error, "bootstrap over the images")

    def against_features(self, real: Tensor) -> dict[str, Measurement]:
        """The metrics that need the features of the reference [M, d]."""
        fake = self.features.pooled.to(self.device)
        kernel = kernel_distance(fake, real)
        # Subsets of m out of n images are a jackknife that leaves n - m out.
        left_out = min(len(fake), len(real)) - kernel.subset_size
        error = kernel.std * (kernel.subset_size / left_out) ** 0.5 if self.replicates else None
        found = precision_recall(fake, real)
        return {
            self.names.kernel: Measurement(kernel.mean, "lower", error, "jackknife over subsets of both sets"),
            "precision": self.share(found.precise, "images"),
            "recall": self.share(found.recalled, "reference images"),
        }

    def share(self, flags: Tensor, counted: str) -> Measurement:
        """The share of the flags [N] that are set; `counted` names the images that they belong to."""
        values = flags.cpu().double()

        def mean(chosen: Tensor) -> float:
            return float(values[chosen].mean())

        error = bootstrap_error(mean, len(values), self.replicates) if self.replicates else None
        return Measurement(float(values.mean()), "higher", error, f"bootstrap over the {counted}")


def bias_warnings(features: Features, reference: Reference, names: MetricNames) -> list[str]:
    """Warnings about distances that are biased, as there are fewer images than dimensions."""
    sets = {
        names.frechet: (features.pooled, reference.pooled),
        names.spatial_frechet: (features.spatial, reference.spatial),
    }
    return [
        f"{name}: {len(images)} images for {images.shape[1]} feature dimensions: the covariance is singular and the "
        "distance biased upwards; compare it only with that of as many images"
        for name, (images, statistics) in sets.items()
        if statistics is not None and len(images) <= images.shape[1]
    ]
