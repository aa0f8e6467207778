"""The attention of the AR transformer as heat maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from torch import Tensor

from flowar.config import Grid
from flowar.images.figures import rendered
from flowar.pipeline import FlowARPipeline
from flowar.show.attention import ScaleAttention, even_attention, scale_attention
from flowar.show.states import check_scale, class_name, sample_scales, scale_name

MAP_BLOCKS = 6  # of which the map of one position is drawn, at most
WIDTH = 13  # inches
COLOURS = "viridis"
MARK = "#ff4040"


def attention_picture(
    pipeline: FlowARPipeline, labels: Tensor, seed: int, scale: int | None = None, query: Sequence[int] | None = None
) -> PIL.Image.Image:
    """A picture of the means over samples of labels [B], and below them of the maps of one position.

    That is the (row, column) `query` of `scale`; the centre of the last scale if left out.

    Raises:
        ValueError: for a scale or a position that the model does not have.
    """
    model, scale = pipeline.model, check_scale(pipeline.model, scale)
    row, column = check_query(query, model.config.grids[scale])
    tokens = sample_scales(model, labels, seed)
    position = sum(model.config.scale_lengths[:scale]) + row * model.config.grids[scale][1] + column
    attention = scale_attention(model, labels, tokens, position)
    names = [scale_name(model, k) for k in range(len(tokens))]
    blocks, heads = attention.between_scales.shape[:2]
    chosen = sorted({round(block) for block in np.linspace(0, blocks - 1, min(MAP_BLOCKS, blocks))})

    heights = (2.2 + 0.55 * heads, 1.6 + 1.35 * len(chosen))
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    between, maps = figure.subfigures(2, 1, squeeze=False, height_ratios=heights, hspace=0.03).flat
    samples = f"mean over {len(labels)} sample{'s' * (len(labels) > 1)}"
    between.suptitle(f"Attention of the AR transformer from scale to scale: share of the weight, {samples}")
    draw_between(between, attention.between_scales, names, model.config.scale_lengths)
    maps.suptitle(f"The map of one position (red) of scale {names[scale]}, {samples} and over heads")
    image, name = pipeline.decode_tokens(tokens[scale], scale)[0], class_name(model, int(labels[0]))
    draw_maps(maps, attention, model.config.grids, names, chosen, (scale, row, column), image, name)
    return rendered(figure)


def check_query(query: Sequence[int] | None, grid: Grid) -> Grid:
    """The (row, column) `query` on `grid`; its centre if left out."""
    if query is None:
        return grid[0] // 2, grid[1] // 2
    if len(query) != 2 or not all(0 <= at < side for at, side in zip(query, grid, strict=True)):
        raise ValueError(f"query: expected [row, column] within {grid[0]}x{grid[1]}, got {[*query]}")
    return query[0], query[1]


def draw_between(figure: SubFigure, weights: Tensor, names: Sequence[str], lengths: Sequence[int]) -> None:
    """Draw the mean over blocks and heads above what even attention would give; on the right, each block and head."""
    blocks, heads, scales, _ = weights.shape
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 2.6)).flat
    mean, even = left.subplots(2, 1)
    draw_numbers(mean, weights.mean((0, 1)), names, "all blocks and heads")
    draw_numbers(even, even_attention(lengths), names, "if all positions counted alike")

    pitch = scales + 1
    rows = torch.cat((weights.mean(1, keepdim=True), weights), 1)  # the mean over heads first
    tiles = torch.full((1 + heads, pitch, blocks, pitch), torch.nan)
    tiles[:, :scales, :, :scales] = above_diagonal_blank(rows).permute(1, 2, 0, 3)
    axes = right.subplots()
    image = axes.imshow(tiles.flatten(2).flatten(0, 1)[:-1, :-1].numpy(), cmap=COLOURS, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(pitch * np.arange(blocks) + (scales - 1) / 2, [str(block) for block in range(blocks)])
    labels = ["all heads", *(f"head {head}" for head in range(heads))]
    axes.set_yticks(pitch * np.arange(1 + heads) + (scales - 1) / 2, labels)
    axes.set_xlabel("block")
    axes.set_title("in each field as on the left: a row for the scale that looks, a column for the scale seen")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    right.colorbar(image, ax=axes, label="share of the weight", pad=0.01)


def draw_numbers(axes: Axes, weights: Tensor, names: Sequence[str], title: str) -> None:
    """Draw one matrix [K, K] with its numbers, in per cent."""
    axes.imshow(above_diagonal_blank(weights).numpy(), cmap=COLOURS, vmin=0, vmax=1, aspect="auto")
    for i in range(len(names)):
        for j in range(i + 1):
            share = float(weights[i, j])
            axes.text(j, i, f"{share:.0%}", ha="center", va="center", color="black" if share > 0.6 else "white")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("to")
    axes.set_ylabel("from")
    axes.set_title(title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def above_diagonal_blank(weights: Tensor) -> Tensor:
    """Weights [.., K, K] without what no scale can see."""
    return weights.masked_fill(torch.ones(weights.shape[-2:]).triu(1).bool(), torch.nan)


def draw_maps(
    figure: SubFigure,
    attention: ScaleAttention,
    grids: Sequence[Grid],
    names: Sequence[str],
    blocks: Sequence[int],
    query: tuple[int, int, int],
    image: PIL.Image.Image,
    name: str,
) -> None:
    """Draw a row per block and a column per scale that `query` (scale, row, column) sees; a row shares its colours."""
    scale, row, column = query
    parts = attention.of_query.mean(1).split([height * width for height, width in grids], 1)[: scale + 1]
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 2.6)).flat
    sample = left.subplots()
    sample.imshow(image, cmap="gray", interpolation="nearest")
    cell = image.width / grids[scale][1], image.height / grids[scale][0]
    corner = column * cell[0] - 0.5, row * cell[1] - 0.5
    sample.add_patch(Rectangle(corner, *cell, fill=False, edgecolor=MARK, linewidth=2))
    sample.set_title(f"first sample: {name}")
    sample.set_anchor("N")
    sample.set_axis_off()
    panels = right.subplots(len(blocks), scale + 1, squeeze=False)
    for block, line in zip(blocks, panels, strict=True):
        largest = max(float(part[block].max()) for part in parts)
        for k, axes in enumerate(line):
            weights = parts[k][block].view(grids[k])
            axes.imshow(weights.numpy(), cmap=COLOURS, norm=PowerNorm(0.5, 0, largest))
            axes.set_title(f"{names[k]}: {float(weights.sum()):.0%}", fontsize="medium")
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(f"block {block}")
        line[-1].plot(column, row, "o", color=MARK, markersize=4)
