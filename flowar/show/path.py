"""From noise to latents: the path of the ODE at one scale, decoded."""

from __future__ import annotations

import numpy as np
from PIL.Image import Image
from torch import Tensor

from flowar.pipeline import FlowARPipeline
from flowar.show.states import check_scale, class_name, ode_states, scale_name
from flowar.show.table import Table, draw_table

COLUMNS = 9


def path_picture(pipeline: FlowARPipeline, labels: Tensor, seed: int, scale: int | None = None) -> Image:
    """A picture with two rows per label [B]: states of the ODE of `scale`, and the ends predicted from there.

    The scale is the last one if left out.

    Raises:
        ValueError: for a scale that the model does not have.
    """
    model, scale = pipeline.model, check_scale(pipeline.model, scale)
    count = len(model.schedule().evaluations(scale, len(model.config.grids))) + 1
    chosen = sorted({round(step) for step in np.linspace(0, count - 1, min(COLUMNS, count))})
    states = ode_states(model, labels, seed, scale, chosen)
    x = zip(*(pipeline.decode_tokens(each.state, scale) for each in states), strict=True)
    ends = zip(*(pipeline.decode_tokens(each.end, scale) for each in states), strict=True)
    names = [(class_name(model, label), "where v points") for label in labels.tolist()]
    title = f"The ODE of scale {scale_name(model, scale)}, from noise to latents"
    explained = f"upper rows: the state x_t; lower rows: the end predicted from there, x_t - t v; seed {seed}"
    return draw_table(
        Table(
            f"{title}\n{explained}",
            [f"t = {each.t:.3g}" for each in states],
            [name for pair in names for name in pair],
            [row for pair in zip(x, ends, strict=True) for row in pair],
        )
    )
