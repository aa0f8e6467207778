"""Pictures: tensors as PIL images, and many of them in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["image_grid", "to_pil"]


def to_pil(images: Tensor) -> list[Image]:
    """Images [B, 1 or 3, H, W] in [-1, 1] as PIL images of mode L or RGB."""
    from PIL import Image

    pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)  # before they travel: a quarter of the bytes
    arrays = rearrange(pixels, "b c h w -> b h w c").contiguous().cpu().numpy()
    return [Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array) for array in arrays]


def image_grid(images: Sequence[Image], columns: int) -> Image:
    """Images of one size, row by row, `columns` to a row.

    Raises:
        ValueError: without images, or for a number of columns that is not positive.
    """
    from PIL import Image

    if not images or columns < 1:
        raise ValueError(f"image grid: expected images and a positive number of columns, got {len(images)}, {columns}")
    width, height = images[0].size
    grid = Image.new(images[0].mode, (columns * width, -(-len(images) // columns) * height))
    for index, image in enumerate(images):
        grid.paste(image, (index % columns * width, index // columns * height))
    return grid
