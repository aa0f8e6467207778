"""`flowar sweep`: quality against time per picture over guidance scales, intervals, steps and solvers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from flowar.commands import say
from flowar.errors import MissingPackageError
from flowar.system.fields import checks_fields
from flowar.system.files import write_aside
from flowar.system.installation import install_command
from flowar.system.rules import Count, Guidance, Place, Range, Seed, Steps

if TYPE_CHECKING:
    from flowar.config import FlowARConfig
    from flowar.evaluation.sweep import Point, Row

PLOT = "sweep.png"
DEFAULT_GUIDANCE = [1.0, 2.0, 3.5, 5.0]
MOST_JUMPS = 4  # of a model of jumps that are tried unless told otherwise


@dataclass
@checks_fields
class Options:
    """Try all combinations of settings of sampling: a table, a CSV and a plot of quality against time per picture.

    Interrupted, or with more settings, the same command goes on where it was.

    Attributes:
        reference: reference to compare with, see `flowar evaluate`.
        output: folder for the points, the tables and the plot.
        model: shipped name, folder, or Hub id.
        guidance_scales: strengths of guidance to try; if left out, 1, 2, 3.5 and 5, or 1 for a model of jumps.
        interval_highs: upper ends of the guidance interval to try; the model's own if left out.
        steps: numbers of steps to try, of the ODE at each scale; if left out, the model's own preset, or 1, 2 and 4 for
            a model of jumps, as far as it has learned them.
        solvers: solvers to try: euler, midpoint, heun, ab2, dpm2m, or jump for a model of jumps; midpoint and heun
            evaluate twice per step. If left out, euler or jump.
        num_images: images to draw for the quality of every combination; image i has the i-th class in turn, and seed +
            i as its seed.
        batch_size: images drawn at once, for quality and times alike.
        seed: seed of image 0.
        turns: number of turns that times are medians over; every combination is timed once in each.
        extractor: network whose features are compared: inception (FID), efficientnet-lite0 (FD-EffLite0) or fashion
            (FD-fashion).
        classifier: file of another classifier for extractor fashion (`python -m experiments.fashion_classifier`
            makes one); if left out, the one that ships.
        split: split of a reference of idx files, "train" or "t10k".
        dtype: dtype of the networks, see `flowar sample`.
        device: device to compute on; "auto" is the GPU if there is one.
    """

    reference: Place
    output: Path = Path("sweep")
    model: Place = "flowar-fashion"
    guidance_scales: list[Guidance] | None = None
    interval_highs: list[Annotated[float, Range(0, 1)]] | None = None
    steps: list[Steps] | None = None
    solvers: list[str] | None = None
    num_images: Count = 1000
    batch_size: Count = 50
    seed: Seed = 0
    turns: Annotated[int, Range(1, 1000)] = 3
    extractor: str = "inception"
    classifier: Path | None = None
    split: str = "train"
    dtype: str = "auto"
    device: str = "auto"


def run(options: Options) -> None:
    """Run the sweep, print the table, and print where the files are."""
    try:
        from flowar.evaluation.sweep_plot import sweep_plot
    except ImportError as error:
        raise MissingPackageError(f"matplotlib draws the plot: {install_command('train')}") from error
    from flowar.evaluation.sweep import markdown, write_tables
    from flowar.system.lock import locked

    with locked(options.output):
        rows = swept(options)
        write_tables(options.output, rows)
        figure = sweep_plot(rows)
        write_aside(options.output / PLOT, lambda aside: figure.savefig(aside, format="png", dpi=100))
    say(*markdown(rows).splitlines())
    say(f"{len(rows)} points in {options.output}")


def points_of(options: Options, config: FlowARConfig) -> list[Point]:
    """The combinations to try; lists that are left out are those that suit the model."""
    from flowar.evaluation.sweep import grid
    from flowar.sampling.jumps import powers_of_two

    jumps = bool(config.jumps)
    scales = [config.guidance_scale] if jumps else DEFAULT_GUIDANCE
    steps = powers_of_two(min(config.jumps, MOST_JUMPS)) if jumps else [config.num_inference_steps]
    return grid(
        scales if options.guidance_scales is None else options.guidance_scales,
        [config.guidance_interval[1]] if options.interval_highs is None else options.interval_highs,
        steps if options.steps is None else options.steps,
        ["jump" if jumps else "euler"] if options.solvers is None else options.solvers,
    )


def swept(options: Options) -> list[Row]:
    """Run the sweep, and return a row per point."""
    from flowar.evaluation.extractors import open_extractor
    from flowar.evaluation.reference import open_reference
    from flowar.evaluation.run import check_sizes, model_record
    from flowar.evaluation.sweep import ExtractorQuality, Sweep
    from flowar.pipeline import FlowARPipeline
    from flowar.system.precision import default_device
    from flowar.system.ranks import Ranks

    device = default_device(options.device)
    pipeline = FlowARPipeline.from_pretrained(options.model)
    about_model, config = model_record(options.model, pipeline), pipeline.model.config
    points = points_of(options, config)
    extractor = open_extractor(options.extractor, device, options.classifier)
    chunks, batch_size = options.output / "reference_features", options.batch_size
    reference = open_reference(options.reference, extractor, chunks, Ranks(device), batch_size, None, options.split)
    sweep = Sweep(
        pipeline.to(device).prepack(options.dtype),
        points,
        ExtractorQuality(extractor, reference, config.num_classes),
        options.num_images,
        batch_size,
        options.seed,
        options.dtype,
        options.turns,
    )
    check_sizes(sweep.images(points[0]), reference)
    settings = {"model": about_model, "extractor": extractor.record(), "reference": reference.record()}
    return sweep.run(options.output, settings | {"device": device.type})
