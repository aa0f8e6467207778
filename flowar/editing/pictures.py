"""Pictures and masks of the sizes that a model knows."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import SupportsIndex

import torch
from PIL import Image
from torch import Tensor

from flowar.data.opening import BACKGROUND, open_image, plain
from flowar.data.transforms import to_tensor, to_unit_range
from flowar.pipeline import FlowARPipeline
from flowar.system.arguments import check_type

Size = tuple[int, int]  # width, height, as PIL has it
MIDDLE = 128  # of the grey levels of a mask, from where on they count as white


def open_picture(name: str, path: Path | None, channels: int, background: str = BACKGROUND) -> Image.Image:
    """Open the picture in a file: upright, opaque, in mode L (1 channel) or RGB (3).

    Raises:
        ValueError: without a file, or for one that is no picture.
        OSError: if it cannot be read.
    """
    if path is None:
        raise ValueError(f"{name}: expected a file, got none")
    try:
        return open_image(path, channels, background=background)
    except ValueError as error:
        raise ValueError(f"{name}: expected a picture, got {path.name} ({error})") from error


def open_mask(path: Path | None) -> Image.Image:
    """The mask in a file, in mode L, where what is transparent is black. Raises as `open_picture`."""
    return open_picture("mask", path, 1, "black")


def picture_size(pipeline: FlowARPipeline) -> Size:
    """The width and the height of the pictures that the pipeline draws. Raises ValueError for what is no pipeline."""
    check_type("pipeline", pipeline, FlowARPipeline, "a FlowARPipeline")
    return pipeline.picture_size


def check_picture(name: str, picture: object) -> None:
    """Check that an argument is a picture. Raises ValueError for anything else."""
    check_type(name, picture, Image.Image, "a PIL image")


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
    check_type("pipeline", pipeline, FlowARPipeline, "a FlowARPipeline")
    check_picture("image", picture)
    picture = plain(picture, pipeline.tokenizer.image_channels)
    check_size(pipeline, picture, "image")
    images = to_unit_range(to_tensor(picture))[None]
    return pipeline.tokenizer.encode(images.to(pipeline.model.ar_transformer.input_positions.device))


def placed(
    pipeline: FlowARPipeline, picture: Image.Image, box: tuple[int, int, int, int]
) -> tuple[Image.Image, Image.Image]:
    """A picture of the pipeline's size with this one scaled into `box`, and a mask that is white around it.

    Raises:
        ValueError: for a box that is not inside the picture.
    """
    width, height = picture_size(pipeline)
    check_picture("image", picture)
    check_type("box", box, (list, tuple), "left, top, right, bottom")
    if len(box) != 4 or not all(isinstance(side, SupportsIndex) for side in box):
        raise ValueError(f"box: expected left, top, right, bottom in whole pixels, got {box}")
    left, top, right, bottom = map(operator.index, box)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"box: expected left, top, right, bottom within {width}x{height} pixels, got {box}")
    picture = plain(picture, pipeline.tokenizer.image_channels)
    canvas, mask = Image.new(picture.mode, (width, height)), Image.new("L", (width, height), 255)
    canvas.paste(picture.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
    mask.paste(0, box)
    return canvas, mask


def white_parts(mask: Image.Image) -> Image.Image:
    """A mask in mode L: 255 where it was nearer to white than to black, 0 elsewhere, also where it was transparent."""
    return plain(mask, 1, "black").point(lambda value: 255 if value >= MIDDLE else 0)


def known_latents(pipeline: FlowARPipeline, mask: Image.Image) -> Tensor:
    """The latents that a mask leaves alone, [1, 1, h, w]: 1 if none of their pixels is white, else 0.

    Raises:
        ValueError: for a mask of another size, or one that replaces nothing.
    """
    check_picture("mask", mask)
    white = white_parts(mask)
    check_size(pipeline, white, "mask")
    replaced = (to_tensor(white) > 0).float()[None]
    if not replaced.any():
        raise ValueError("mask: expected white where the image is to be replaced, got none")
    return (torch.nn.functional.max_pool2d(replaced, pipeline.tokenizer.stride) == 0).float()


def paste_known(picture: Image.Image, edited: list[Image.Image], mask: Image.Image) -> list[Image.Image]:
    """The edited pictures, in mode L or RGB, with the pixels of the original where the mask is not white."""
    where = white_parts(mask)
    return [Image.composite(each, plain(picture, len(each.getbands())), where) for each in edited]


def kept_pixels(mask: Image.Image) -> int:
    """How many pixels `paste_known` keeps."""
    return white_parts(mask).histogram()[0]
