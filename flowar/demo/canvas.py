"""The canvas: an enlarged picture to paint on, and the mask of the strokes in the picture's pixels."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageChops

from flowar.editing.pictures import Size

SIDE = 448  # pixels of the canvas that a small picture may fill


def enlarged(picture: Image.Image) -> Image.Image:
    """The picture with its pixels as squares, by the largest whole factor that stays within `SIDE`."""
    factor = max(1, SIDE // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def painted(layers: Sequence[Image.Image], size: Size) -> Image.Image:
    """A mask of `size`: white where a stroke on any of the RGBA layers touches the pixel."""
    mask = Image.new("L", size)
    for layer in layers:
        mask = ImageChops.lighter(mask, layer.getchannel("A").resize(size, Image.Resampling.BOX))
    return mask.point(lambda value: 255 if value else 0)
