"""A sweep over settings of sampling: quality against time per picture."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from flowar.errors import FlowARError
from flowar.evaluation.extractors import Extractor, Features
from flowar.evaluation.features import check_settings
from flowar.evaluation.images import GeneratedImages
from flowar.evaluation.measure import Measuring, bias_warnings
from flowar.evaluation.reference import Reference
from flowar.pipeline import FlowARPipeline
from flowar.system.fields import checked
from flowar.system.files import write_aside
from flowar.system.progress import step_progress
from flowar.system.rules import Count, Guidance, Measurement, Range, Steps
from flowar.system.structured import as_record, read_rows, row_text

log = logging.getLogger(__name__)

POINTS, CSV_TABLE, MARKDOWN_TABLE = "points.jsonl", "sweep.csv", "sweep.md"
SECONDS = "seconds_per_image"

Batches = Iterable[tuple[Tensor, Tensor]]  # images uint8 [n, C, H, W] and their labels [n]
Quality = Callable[[Batches], Mapping[str, float]]  # metrics by name
Row = dict[str, Any]  # numbers, and names of solvers


class Point(NamedTuple):
    """A combination of settings to try; the lower end of the guidance interval is the model's own."""

    guidance_scale: float
    interval_high: float
    steps: int
    solver: str = "euler"


class PointRow(TypedDict):
    """A row of `points.jsonl`: a point; its metrics stand beside it."""

    guidance_scale: Guidance
    interval_high: Annotated[float, Range(0, 1)]
    steps: Steps
    solver: str


def grid(
    guidance_scales: Sequence[float],
    interval_highs: Sequence[float],
    steps: Sequence[int],
    solvers: Sequence[str] = ("euler",),
) -> list[Point]:
    """All combinations of settings, each once.

    Raises:
        ValueError: for a list that is empty, naming it.
    """
    lists = {"guidance_scales": guidance_scales, "interval_highs": interval_highs, "steps": steps, "solvers": solvers}
    for name, values in lists.items():
        if not values:
            raise ValueError(f"{name}: expected one or more {'names' if name == 'solvers' else 'numbers'}, got none")
    combinations = itertools.product(guidance_scales, interval_highs, steps, solvers)
    return [Point(*values) for values in dict.fromkeys(combinations)]


