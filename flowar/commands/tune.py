"""`flowar tune`: the steps per scale that lose least quality in a given time, on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from flowar.commands import say
from flowar.system.fields import checks_fields
from flowar.system.rules import Count, OutputFile, Place, Range


@dataclass
@checks_fields
class Options:
    """Measure what evaluations cost and gain at every scale, print time against error, and save a schedule.

    A model of jumps (`flowar distill`) chooses among as many as it has learned. The schedule is for
    `flowar sample --schedule FILE`, or `schedule=` in Python.

    Attributes:
        target_ms: milliseconds that one call for `batch_size` images may take, without decoding.
        model: shipped name, folder, or Hub id.
        batch_size: images per call.
        output: JSON file to write.
        dtype: dtype of the networks, see `flowar sample`.
        device: device to compute on; "auto" is the GPU if there is one.
    """

    target_ms: Annotated[float, Range(0, 1e9, "(]")]
    model: Place = "flowar-fashion"
    batch_size: Count = 10
    output: OutputFile = Path("schedule.json")
    dtype: str = "auto"
    device: str = "auto"


def run(options: Options) -> None:
    """Measure, print the frontier and the schedule, and print where the file is."""
    from flowar.evaluation import tuning
    from flowar.pipeline import FlowARPipeline
    from flowar.system.precision import default_device
    from flowar.system.progress import step_progress

    pipeline = FlowARPipeline.from_pretrained(options.model).to(default_device(options.device))
    pipeline.check_count("batch_size", options.batch_size)
    model = pipeline.prepack(options.dtype).model
    with step_progress(tuning.measuring_steps(model.config), None, "measuring") as advance:
        measured = tuning.measure(model, options.batch_size, options.dtype, advance)
    plans = tuning.frontier(measured)
    chosen = tuning.choose(plans, options.target_ms / 1e3)
    schedule = tuning.plan_schedule(model, chosen.counts)
    schedule.save(options.output)
    say(*tuning.table(plans, chosen).splitlines())
    say(*schedule.describe(len(model.config.grids)).splitlines())
    say(f"schedule in {options.output}, measured in {model.precision(options.dtype).name}")
