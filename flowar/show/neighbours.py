"""Samples beside the training images nearest to them: is the model copying?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from flowar.data.image_source import ImageSource
from flowar.data.sources import open_images
from flowar.data.transforms import to_tensor, to_unit_range
from flowar.errors import DataError
from flowar.evaluation.extractors import open_extractor
from flowar.images.grid import to_pil
from flowar.pipeline import FlowARPipeline
from flowar.show.states import class_name
from flowar.show.table import Table, draw_table
from flowar.system.progress import step_progress

Features = Callable[[Tensor], Tensor]  # uint8 images [B, C, H, W] to features [B, d]

BATCH = 500


class Neighbours(NamedTuple):
    """The nearest images of each query, nearest first: distances [Q, k], images uint8 [Q, k, C, H, W]."""

    distances: Tensor
    images: Tensor


def neighbours_picture(
    pipeline: FlowARPipeline,
    labels: Tensor,
    seed: int,
    source: ImageSource,
    spaces: dict[str, Features],
    count: int,
) -> Image:
    """A picture with a row per label [B]: the sample, then the `count` images of `source` nearest to it in each space.

    Raises:
        ValueError: for a `count` that is not positive.
        DataError: if the images are of another size, or fewer than `count`.
    """
    if count < 1:
        raise ValueError(f"neighbours: expected a positive integer, got {count}")
    samples = pipeline(labels, seed=seed).images
    queries = torch.stack([to_tensor(image) for image in samples])
    expected, shape = (*queries.shape[1:],), (source.channels, *source.image_size)
    if shape != expected or len(source) < count:
        wanted, came = ("x".join(map(str, each)) for each in (expected, shape))
        raise DataError(f"data: expected {count} images of {wanted} or more, got {len(source)} of {came}")
    found = nearest(queries, source, [*spaces.values()], count)
    columns, rows, captions = ["sample"], [[image] for image in samples], [[""] for _ in samples]
    for name, (distances, images) in zip(spaces, found, strict=True):
        columns += [f"{name} {rank + 1}" for rank in range(count)]
        for row, caption, own, far in zip(rows, captions, images, distances.tolist(), strict=True):
            row += to_pil(to_unit_range(own))
            caption += [f"{distance:.3g}" for distance in far]
    title = f"The nearest of {len(source)} training images\nbelow each: its distance from the sample; a copy would be "
    title += f"much nearer than the next one; seed {seed}"
    names = [class_name(pipeline.model, label) for label in labels.tolist()]
    return draw_table(Table(title, columns, names, rows, captions))


def open_training_images(data: str | None, pipeline: FlowARPipeline) -> ImageSource:
    """The images of `data`, as large as those of `pipeline`.

    Raises:
        DataError: if there are none.
    """
    if data is None:
        raise DataError("data: expected the folder or tars of the training images, got none")
    width, height = pipeline.picture_size
    return open_images(data, image_size=[height, width], channels=pipeline.tokenizer.image_channels)


def feature_spaces(extractor: str | None, classifier: Path | None, device: torch.device) -> dict[str, Features]:
    """The spaces to compare in, by name: pixels, and the features of an extractor if one is asked for.

    Raises:
        FlowARError: as `open_extractor`.
    """
    if extractor is None:
        return {"pixels": pixels}
    network = open_extractor(extractor, device, classifier)
    return {"pixels": pixels, extractor: lambda images: network(images).pooled}


def pixels(images: Tensor) -> Tensor:
    """Images as vectors, between which the distance is the root mean square difference of their grey levels."""
    return images.flatten(1).float() / images[0].numel() ** 0.5


def nearest(queries: Tensor, source: ImageSource, spaces: Sequence[Features], count: int) -> list[Neighbours]:
    """The neighbours of uint8 `queries` [Q, C, H, W] in every space, found in one pass over all of `source`."""
    wanted = [features(queries) for features in spaces]
    nothing = Neighbours(torch.empty(len(queries), 0), queries.new_empty(len(queries), 0, *queries.shape[1:]))
    found = [nothing] * len(spaces)
    with step_progress(-(-len(source) // BATCH), None, "comparing") as advance:
        for images in source.batches(BATCH):
            for space, features in enumerate(spaces):
                distances = torch.cdist(wanted[space], features(images))
                found[space] = closer(found[space], distances, images, count)
            advance()
    return found


def closer(found: Neighbours, distances: Tensor, images: Tensor, count: int) -> Neighbours:
    """The `count` nearest of those `found` and of `images` [N, C, H, W] at `distances` [Q, N]."""
    both = torch.cat((found.distances, distances), 1)
    best = both.topk(min(count, both.shape[1]), largest=False)
    candidates = [torch.cat((own, images))[chosen] for own, chosen in zip(found.images, best.indices, strict=True)]
    return Neighbours(best.values, torch.stack(candidates))
