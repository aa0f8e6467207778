"""All metrics of a set of features, each with its standard error."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from flowar.evaluation.extractors import Features, MetricNames
from flowar.evaluation.metrics.bootstrap import bootstrap_error
from flowar.evaluation.metrics.frechet import resampled_distance
from flowar.evaluation.metrics.inception_score import inception_score
from flowar.evaluation.metrics.kernel_distance import kernel_distance
from flowar.evaluation.metrics.precision_recall import precision_recall, precision_recall_errors
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
        bounds: the least and the greatest number that the metric can be; an estimate without bias may lie outside.
        images, features: the number of images and of their features, of metrics that few images bias; else None.
    """

    value: float
    better: Literal["lower", "higher"]
    error: float | None
    error_by: str
    bounds: tuple[float, float] = (0.0, math.inf)
    images: int | None = None
    features: int | None = None

    def record(self) -> dict[str, Any]:
        """Plain data, with the 95 % interval, which is cut off at the bounds."""
        interval = None
        if self.error is not None:
            low, high = self.bounds
            ends = (self.value - NORMAL_95 * self.error, self.value + NORMAL_95 * self.error)
            interval = [min(max(end, low), high) for end in ends]
        record = asdict(self) | {"interval": interval}
        left_out = {"bounds"} | ({"images", "features"} if self.images is None else set())
        return {name: value for name, value in record.items() if name not in left_out}


@dataclass(frozen=True)
class Measuring:
    """The metrics of some features against a reference.

    Attributes:
        features: the features of the images.
        labels: the labels of the images, if they are the extractor's classes.
        reference: the reference.
        names: the names of the metrics.
        replicates: the number of bootstrap replicates; 0 leaves all errors out.
        device: the device to compute on; the Fréchet distance takes eigenvalues for every replicate, of a matrix as
            wide as there are features or, if those are fewer, images.
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
            found["class agreement"] = self.agreement(self.labels)
        return found, missing

    def frechet(self, features: Tensor, reference: FeatureStatistics) -> Measurement:
        """The Fréchet distance of features [N, d]."""
        values = features.to(self.device).double()
        distance = resampled_distance(values, reference.to(self.device))
        value = distance(torch.arange(len(values)))
        error = bootstrap_error(distance, len(values), self.replicates) if self.replicates else None
        by, (images, dimensions) = "bootstrap over the images", values.shape
        return Measurement(value, "lower", error, by, images=images, features=dimensions)

    def score(self) -> Measurement:
        """The Inception Score of the extractor's probabilities."""
        probabilities = self.features.probabilities.to(self.device)

        def score(chosen: Tensor) -> float:
            return inception_score(probabilities[chosen.to(self.device)]).mean

        value = inception_score(probabilities).mean
        error = bootstrap_error(score, len(probabilities), self.replicates) if self.replicates else None
        bounds = (1.0, float(probabilities.shape[1]))
        return Measurement(value, "higher", error, "bootstrap over the images", bounds)

    def against_features(self, real: Tensor) -> dict[str, Measurement]:
        """The metrics that need the features of the reference [M, d]."""
        fake = self.features.pooled.to(self.device)
        kernel = kernel_distance(fake, real)
        # Subsets of m out of n images are a jackknife that leaves n - m out.
        left_out = min(len(fake), len(real)) - kernel.subset_size
        error = kernel.std * (kernel.subset_size / left_out) ** 0.5 if self.replicates else None
        found = precision_recall(fake, real)
        errors = precision_recall_errors(fake, real, self.replicates) if self.replicates else None
        halves = "jackknife over halves of both sets"
        precision, recall = errors or (None, None)
        return {
            self.names.kernel: Measurement(kernel.mean, "lower", error, "jackknife over subsets of both sets"),
            "precision": share(found.precise, precision, halves),
            "recall": share(found.recalled, recall, halves),
        }

    def agreement(self, labels: Tensor) -> Measurement:
        """The share of images that the extractor's classifier puts into the classes they have."""
        agreeing = (self.features.probabilities.argmax(1) == labels).cpu().double()

        def mean(chosen: Tensor) -> float:
            return float(agreeing[chosen].mean())

        error = bootstrap_error(mean, len(agreeing), self.replicates) if self.replicates else None
        return share(agreeing, error, "bootstrap over the images")


def share(flags: Tensor, error: float | None, error_by: str) -> Measurement:
    """The share of the flags [N] that are set.

    The error is at least that of Agresti and Coull (1998), two more set and two more not, as flags that are all alike
    leave a resample no chance to differ.
    """
    count, value = len(flags), float(flags.double().mean())
    if error is not None:
        centre = (count * value + 2) / (count + 4)
        error = max(error, math.sqrt(centre * (1 - centre) / (count + 4)))
    return Measurement(value, "higher", error, error_by, (0.0, 1.0))


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
