"""What a pipeline is, in a few lines."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from flowar.config import grid_names
from flowar.data.class_names import class_names_of
from flowar.sampling.schedule import Schedule

if TYPE_CHECKING:
    from torch import nn

    from flowar.pipeline.pretrained import PretrainedPipeline

NAMED = 10  # classes; of others only the number is told


def facts(pipeline: PretrainedPipeline) -> dict[str, str]:
    """Model, parameters, classes, pictures, latents, scales and schedule of a pipeline."""
    config, tokenizer, (width, height) = pipeline.config, pipeline.tokenizer, pipeline.picture_size
    names = class_names_of(config)
    named = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    color = "grey" if tokenizer.image_channels == 1 else "RGB"
    grid, dtype = grid_names([config.grid]), str(pipeline.dtype).removeprefix("torch.")
    return {
        "model": pipeline.name_or_path or "not from a file",
        "parameters": f"{parameters(pipeline.model):,}, {dtype} on {pipeline.device}",
        "classes": f"{config.num_classes}: {named}" if names else str(config.num_classes),
        "pictures": f"{width}x{height}, {color}",
        "latents": f"{config.latent_channels} channels, grid {grid}, by a {tokenizer.kind} tokenizer",
        "scales": grid_names(config.grids),
        "schedule": schedule_in_words(pipeline.model.schedule(), len(config.grids)),
    }


def parameters(module: nn.Module) -> int:
    """The number of parameters of a model or a tokenizer, prepacked matrices among them."""
    return sum(each.numel() for each in module.state_dict().values())


def schedule_in_words(schedule: Schedule, scales: int) -> str:
    """Evaluations, solvers and guidance of a schedule for so many scales, in one line."""
    solvers = ", ".join(dict.fromkeys(schedule.solver_of(k) for k in range(scales)))
    guidance = "no guidance"
    if schedule.guidance_scale != 1:
        low, high = schedule.active_interval
        guidance = f"guidance {schedule.guidance_scale:g} where {low:g} <= t <= {high:g}"
    return f"{schedule.num_evaluations(scales)} evaluations at {scales} scales by {solvers}, {guidance}"


def as_text(title: str, rows: dict[str, str]) -> str:
    """Facts as lines of text."""
    width = max(map(len, rows)) + 2
    return "\n".join([title, *(f"  {name:<{width}}{value}" for name, value in rows.items())])


def as_html(title: str, rows: dict[str, str]) -> str:
    """Facts as a table."""
    cells = "".join(
        f'<tr><th style="text-align: left">{escape(name)}</th><td style="text-align: left">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<b>{escape(title)}</b><table>{cells}</table>"
