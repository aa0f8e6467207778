"""Many images in one npz, as evaluators read them, drawn by several processes and never all in memory."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from flowar.system.files import write_aside
from flowar.system.parts import part_of
from flowar.system.progress import step_progress
from flowar.system.ranks import Ranks

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNELS = 3  # which evaluators expect of grey pictures, too
COPIED = 2**24  # bytes at once


@dataclass(frozen=True)
class Batch:
    """Images to be drawn into an npz.

    Attributes:
        labels: the class of every image.
        size: width and height.
        draw: called with two numbers, draws the images from the one to before the other.
        at_once: how many to draw at once.
    """

    labels: Sequence[int]
    size: tuple[int, int]
    draw: Callable[[int, int], list[Image]]
    at_once: int

    def write(self, path: Path, ranks: Ranks) -> None:
        """Write the npz of ADM's evaluator: `arr_0`, uint8 [N, height, width, 3], and `arr_1`, int64 [N], the labels.

        Each rank draws a share of the images into a file beside `path`, which all ranks must see; the main one joins
        these. What was at `path` stays as it was until all is written.

        Raises:
            OSError: if writing fails.
        """
        count = len(self.labels)
        bounds = [count * rank // ranks.world_size for rank in range(ranks.world_size + 1)]
        with ExitStack() as stack:
            folder = Path(ranks.from_main(lambda: str(stack.enter_context(part_beside(path)))))
            shares = [folder / f"{rank}.raw" for rank in range(ranks.world_size)]
            begin, end = bounds[ranks.rank], bounds[ranks.rank + 1]
            write_aside(shares[ranks.rank], lambda aside: self._draw_share(aside, begin, end))
            ranks.wait_for_all()
            with ranks.main_first():
                if ranks.main:
                    write_aside(path, lambda aside: self._join(aside, shares))

    def _draw_share(self, path: Path, begin: int, end: int) -> None:
        """Write the pixels of the images from `begin` to `end` one after another."""
        starts = range(begin, end, self.at_once)
        with path.open("wb") as file, step_progress(len(starts), None, "drawing") as advance:
            for start in starts:
                for image in self.draw(start, min(start + self.at_once, end)):
                    file.write(image.convert("RGB").tobytes())
                advance()

    def _join(self, path: Path, shares: Sequence[Path]) -> None:
        """Write the shares into one array, each of which is removed as soon as it is there."""
        width, height = self.size
        shape = (len(self.labels), height, width, CHANNELS)
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
                for share in shares:
                    move_into(member, share)
            with archive.open("arr_1.npy", "w", force_zip64=True) as member:
                npy.write_array(member, np.array(self.labels, np.int64), allow_pickle=False)


def part_beside(path: Path) -> Any:
    """A context with a new folder beside `path`, which is removed when it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return part_of(path, path.parent)


def move_into(member: IO[bytes], file: Path) -> None:
    """Copy a file to the end of another one, and remove it."""
    with file.open("rb") as source:
        shutil.copyfileobj(source, member, COPIED)
    file.unlink()
