"""The scales as `flowar sample` shows them: a picture that forms in the terminal, and a film."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowar.images import image_grid
from flowar.preview.film import film_format, write_film
from flowar.preview.terminal import TerminalPicture

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowar.pipeline import Preview


class Watch:
    """Shows the grid of every scale on `terminal` and keeps it for `film`, as far as there are such.

    Raises:
        ValueError: for a film's ending other than .gif and .webp.
    """

    def __init__(self, terminal: TerminalPicture | None, film: Path | None) -> None:
        if film is not None:
            film_format(film)
        self.terminal, self.film = terminal, film
        self.frames: list[Image] = []

    def preview(self, columns: int) -> Preview | None:
        """A function to call after every scale, with pictures to lay out in so many columns; None if nobody watches."""

        def show(_: int, images: list[Image]) -> None:
            grid = image_grid(images, columns)
            if self.film is not None:
                self.frames.append(grid)
            if self.terminal is not None:
                self.terminal.show(grid)

        return None if self.terminal is None and self.film is None else show

    def write_film(self) -> None:
        """Write the film of the scales, if one is wanted."""
        if self.film is not None:
            write_film(self.film, self.frames)

    def __enter__(self) -> None:
        if self.terminal is not None:
            self.terminal.__enter__()

    def __exit__(self, *error: object) -> None:
        if self.terminal is not None:
            self.terminal.__exit__(*error)
