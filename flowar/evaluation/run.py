"""An evaluation, from images to the card."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from flowar.errors import FlowARError
from flowar.evaluation.card import code_record, write_card
from flowar.evaluation.extractors import Extractor, Features, open_extractor
from flowar.evaluation.features import FeatureChunks, extract, refuse_others
from flowar.evaluation.images import GeneratedImages, Images, open_stored
from flowar.evaluation.measure import Measuring, bias_warnings
from flowar.evaluation.reference import Reference, open_reference
from flowar.pipeline import FlowARPipeline
from flowar.sampling.schedule import Schedule
from flowar.storage.weights import fingerprint
from flowar.system.arguments import check_type
from flowar.system.fields import checks_fields
from flowar.system.lock import locked_by_main
from flowar.system.memory import check_memory
from flowar.system.ranks import Ranks, joined
from flowar.system.rules import Count, Guidance, Interval, Place, Range, Seed, Side, Steps

log = logging.getLogger(__name__)

FEWEST = 10  # images that an evaluation needs: one for each split of the Inception Score


@dataclass(frozen=True)
@checks_fields
class EvaluationConfig:
    """The configuration of an evaluation; `flowar evaluate --help` describes the fields.

    Raises:
        FlowARError: for numbers out of range.
    """

    reference: Place
    output: Path
    extractor: str
    model: Place = "flowar-fashion"
    images: Place | None = None
    num_images: Annotated[int, Range(FEWEST)] = 10_000
    classes: tuple[int, ...] | None = None
    seed: Seed = 0
    schedule: Place | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    guidance_interval: Interval | None = None
    dtype: str = "auto"
    batch_size: Count = 100
    save_images: bool = False
    classifier: Path | None = None
    image_size: Side | Sequence[Side] | None = None
    split: str = "train"
    bootstrap: Annotated[int, Range(0, 10**6, seconds=1e-3)] = 100

    def __post_init__(self) -> None:
        if self.bootstrap == 1:
            raise FlowARError("bootstrap: expected 0 or at least 2 replicates, got 1")


def evaluate(config: EvaluationConfig, ranks: Ranks | None = None) -> dict[str, Any] | None:
    """Evaluate images of a model, or stored ones, and write the card.

    Args:
        config: what to evaluate, and how.
        ranks: this process among others; if left out, those of `join_ranks`, on GPUs if there are some.

    Returns:
        The card, on the main rank; None on the others.

    Raises:
        FlowARError: for a model, images, a reference or an extractor that are not there or do not fit together, and for
            an `output` that another process writes to.
    """
    check_type("config", config, EvaluationConfig, "an EvaluationConfig")
    with joined(ranks) as together, locked_by_main(config.output, together):
        return card_of(config, together)


def card_of(config: EvaluationConfig, ranks: Ranks) -> dict[str, Any] | None:
    """Evaluate in a folder that is this run's alone; see `evaluate`."""
    extractor = open_extractor(config.extractor, ranks.device, config.classifier)
    images, about_images = open_images_to_evaluate(config, extractor, ranks)
    about_features = {"extractor": extractor.record(), "device": ranks.device.type, "batch_size": config.batch_size}
    settings, folder = about_images | about_features, config.output / "features"
    ranks.from_main(lambda: refuse_others(folder, settings))  # before the reference takes its time, and its place
    reference = open_reference(
        config.reference,
        extractor,
        config.output / "reference_features",
        ranks,
        config.batch_size,
        config.image_size,
        config.split,
    )
    check_sizes(images, reference)
    dimensions = len(reference.pooled.mean)
    what = f"{dimensions} features for each of {len(images)} images"
    check_memory("num_images", what, 4 * dimensions * len(images))
    chunks = extract(images, extractor, folder, settings, ranks, config.batch_size, "evaluating")
    with ranks.main_first():  # so that no rank is gone, or waits elsewhere, while it measures
        return measured(config, settings, chunks, images, reference, extractor, ranks) if ranks.main else None


