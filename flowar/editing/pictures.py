"""Pictures and masks of the sizes that a model knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from flowar.pipeline import FlowARPipeline

Size = tuple[int, int]  # width, height, as PIL has it


def open_picture(name: str, path: Path | None) -> Image.Image:
    """Open the picture in a file.

    Raises:
        ValueError: without a file, or for one that is no picture.
        OSError: if it cannot be read.
    """
    if path is None:
        raise ValueError(f"{name}: expected a file, got none")
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.copy()
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: expected a picture, got {path.name}") from error


def picture_size(pipeline: FlowARPipeline) -> Size:
    """The width and the height of the pictures that the pipeline draws."""
    height, width = (side * pipeline.tokenizer.stride for side in pipeline.model.config.grid)
    return width, height


def check_size(pipeline: FlowARPipeline, picture: Image.Image, name: str) -> None:
    """Check that a picture is one of the pipeline's size.

    Raises:
        ValueError: naming both.
    """
    expected = picture_size(pipeline)
    if picture.size != expected:
        raise ValueError(f"{name}: expected {expected[0]}x{expected[1]} pixels, got {picture.width}x{picture.height}")


def to_latents(pipeline: FlowARPipeline, picture: Image.Image) -> Tensor:
    """The latents [1, c, h, w] of a picture of the pipeline's size. Raises ValueError for another size."""
    check_size(pipeline, picture, "image")
    mode = "L" if pipeline.tokenizer.image_channels == 1 else "RGB"
    pixels = torch.from_numpy(np.array(picture.convert(mode))).float() / 127.5 - 1
    images = pixels[None, None] if mode == "L" else pixels.permute(2, 0, 1)[None]
    return pipeline.tokenizer.encode(images.to(pipeline.model.ar_transformer.input_positions.device))


def known_latents(pipeline: FlowARPipeline, mask: Image.Image) -> Tensor:
    """The latents that a mask leaves alone, [1, 1, h, w]: 1 if all of their pixels are black, else 0.

    Raises:
        ValueError: for a mask of another size, or one that replaces nothing.
    """
    check_size(pipeline, mask, "mask")
    replaced = torch.from_numpy(np.array(mask.convert("L")) > 0).float()[None, None]
    if not replaced.any():
        raise ValueError("mask: expected white where the image is to be replaced, got none")
    return (torch.nn.functional.max_pool2d(replaced, pipeline.tokenizer.stride) == 0).float()


def paste_known(picture: Image.Image, edited: list[Image.Image], mask: Image.Image) -> list[Image.Image]:
    """The edited pictures with the pixels of the original where the mask is black."""
    where = mask.convert("L").point(lambda value: 255 if value else 0)
    return [Image.composite(each, picture.convert(each.mode), where) for each in edited]
