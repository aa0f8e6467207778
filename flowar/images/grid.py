"""Tensors as PIL images, and many of them in one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from flowar.errors import FlowARError
from flowar.system.arguments import check_each, check_type
from flowar.system.tensors import check_tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def to_pil(images: Tensor) -> list[Image]:
    """Images [B, 1 or 3, H, W] in [-1, 1] as PIL images of mode L or RGB.

    Raises:
        ValueError: for what are no such images; their values are not looked at.
    """
    from PIL import Image

    check_tensor("images", images, None)
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise FlowARError(f"images: expected [B, 1 or 3, H, W], got {list(images.shape)}")
    pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)  # before they travel: a quarter of the bytes
    arrays = rearrange(pixels, "b c h w -> b h w c").contiguous().cpu().numpy()
    return [Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array) for array in arrays]


def image_grid(images: Sequence[Image], columns: int) -> Image:
    """Images of one size, row by row, `columns` to a row.

    Raises:
        ValueError: without images, for images of several sizes, or for a number of columns that is not positive.
    """
    from PIL import Image

    check_each("image grid", images, partial(check_type, types=Image.Image, expected="a PIL image"))
    if not images or not isinstance(columns, int) or columns < 1:
        raise ValueError(f"image grid: expected images and a positive number of columns, got {len(images)}, {columns}")
    sizes = sorted({f"{image.width}x{image.height}" for image in images})
    if len(sizes) > 1:
        raise ValueError(f"image grid: expected images of one size, got {', '.join(sizes)}")
    width, height = images[0].size
    grid = Image.new(images[0].mode, (columns * width, -(-len(images) // columns) * height))
    for index, image in enumerate(images):
        grid.paste(image, (index % columns * width, index // columns * height))
    return grid
