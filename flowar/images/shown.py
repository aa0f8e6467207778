"""Small pictures made large enough to see, and names above them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

SEEN = 64  # pixels a side, from which on a picture is large enough to see
LEAST_TEXT, WIDTHS_OF_TEXT = 11, 12  # pixels; text is a twelfth of the picture's width high
CUT = "…"
TILE = 112  # the side that small pictures in tables are enlarged to, by a whole factor
LARGEST_TILE = 256  # larger ones are scaled down to it


def zoom_to_see(size: tuple[int, int]) -> int:
    """The least whole factor that makes both sides of a picture (width, height) at least 64 pixels."""
    return max(1, -(-SEEN // min(size)))


def enlarged(image: Image, zoom: int) -> Image:
    """A picture whose every pixel is a square of `zoom` by `zoom`."""
    from PIL.Image import Resampling

    return image.resize((image.width * zoom, image.height * zoom), Resampling.NEAREST) if zoom > 1 else image


def tile(image: Image) -> Image:
    """A small image enlarged by a whole factor, pixels as squares; a large one scaled down."""
    from PIL.Image import Resampling

    longest = max(image.size)
    if longest > LARGEST_TILE:
        scale = LARGEST_TILE / longest
        return image.resize((round(image.width * scale), round(image.height * scale)), Resampling.LANCZOS)
    return enlarged(image, max(1, TILE // longest))


def with_names(image: Image, names: Sequence[str]) -> Image:
    """A picture, or a grid with a column for each name, with a strip on top in which the names stand.

    A name that is wider than its column is cut.
    """
    from PIL import Image as Images
    from PIL.ImageDraw import Draw
    from PIL.ImageFont import load_default

    width = image.width // len(names)
    font = load_default(max(LEAST_TEXT, width // WIDTHS_OF_TEXT))
    height = strip_height(width)
    framed = Images.new(image.mode, (image.width, image.height + height), "white")
    framed.paste(image, (0, height))
    for column, name in enumerate(names):
        middle = (column * width + width / 2, height / 2)
        Draw(framed).text(middle, fitting(name, font, width), "black", font, anchor="mm")
    return framed


def strip_height(width: int) -> int:
    """The height of the strip with names above columns of this width."""
    return max(LEAST_TEXT, width // WIDTHS_OF_TEXT) * 3 // 2


def fitting(name: str, font: FreeTypeFont | ImageFont, width: int) -> str:
    """A name in one line, as much of it as `width` has room for."""
    name = " ".join(name.split())
    if font.getlength(name) <= width:
        return name
    while name and font.getlength(name + CUT) > width:
        name = name[:-1]
    return name + CUT
