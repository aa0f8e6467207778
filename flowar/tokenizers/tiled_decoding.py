"""Large images decoded in overlapping tiles: activations take the memory of one tile, whatever the size of the image.

A tile is decoded alone and weighted. Along each axis, where two tiles share pixels, the weight passes linearly from one
to the other over the middle half of the overlap; what lies nearer to the edge of a tile has weight 0 in it:

    tile i      1111111111111\\0000
                         |--- overlap ---|
    tile i + 1           0000/1111111111111
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor

OVERLAP_SHARE = 4  # neighbouring tiles share at least a quarter of the largest tile


class Span(NamedTuple):
    """A tile along one axis: its latents, and the weight of each of its pixels, [(stop - start) * stride]."""

    start: int
    stop: int
    weights: Tensor


def decode_tiled(
    decode: Callable[[Tensor], Tensor], latents: Tensor, image_channels: int, stride: int, tile: int
) -> Tensor:
    """Images [B, image_channels, h * stride, w * stride] of latents [B, c, h, w], one tile of one image at a time.

    A decoder whose pixels depend on no latent more than `tile // 16` away gives what it gives for the whole image.
    Others differ: group norms and attention see a tile in place of the image.

    Args:
        decode: latents [1, c, h', w'] to images [1, image_channels, h' * stride, w' * stride].
        latents: any floating-point dtype; images have the same.
        tile: the largest side of what `decode` is given, in latents; at least 1.
    """
    height, width = latents.shape[2:]
    rows, columns = (spans(side, tile, stride, latents.device) for side in (height, width))
    images = latents.new_zeros(len(latents), image_channels, height * stride, width * stride)
    for i, row, column in product(range(len(latents)), rows, columns):
        part = decode(latents[i : i + 1, :, row.start : row.stop, column.start : column.stop])
        target = images[i, :, row.start * stride : row.stop * stride, column.start * stride : column.stop * stride]
        target += row.weights[:, None] * column.weights * part[0]
    return images


def spans(size: int, tile: int, stride: int, device: torch.device) -> list[Span]:
    """Tiles of one length along an axis of `size` latents, as few as cover it; weights sum to 1 at every pixel."""
    overlap = tile // OVERLAP_SHARE
    count = max(1, math.ceil((size - overlap) / (tile - overlap)))
    length = math.ceil((size + (count - 1) * overlap) / count)
    starts = [i * (size - length) // max(1, count - 1) for i in range(count)]
    ramp = max(1.0, overlap * stride / 2)
    pixels = torch.arange(size * stride, device=device) + 0.5
    # The share that tile i and all behind it have. Differences of neighbours sum to 1, whatever overlaps.
    middles = [stride * (start + length + following) / 2 for start, following in pairwise(starts)]
    shares = [((pixels - middle) / ramp + 0.5).clamp(0, 1) for middle in middles]
    shares = [torch.ones_like(pixels), *shares, torch.zeros_like(pixels)]
    weights = [share - following for share, following in pairwise(shares)]
    return [
        Span(start, start + length, weight[start * stride : (start + length) * stride])
        for start, weight in zip(starts, weights, strict=True)
    ]
