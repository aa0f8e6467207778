"""A contact sheet: pictures in rows, each with its class and its seed below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flowar.images.shown import fitting, tile

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_TILES = 64
WIDTH, GAP, TEXT, LINE = 1000, 8, 12, 16  # pixels: of a row, between tiles, of letters, from line to line
WIDEST_CAPTION = 200  # a longer one is cut off; the longest seed fits
INK, PAPER = 40, 255


def contact_sheet(images: Sequence[Image], captions: Sequence[Sequence[str]]) -> Image:
    """Images of one size and mode, L or RGB, with lines of text below each; small ones are enlarged, pixels as squares.

    Args:
        images: at least one.
        captions: as many lines for each.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(TEXT)
    assert isinstance(font, ImageFont.FreeTypeFont)
    tiles = [tile(image) for image in images]
    lines = [[fitting(line, font, WIDEST_CAPTION) for line in caption] for caption in captions[: len(images)]]
    pitch = max(tiles[0].width, *(round(font.getlength(line)) for caption in lines for line in caption)) + GAP
    height = tiles[0].height + LINE * len(lines[0]) + GAP
    columns = min(len(tiles), max(1, WIDTH // pitch))
    size = GAP + columns * pitch, GAP + -(-len(tiles) // columns) * height
    sheet = Image.new(tiles[0].mode, size, PAPER if tiles[0].mode == "L" else (PAPER,) * 3)
    draw = ImageDraw.Draw(sheet)
    for i, (each, caption) in enumerate(zip(tiles, lines, strict=True)):
        x, y = GAP + i % columns * pitch, GAP + i // columns * height
        sheet.paste(each, (x, y))
        for number, line in enumerate(caption):
            ink = INK if sheet.mode == "L" else (INK,) * 3
            draw.text((x, y + each.height + LINE * number), line, ink, font)
    return sheet
