"""From coarse to fine: the latents of every scale, decoded."""

from __future__ import annotations

from PIL.Image import Image
from torch import Tensor

from flowar.pipeline import FlowARPipeline
from flowar.show.states import class_name, sample_scales, scale_name
from flowar.show.table import Table, draw_table


def scales_picture(pipeline: FlowARPipeline, labels: Tensor, seed: int) -> Image:
    """A picture with a row per label [B] and a column per scale: its latents, enlarged and decoded."""
    model = pipeline.model
    tokens = sample_scales(model, labels, seed)
    columns = [pipeline.decode_tokens(part, k) for k, part in enumerate(tokens)]
    return draw_table(
        Table(
            f"Coarse to fine\nthe latents of every scale, decoded; seed {seed}",
            [scale_name(model, k) for k in range(len(tokens))],
            [class_name(model, label) for label in labels.tolist()],
            list(zip(*columns, strict=True)),
        )
    )