def measured(
    config: EvaluationConfig,
    settings: dict[str, Any],
    chunks: FeatureChunks,
    images: Images,
    reference: Reference,
    extractor: Extractor,
    ranks: Ranks,
) -> dict[str, Any]:
    """Measure what is in the chunks, and write the card."""
    features = chunks.joined()
    check_dimensions(features, reference)
    labels = labels_of(images, extractor)
    measuring = Measuring(features, labels, reference, extractor.names, config.bootstrap, ranks.device)
    found, missing = measuring.all()
    warnings = bias_warnings(features, reference, extractor.names)
    for warning in warnings:
        log.warning("%s", warning)
    settings |= {"reference": reference.record(), "bootstrap": config.bootstrap}
    card = {
        "settings": settings | {"feature_dimensions": features.pooled.shape[1], "code": code_record()},
        "metrics": {name: measurement.record() for name, measurement in found.items()},
        "unavailable": missing,
        "warnings": warnings,
    }
    write_card(config.output, card)
    return card


def open_images_to_evaluate(
    config: EvaluationConfig, extractor: Extractor, ranks: Ranks
) -> tuple[Images, dict[str, Any]]:
    """Open the images, and return plain data that they depend on beside them."""
    if config.images is not None:
        stored = open_stored(config.images, extractor.channels, config.image_size, config.split)
        if len(stored) < FEWEST:
            raise FlowARError(f"{config.images}: expected at least {FEWEST} images, got {len(stored)}")
        return stored, {"images": stored.record()}
    pipeline = FlowARPipeline.from_pretrained(config.model)
    about_model = model_record(config.model, pipeline)  # before the weights are packed
    pipeline.to(ranks.device).prepack(config.dtype)
    schedule = pipeline.model.schedule(
        config.num_inference_steps, config.guidance_scale, config.guidance_interval, config.schedule
    )
    classes = config.classes or tuple(range(pipeline.model.config.num_classes))
    pipeline.model.check_labels(classes)
    folder = config.output / "images" if config.save_images else None
    drawn = GeneratedImages(pipeline, config.num_images, classes, schedule, config.seed, config.dtype, folder)
    return drawn, {
        "model": about_model,
        "tokenizer": pipeline.tokenizer.record(),
        "schedule": schedule_record(schedule, len(pipeline.model.config.grids)),
        "dtype": pipeline.model.precision(config.dtype).name,
        "images": drawn.record() | {"saved": config.save_images},
    }


def model_record(source: str, pipeline: FlowARPipeline) -> dict[str, str]:
    """The source of a model and the hash of its weights."""
    return {"source": source, "weights": fingerprint(pipeline.model.state_dict())}


def schedule_record(schedule: Schedule, scales: int) -> dict[str, Any]:
    """The fields of a schedule, and the guidance weight of every evaluation at every scale."""
    return schedule.to_dict() | {
        "guidance_weights": {f"scale_{k}": schedule.guidance_weights(k, scales) for k in range(scales)},
    }


def check_sizes(images: Images, reference: Reference) -> None:
    """Check that the reference is of images of the same size.

    Raises:
        FlowARError: if it is not.
    """
    if reference.size is not None and reference.size != images.size:
        expected, got = ("x".join(map(str, size)) for size in (images.size, reference.size))
        raise FlowARError(f"reference: expected images of {expected}, as those to evaluate, got {got}")


def check_dimensions(features: Features, reference: Reference) -> None:
    """Check that the reference has features of as many dimensions.

    Raises:
        FlowARError: if it has not.
    """
    pooled = [reference.pooled.mean, *([] if reference.features is None else [reference.features[0]])]
    spatial = [] if reference.spatial is None else [reference.spatial.mean]
    pairs = [(features.pooled, each) for each in pooled] + [(features.spatial, each) for each in spatial]
    for own, other in pairs:
        if own.shape[1] != len(other):
            raise FlowARError(f"reference: expected {own.shape[1]} features of an image, got {len(other)}")


def labels_of(images: Images, extractor: Extractor) -> Tensor | None:
    """The labels of the images, if they are the extractor's classes."""
    return images.labels if images.num_classes == extractor.classes else None
