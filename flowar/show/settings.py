"""The same seeds under different settings of sampling: a column per setting, a row per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL.Image import Image
from torch import Tensor

from flowar.pipeline import FlowARPipeline
from flowar.sampling.schedule import Schedule
from flowar.show.states import class_name
from flowar.show.table import Table, draw_table


def guidance_picture(pipeline: FlowARPipeline, labels: Tensor, seed: int, guidance_scales: Sequence[float]) -> Image:
    """A picture of samples of labels [B] under each of `guidance_scales`.

    Raises:
        ValueError: without any, or for one that no schedule takes.
    """
    schedules = {f"w = {scale:g}": pipeline.model.schedule(guidance_scale=scale) for scale in guidance_scales}
    return settings_picture(pipeline, labels, seed, "guidance_scales", "Guidance scale", schedules)


def steps_picture(pipeline: FlowARPipeline, labels: Tensor, seed: int, steps: Sequence[int]) -> Image:
    """A picture of samples of labels [B] with each number of `steps` at every scale.

    Raises:
        ValueError: without any, or for one that is not positive.
    """
    schedules = {f"{count} step{'s' * (count > 1)}": pipeline.model.schedule(count) for count in steps}
    return settings_picture(pipeline, labels, seed, "steps", "Steps of the ODE at every scale", schedules)


def settings_picture(
    pipeline: FlowARPipeline, labels: Tensor, seed: int, option: str, title: str, schedules: Mapping[str, Schedule]
) -> Image:
    """A picture of samples of labels [B] under each of the named `schedules`, which came from `option`."""
    if not schedules:
        raise ValueError(f"{option}: expected one or more numbers, got none")
    columns = [pipeline(labels, schedule=schedule, seed=seed).images for schedule in schedules.values()]
    names = [class_name(pipeline.model, label) for label in labels.tolist()]
    text = f"{title}\nthe same noise in every row; seed {seed}"
    return draw_table(Table(text, [*schedules], names, list(zip(*columns, strict=True))))
