"""Interpolation of the learned positions of a model to other latent grids."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from flowar.config import Grid

# The only weights whose shape depends on the grid: a row for every token of all scales.
POSITIONS = tuple(f"ar_transformer.{part}_positions" for part in ("input", "middle", "output"))


def interpolate_positions(table: Tensor, old: Sequence[Grid], new: Sequence[Grid]) -> Tensor:
    """A position table [1, S, D] of the `old` grids, coarse to fine, for the `new` ones: [1, S', D].

    Every new scale takes the table of the old scale nearest to it in size (`nearest_scale`), seen as a picture of D
    channels over the image: bicubic where it grows, and averaged (antialiased) where it shrinks. Where both have the
    same grid, it stays as it is. So from 16x16 to 32x32, halved down to 1x1, the first five scales keep their tables,
    and the last one begins with that of 16x16, enlarged.
    """
    scales = table.split([height * width for height, width in old], 1)
    parts = []
    for number, grid in enumerate(new):
        source = nearest_scale(number, grid, old)
        picture = rearrange(scales[source], "b (h w) d -> b d h w", h=old[source][0])
        resized = F.interpolate(picture, size=grid, mode="bicubic", antialias=True)
        parts.append(rearrange(resized, "b d h w -> b (h w) d"))
    return torch.cat(parts, 1)


def nearest_scale(number: int, grid: Grid, old: Sequence[Grid]) -> int:
    """The number of the `old` scale that is most like a new scale, given by its number and grid.

    The first scale, the class token, is like the first one alone, and no other scale is, if there are others. Apart
    from it, height and width should differ by the least factors, multiplied; of two such scales it is the finer one.
    """
    if number == 0 or len(old) == 1:
        return 0

    def distance(candidate: int) -> float:
        return sum(abs(math.log(side / own)) for side, own in zip(old[candidate], grid, strict=True))

    return min(range(len(old) - 1, 0, -1), key=lambda candidate: round(distance(candidate), 6))