@dataclass(frozen=True)
class ExtractorQuality:
    """The quality of images: every metric of an extractor against a reference.

    Attributes:
        extractor: the network that computes features.
        reference: the reference.
        num_classes: the number of classes that the labels are from.
    """

    extractor: Extractor
    reference: Reference
    num_classes: int

    def __call__(self, batches: Batches) -> dict[str, float]:
        seen = [(self.extractor(images), labels) for images, labels in batches]
        features = Features(*(torch.cat(parts) for parts in zip(*(each for each, _ in seen), strict=True)))
        comparable = self.extractor.classes == self.num_classes
        labels = torch.cat([each for _, each in seen]) if comparable else None
        names, device = self.extractor.names, self.extractor.device
        for warning in bias_warnings(features, self.reference, self.extractor.names):
            warn_once(warning)
        found, _ = Measuring(features, labels, self.reference, names, 0, device).all()
        return {name: measurement.value for name, measurement in found.items()}


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning once, as all points have as many images and the same warnings."""
    log.warning("%s", message)


@dataclass(frozen=True)
class Sweep:
    """A sweep: points to try, and the way to judge them.

    Attributes:
        pipeline: the pipeline that draws.
        points: the points to try.
        quality: the function that judges images.
        num_images: the number of images for the quality of a point; image i has the i-th class in turn and seed + i.
        batch_size: the number of images drawn at once, for quality and times alike.
        seed: the seed of image 0.
        dtype: the dtype of the networks, see `FlowAR.sample`.
        turns: the number of turns that times are medians over; every point is timed once in each.

    Raises:
        ValueError: for numbers that are not positive, and for points that the model cannot sample at.
    """

    pipeline: FlowARPipeline
    points: Sequence[Point]
    quality: Quality
    num_images: int
    batch_size: int
    seed: int = 0
    dtype: str = "auto"
    turns: int = 3

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "turns"):
            checked(getattr(self, name), Count, name)
        self.pipeline.check_count("batch_size", min(self.batch_size, self.num_images))
        for point in self.points:
            self.images(point)

    def run(self, folder: Path, settings: Mapping[str, Any]) -> list[Row]:
        """Run the sweep, and return a row per point: its settings, its metrics and `seconds_per_image`.

        Metrics go to `points.jsonl` in `folder` one by one, and those that are there are not computed again. Times are
        always taken anew, as only those of one run can be compared.

        Args:
            folder: the folder of the sweep.
            settings: plain data that the metrics depend on besides points, seed and number of images.

        Raises:
            FlowARError: if the folder has points of other settings, naming the first difference.
        """
        own = {"num_images": self.num_images, "batch_size": self.batch_size, "seed": self.seed}
        precision = {"dtype": self.pipeline.model.precision(self.dtype).name}
        check_settings(folder, dict(settings) | own | precision, POINTS)
        metrics, seconds = self.metrics(folder / POINTS), self.times()
        return [point._asdict() | metrics[point] | {SECONDS: seconds[point]} for point in self.points]

    def metrics(self, path: Path) -> dict[Point, Row]:
        """The metrics of all points, kept in the file at `path`."""
        rows: list[Row] = [dict(row) for row in read_rows(path, PointRow)] if path.exists() else []
        known = {Point(*(row.pop(name) for name in Point._fields)): row for row in rows}
        for row in known.values():
            as_record(row, dict[str, Measurement], str(path), FlowARError)
        missing = [point for point in self.points if point not in known]
        batches = -(-self.num_images // self.batch_size)
        total = batches * len(self.points)
        with step_progress(total, None, "quality", total - batches * len(missing)) as advance:
            for point in missing:
                known[point] = dict(self.quality(self.batches(point, advance)))
                lines = [row_text(each._asdict() | row) for each, row in known.items()]
                write_aside(path, lambda aside, lines=lines: aside.write_text("".join(lines)))  # type: ignore[misc]
        return known

    def times(self) -> dict[Point, float]:
        """The seconds per image at every point, measured in turns."""
        count = min(self.batch_size, self.num_images)
        drawn = {point: self.images(point) for point in self.points}
        seconds: dict[Point, list[float]] = {point: [] for point in self.points}
        with step_progress(self.turns * len(drawn), None, "times") as advance:
            for _ in range(self.turns):
                for point, images in drawn.items():
                    images.read(0, count)  # what another point has displaced from memory comes back
                    start = time.perf_counter()
                    images.read(0, count)
                    seconds[point].append((time.perf_counter() - start) / count)
                    advance()
        return {point: statistics.median(each) for point, each in seconds.items()}

    def batches(self, point: Point, advance: Callable[[], None]) -> Batches:
        """Yield the images of a point with their labels."""
        images = self.images(point)
        assert images.labels is not None
        for start in range(0, self.num_images, self.batch_size):
            end = min(start + self.batch_size, self.num_images)
            yield images.read(start, end), images.labels[start:end]
            advance()

    def images(self, point: Point) -> GeneratedImages:
        """The images that are drawn at a point."""
        model = self.pipeline.model
        low, _ = model.config.guidance_interval
        schedule = model.schedule(point.steps, point.guidance_scale, (low, point.interval_high))
        schedule = model.schedule(base=replace(schedule, solver=point.solver))
        classes = tuple(range(model.config.num_classes))
        return GeneratedImages(self.pipeline, self.num_images, classes, schedule, self.seed, self.dtype)


def write_tables(folder: Path, rows: Sequence[Row]) -> None:
    """Write the rows as `sweep.csv`, with all digits, and as `sweep.md`, with four."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_aside(folder / CSV_TABLE, lambda aside: aside.write_text(text.getvalue(), encoding="utf-8"))
    write_aside(folder / MARKDOWN_TABLE, lambda aside: aside.write_text(markdown(rows), encoding="utf-8"))


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table with four digits."""
    names = [name.replace("_", " ") for name in rows[0]]
    lines = [
        names,
        ["---"] * len(names),
        *([value if isinstance(value, str) else f"{value:.4g}" for value in row.values()] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
