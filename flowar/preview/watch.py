"""The scales as `flowar sample` shows them: a picture that forms in the terminal, and a film."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowar.images.grid import image_grid
from flowar.images.shown import enlarged
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

    @property
    def wanted(self) -> bool:
        """Whether anybody watches."""
        return self.terminal is not None or self.film is not None

    def preview(self, columns: int, zoom: int = 1) -> Preview | None:
        """A function to call after every scale, with pictures to lay out in so many columns; None if nobody watches.

        The film shows them `zoom` times as large.
        """

        def show(_: int, images: list[Image]) -> None:
            grid = image_grid(images, columns)
            if self.film is not None:
                self.frames.append(enlarged(grid, zoom))
            if self.terminal is not None:
                self.terminal.show(grid)

        return show if self.wanted else None

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
