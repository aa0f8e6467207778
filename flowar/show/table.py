"""Pictures in rows and columns, with names at the side and on top, pixel by pixel."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from flowar.images.shown import tile

GAP, MARGIN = 4, 14
TEXT, TITLE = 14, 18  # sizes of letters
LINE = 1.35  # from one line of text to the next, in sizes of letters
INK, PAPER = 40, 255


@dataclass(frozen=True)
class Table:
    """Images in rows and columns with their names, for `draw_table`.

    Attributes:
        title: one or more lines; the first one is the largest.
        columns: names above the columns.
        names: of the rows, on their left.
        rows: images of one size and mode, L or RGB; None is left blank.
        captions: a line under every image, or none at all.
    """

    title: str
    columns: Sequence[str]
    names: Sequence[str]
    rows: Sequence[Sequence[Image.Image | None]]
    captions: Sequence[Sequence[str]] | None = None


def draw_table(table: Table) -> Image.Image:
    """The table as one image of its images' mode. No text is cut off: columns grow with theirs."""
    tiles = [[None if image is None else tile(image) for image in row] for row in table.rows]
    first = next(image for row in tiles for image in row if image is not None)
    lines = table.title.splitlines()
    captions = table.captions or [[""] * len(table.columns)] * len(tiles)
    below = height_of(TEXT) if table.captions else 0
    left = MARGIN + max(width_of(name) for name in table.names) + 2 * GAP
    pitch = max(first.width, *map(width_of, [*table.columns, *(text for row in captions for text in row)])) + GAP
    top = MARGIN + height_of(TITLE) + len(lines) * height_of(TEXT) + 3 * GAP
    needed = MARGIN + max(width_of(line, TITLE if i == 0 else TEXT) for i, line in enumerate(lines))
    width = max(left + len(table.columns) * pitch, needed) + MARGIN
    height = top + len(tiles) * (first.height + below + GAP) + MARGIN
    picture = Image.new(first.mode, (width, height), PAPER if first.mode == "L" else (PAPER,) * 3)
    draw = Writer(picture)

    for i, line in enumerate(lines):
        draw.text(line, MARGIN, MARGIN + (i > 0) * height_of(TITLE) + max(0, i - 1) * height_of(TEXT), i == 0)
    for j, name in enumerate(table.columns):
        draw.text(name, left + j * pitch + pitch // 2, top - GAP - height_of(TEXT), anchor="ma")
    for i, (row, name) in enumerate(zip(tiles, table.names, strict=True)):
        y = top + i * (first.height + below + GAP)
        draw.text(name, left - 2 * GAP, y + first.height // 2, anchor="rm")
        for j, (image, caption) in enumerate(zip(row, captions[i], strict=True)):
            if image is not None:
                picture.paste(image, (left + j * pitch + (pitch - image.width) // 2, y))
            draw.text(caption, left + j * pitch + pitch // 2, y + first.height, anchor="ma")
    return picture


class Writer:
    """Dark text on `picture`."""

    def __init__(self, picture: Image.Image) -> None:
        self.draw = ImageDraw.Draw(picture)
        self.ink = INK if picture.mode == "L" else (INK,) * 3

    def text(self, text: str, x: int, y: int, large: bool = False, anchor: str = "la") -> None:
        self.draw.text((x, y), text, self.ink, font(TITLE if large else TEXT), anchor=anchor)


def width_of(text: str, size: int = TEXT) -> int:
    """The pixels that a line of text takes across."""
    return round(font(size).getlength(text)) + 1


def height_of(size: int) -> int:
    """The pixels from one line of text to the next."""
    return round(LINE * size)


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which has more letters than Pillow's."""
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
