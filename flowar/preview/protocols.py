"""A picture as the characters that make a terminal draw it, from the cursor on.

Each function takes an image and its size in cells (columns, rows).
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

Cells = tuple[int, int]

KITTY_CHUNK = 4096  # characters of base64 that one Kitty command may hold
UPPER_HALF = "\u2580"  # a cell whose upper half has the colour of text, the lower that of the background


def kitty(image: Image, cells: Cells) -> str:
    """Kitty's graphics protocol: a PNG in chunks. The picture replaces the one that this process drew before."""
    data = base64_png(image)
    chunks = [data[start : start + KITTY_CHUNK] for start in range(0, len(data), KITTY_CHUNK)]
    # a=T: transmit and display; f=100: PNG; q=2: answer nothing, which would be read as typed; C=1: leave the cursor.
    keys = f"a=T,f=100,i={os.getpid()},q=2,C=1,c={cells[0]},r={cells[1]},"
    last = len(chunks) - 1
    return "".join(f"\x1b_G{'' if i else keys}m={int(i < last)};{chunk}\x1b\\" for i, chunk in enumerate(chunks))


def iterm(image: Image, cells: Cells) -> str:
    """iTerm2's inline images, which WezTerm shows too."""
    return f"\x1b]1337;File=inline=1;width={cells[0]};height={cells[1]}:{base64_png(image)}\x07"


def half_blocks(image: Image, cells: Cells) -> str:
    """Text in 24-bit colour, two pixels a cell; an image of larger size is scaled down."""
    import numpy as np
    from PIL.Image import Resampling

    columns, rows = cells
    small = image.convert("RGB").resize((columns, min(image.height, 2 * rows)), Resampling.LANCZOS)
    pixels = np.asarray(small).tolist()
    below = [*pixels[1::2], [None] * columns]  # an odd height has nothing below its last row
    lines = zip(pixels[::2], below, strict=False)
    return "\n".join("".join(map(half_block, *line)) + "\x1b[0m" for line in lines)


def half_block(upper: Sequence[int], lower: Sequence[int] | None) -> str:
    """The characters of one cell; without a lower pixel its background is the terminal's own."""
    background = "49" if lower is None else "48;2;{};{};{}".format(*lower)
    return "\x1b[38;2;{};{};{};{}m{}".format(*upper, background, UPPER_HALF)


def base64_png(image: Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
