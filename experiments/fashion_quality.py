"""Quality of a Fashion-MNIST model: agreement of the judge with the labels, and Fréchet distance, over guidance scales.

`python -m experiments.fashion_quality --data FOLDER` prints one line a guidance scale and writes them as JSON. The
Fréchet distance of 1,000 samples to the test split, in the judge's features, is shown beside that of 1,000 training
images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.fashion_classifier import judge
from flowar.data.sources import open_idx
from flowar.data.transforms import to_unit_range
from flowar.evaluation.fashion_classifier import SHIPPED, FashionClassifier, load
from flowar.evaluation.metrics.frechet import frechet_distance
from flowar.evaluation.metrics.statistics import FeatureStatistics
from flowar.pipeline import FlowARPipeline
from flowar.system.files import write_json
from flowar.system.precision import default_device

SAMPLE_BATCH = 100


def generate(pipeline: FlowARPipeline, labels: Tensor, guidance_scale: float, seed: int) -> Tensor:
    """Images [N, 1, 28, 28] in [-1, 1], rounded to the 256 grey levels of a file."""
    parts = []
    for index, part in enumerate(labels.split(SAMPLE_BATCH)):
        latents = pipeline.model.sample(part, guidance_scale=guidance_scale, seed=seed + index, progress=False)
        parts.append(pipeline.tokenizer.decode(latents).cpu())
    return to_unit_range(((torch.cat(parts) + 1) * 127.5).round())


def quality(
    pipeline: FlowARPipeline,
    classifier: FashionClassifier,
    real: FeatureStatistics,
    guidance_scale: float,
    count: int,
    seed: int,
) -> dict[str, float]:
    """Agreement and Fréchet distance of `count` class-balanced samples to the features of `real` images."""
    labels = torch.arange(count) % pipeline.model.config.num_classes
    features, predicted = judge(classifier, generate(pipeline, labels, guidance_scale, seed))
    agreement = (predicted == labels).float().mean().item()
    return {
        "guidance_scale": guidance_scale,
        "agreement": round(agreement, 4),
        "frechet_distance": round(frechet_distance(FeatureStatistics.from_features(features), real), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge a Fashion-MNIST model.")
    parser.add_argument("--model", default="flowar-fashion", help="shipped name, folder, or Hub id")
    parser.add_argument("--data", type=Path, required=True, help="folder of Fashion-MNIST's four idx files")
    parser.add_argument("--classifier", type=Path, default=SHIPPED, help="file of experiments.fashion_classifier")
    parser.add_argument("--guidance-scales", type=float, nargs="+", default=[1.0, 1.25, 1.5, 2.0, 3.0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    classifier = load(options.classifier)
    pipeline = FlowARPipeline.from_pretrained(options.model).to(default_device())
    source, test = open_idx(options.data, "train"), open_idx(options.data, "t10k")
    features, predicted = judge(classifier, to_unit_range(test.images))
    chosen = torch.randperm(len(source.images), generator=torch.Generator().manual_seed(0))[: options.count]
    training, _ = judge(classifier, to_unit_range(source.images[chosen]))
    real = FeatureStatistics.from_features(features)
    floor = frechet_distance(FeatureStatistics.from_features(training), real)
    report: dict[str, Any] = {
        "dtype": pipeline.model.precision().name,
        "classifier_accuracy": round((predicted == test.labels).float().mean().item(), 4),
        "training_images_frechet_distance": round(floor, 3),
    }
    print(json.dumps(report))
    rows = []
    for guidance_scale in options.guidance_scales:
        row = quality(pipeline, classifier, real, guidance_scale, options.count, options.seed)
        rows.append(row | {"ratio": round(row["frechet_distance"] / floor, 2)})
        print(json.dumps(rows[-1]), flush=True)
    if options.output:
        write_json(options.output, report | {"samples": rows})


if __name__ == "__main__":
    main()
