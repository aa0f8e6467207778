"""The judge of the experiments: Fréchet distance and agreement in the features of the Fashion classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.variants import engine_serves
from flowar import FlowAR
from flowar.data.sources import open_idx
from flowar.evaluation.extractors import Extractor, FashionExtractor
from flowar.evaluation.metrics.frechet import frechet_distance
from flowar.evaluation.metrics.statistics import FeatureStatistics
from flowar.sampling.pins import Pins
from flowar.tokenizers.base import Tokenizer

BATCH = 200  # images drawn, and looked at, at once


@dataclass
class Judge:
    """A classifier, and the statistics of its features of the test split."""

    extractor: Extractor
    real: FeatureStatistics

    @staticmethod
    def open(classifier: Path | None, data: Path, device: torch.device) -> Judge:
        """The judge of the images in `data`, by the file of a classifier or the one that ships."""
        extractor = FashionExtractor(device, classifier)
        features = [extractor(part).pooled for part in open_idx(data, "t10k").images.split(BATCH)]
        return Judge(extractor, FeatureStatistics.from_features(torch.cat(features)))

    def __call__(
        self,
        model: FlowAR,
        tokenizer: Tokenizer,
        count: int,
        seed: int,
        pins: Callable[[Tensor], Pins] | None = None,
    ) -> dict[str, float]:
        """Fréchet distance and class agreement of `count` class-balanced samples.

        Image i has the seed `seed` + i; `pins` says of the numbers of images [B] what they are to arrive at.
        """
        pooled, agreeing = [], 0
        for indices in torch.arange(count).split(BATCH):
            labels = indices % model.config.num_classes
            given = pins(indices) if pins else None
            seen = self.extractor(draw(model, tokenizer, labels, (seed + indices).tolist(), given))
            pooled.append(seen.pooled)
            agreeing += int((seen.probabilities.argmax(1) == labels).sum())
        distance = frechet_distance(FeatureStatistics.from_features(torch.cat(pooled)), self.real)
        return {"frechet_distance": distance, "agreement": agreeing / count}


def draw(model: FlowAR, tokenizer: Tokenizer, labels: Tensor, seeds: list[int], pins: Pins | None = None) -> Tensor:
    """Images uint8 [B, channels, H, W] of labels [B] and a seed each, by the model's own preset, in float32."""
    naive = not engine_serves(model)
    latents = model.sample(labels, seed=seeds, naive=naive, dtype="float32", progress=False, pins=pins)
    return ((tokenizer.decode(latents) + 1) * 127.5).round().to("cpu", torch.uint8)
