"""From coarse to fine: the latents of every scale, decoded, and what they are means of."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from flowar.pipeline import FlowARPipeline
from flowar.show.states import class_name, sample_scales, scale_name
from flowar.show.table import Table, draw_table


def scales_picture(pipeline: FlowARPipeline, labels: Tensor, seed: int) -> Image.Image:
    """A picture with two rows per label [B], a column per scale: its latents, decoded, and pixel means.

    A decoder has never seen such smooth latents, and draws them as a weave. What they say is in the second row: the
    finished picture's pixels, averaged over every position of the scale as its latents are.
    """
    model = pipeline.model
    tokens = sample_scales(model, labels, seed)
    decoded = [*zip(*(pipeline.decode_tokens(part, k) for k, part in enumerate(tokens)), strict=True)]
    rows, names = [], []
    for label, pictures in zip(labels.tolist(), decoded, strict=True):
        rows += [pictures, [pixel_means(pictures[-1], grid) for grid in model.config.grids]]
        names += [class_name(model, label), "pixel means"]
    return draw_table(
        Table(
            f"Coarse to fine\nlatents of each scale, decoded, and pixel means; seed {seed}",
            [scale_name(model, k) for k in range(len(tokens))],
            names,
            rows,
        )
    )


def pixel_means(picture: Image.Image, grid: Sequence[int]) -> Image.Image:
    """The picture with each position of the grid (rows, columns) in one colour, its mean there."""
    rows, columns = grid
    return picture.resize((columns, rows), Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST)
