"""A picture in the terminal that changes in place."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

from flowar.images.shown import enlarged
from flowar.preview.protocols import UPPER_HALF, Cells, half_blocks, iterm, kitty

if TYPE_CHECKING:
    from PIL.Image import Image

Protocol = Callable[["Image", Cells], str]

ROWS_BESIDE = 2  # of the terminal, that a picture leaves to the command line
CELL = 8  # pixels that cells of terminals are wide, or more
SAVE_CURSOR, RESTORE_CURSOR = "\x1b7", "\x1b8"


def obstacle(output: TextIO, environment: Mapping[str, str]) -> str | None:
    """The reason why `output` shows no pictures, or None if it does."""
    if not output.isatty():
        return "stdout is no terminal"
    if environment.get("TERM", "dumb") == "dumb":
        return f"the terminal has no control sequences (TERM={environment.get('TERM', '')})"
    if choose_protocol(environment) is half_blocks and not writes(output, UPPER_HALF):
        return f"the terminal has no half blocks (encoding {output.encoding})"
    return None


def writes(output: TextIO, text: str) -> bool:
    """Whether the encoding of `output`, if it has one, has all characters of `text`."""
    try:
        text.encode(output.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def choose_protocol(environment: Mapping[str, str]) -> Protocol:
    """The best that the terminal of these environment variables announces; half blocks if it announces nothing.

    tmux passes no images on, whatever terminal it runs in.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or term.startswith(("tmux", "screen")):
        return half_blocks
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty"):
        return kitty
    return iterm if program in ("iTerm.app", "WezTerm") else half_blocks


def fit(size: tuple[int, int], limits: Cells) -> Cells:
    """Columns and rows of a picture of `size` (width, height): two pixels a cell, or fewer cells within the limits."""
    width, height = size
    scale = min(1.0, limits[0] / width, 2 * limits[1] / height)
    return max(1, round(width * scale)), max(1, math.ceil(round(height * scale) / 2))


class TerminalPicture:
    """A picture that `show` draws and draws over; leaving the `with` block puts the cursor below it."""

    def __init__(self, output: TextIO, protocol: Protocol) -> None:
        self.output, self.protocol = output, protocol
        self.rows = 0  # that the picture takes, once there is one

    def show(self, image: Image) -> None:
        """Draw `image`, of the same size each time."""
        terminal = shutil.get_terminal_size()
        cells = fit(image.size, (terminal.columns, max(1, terminal.lines - ROWS_BESIDE)))
        if not self.rows:
            self.rows = cells[1]
            # At the bottom of the terminal, the lines above scroll away first.
            self.output.write("\n" * self.rows + f"\x1b[{self.rows}A")
        self.output.write(SAVE_CURSOR + self.protocol(self._crisp(image, cells), cells) + RESTORE_CURSOR)
        self.output.flush()

    def _crisp(self, image: Image, cells: Cells) -> Image:
        """`image` with as many pixels as its cells have, about: terminals blur what they enlarge themselves."""
        zoom = 1 if self.protocol is half_blocks else -(-cells[0] * CELL // image.width)
        return enlarged(image, zoom)

    def __enter__(self) -> TerminalPicture:
        return self

    def __exit__(self, *_: object) -> None:
        if self.rows:
            self.output.write(f"\x1b[{self.rows}B")
            self.output.flush()
