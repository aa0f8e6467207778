"""The actions of the page: from the values of its inputs to pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple

from PIL import Image

from flowar.demo.canvas import painted
from flowar.demo.reports import reports
from flowar.editing import edits
from flowar.editing.pictures import check_size, open_picture
from flowar.errors import FlowARError
from flowar.pipeline import FlowARPipeline
from flowar.show.states import class_name, scale_name

MOST_IMAGES = 200  # at once, for the sake of memory
Kind = Literal["inpaint", "vary"]


class Settings(NamedTuple):
    """The settings of sampling on the page; an emptied field is None, and an empty schedule is the model's own."""

    seed: int | None
    schedule: str
    guidance_scale: float | None

    def sampling(self) -> dict[str, Any]:
        """The settings as keyword arguments of a pipeline's call.

        Raises:
            FlowARError: without a seed, as the page does not show a fresh one.
        """
        if self.seed is None:
            raise FlowARError("seed: expected one integer, got none")
        return self._asdict() | {"schedule": self.schedule or None, "progress": False}


@dataclass(frozen=True)
class Drawing:
    """A drawing in progress: its labels [B], the images [B] of every scale drawn so far, and the seconds it took."""

    labels: Sequence[int]
    scales: Sequence[Sequence[Image.Image]]
    seconds: float


@dataclass(frozen=True)
class Edit:
    """An edit of a picture: inpainting where `layers` are painted, or variation."""

    kind: Kind
    layers: Sequence[Image.Image] = ()
    label: int | None = None
    count: int = 1
    keep_scales: int = 0
    paste: bool = False


def class_choices(pipeline: FlowARPipeline) -> list[tuple[str, int]]:
    """The names and labels of all classes; a name that several classes have is followed by the label."""
    model = pipeline.model
    names = [class_name(model, label) for label in range(model.config.num_classes)]
    several = {name for name, count in Counter(names).items() if count > 1}
    return [(f"{name} ({label})" if name in several else name, label) for label, name in enumerate(names)]


def draw(pipeline: FlowARPipeline, labels: Sequence[int], per_class: int, settings: Settings) -> Iterator[Drawing]:
    """Draw rows of all labels, `per_class` times, and yield the drawing after every scale.

    Raises:
        ValueError: for labels that are no list, no picture or too many at once, and as `FlowAR.sample`.
    """
    if not isinstance(labels, Sequence) or isinstance(labels, str):
        raise FlowARError(f"classes: expected a list, got {labels!r}")
    count = len(labels) * per_class
    if not 0 < count <= MOST_IMAGES:
        raise FlowARError(f"pictures: expected 1 to {MOST_IMAGES} of all classes together, got {count}")
    all_labels = [*labels] * per_class
    scales: list[list[Image.Image]] = []

    def sample(report: Callable[[Drawing], None]) -> None:
        start = perf_counter()

        def preview(scale: int, images: list[Image.Image]) -> None:
            scales.append(images)
            report(Drawing(all_labels, [*scales], perf_counter() - start))

        pipeline(all_labels, preview=preview, **settings.sampling())

    return reports(sample)


def summary(pipeline: FlowARPipeline, drawing: Drawing) -> str:
    """The progress of the drawing in words, or its time if it is finished."""
    if finished(pipeline, drawing):
        return timing(len(drawing.labels), drawing.seconds)
    return f"at {scale_name(pipeline.model, len(drawing.scales) - 1)} after {drawing.seconds:.2f} s"


def finished(pipeline: FlowARPipeline, drawing: Drawing) -> bool:
    """Whether all scales are drawn."""
    return len(drawing.scales) == len(pipeline.model.config.grids)


def timing(count: int, seconds: float) -> str:
    """The time of `count` pictures in words."""
    images = "1 image" if count == 1 else f"{count} images"
    return f"{images} in {seconds:.2f} s, {1000 * seconds / count:.0f} ms each"


def coarse_to_fine(pipeline: FlowARPipeline, drawing: Drawing | None, index: int) -> list[tuple[Image.Image, str]]:
    """Picture `index` at every scale drawn so far, with the name of the scale.

    Raises:
        ValueError: without a drawing, and for a number that none of its pictures has.
    """
    if drawing is None:
        raise FlowARError("drawing: expected one, got none")
    last = len(drawing.labels) - 1
    if not isinstance(index, int) or not 0 <= index <= last:
        raise FlowARError(f"picture: expected a number from 0 to {last}, got {index!r}")
    return [(images[index], scale_name(pipeline.model, k)) for k, images in enumerate(drawing.scales)]


def open_image(pipeline: FlowARPipeline, path: str | None) -> Image.Image:
    """The picture in a file.

    Raises:
        ValueError: without a file, for one that is no picture, or one of another size than the pipeline's.
    """
    picture = open_picture("image", None if path is None else Path(path), pipeline.tokenizer.image_channels)
    check_size(pipeline, picture, "image")
    return picture


def edit(
    pipeline: FlowARPipeline, picture: Image.Image | None, wanted: Edit, settings: Settings
) -> tuple[list[Image.Image], str]:
    """Edit a picture, and return the edited ones and their time in words.

    Raises:
        ValueError: without a picture or a class, and as `flowar.editing.edits` says.
    """
    if picture is None:
        raise FlowARError("image: expected a picture to edit, got none")
    if wanted.label is None:
        raise FlowARError("class: expected one, got none")
    start, sampling = perf_counter(), settings.sampling()
    if wanted.kind == "vary":
        images = edits.vary(pipeline, picture, wanted.label, wanted.keep_scales, wanted.count, **sampling)
    else:
        mask = painted(wanted.layers, pipeline.picture_size)
        sampling["paste"] = wanted.paste
        images = edits.inpaint(pipeline, picture, mask, wanted.label, wanted.count, **sampling)
    return images, timing(len(images), perf_counter() - start)
