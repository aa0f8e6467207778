"""The coarse-to-fine film, as a GIF or WebP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowar.system.files import write_aside

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {".gif": "GIF", ".webp": "WEBP"}
FRAME_MS, LAST_FRAME_MS = 500, 2000
FILM_MS = 8000  # that many frames share, each then shorter than `FRAME_MS`


def film_format(path: Path) -> str:
    """The name that Pillow has for the format of `path`.

    Raises:
        ValueError: for an ending other than .gif and .webp.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"animate: expected a file that ends in {' or '.join(FORMATS)}, got {path}")
    return FORMATS[path.suffix.lower()]


def write_film(path: Path, frames: Sequence[Image]) -> None:
    """Write frames of one size as an endless film, aside first; the last frame stays longest.

    Raises:
        ValueError: for an ending other than .gif and .webp.
        OSError: if writing fails; what was at `path` stays as it was.
    """
    form, first, rest = film_format(path), frames[0], frames[1:]
    durations = [min(FRAME_MS, FILM_MS // len(frames))] * len(rest) + [LAST_FRAME_MS]
    write_aside(
        path, lambda aside: first.save(aside, form, save_all=True, append_images=rest, duration=durations, loop=0)
    )
