"""Several files of a folder written as one: a reader finds all of them as they were, or all of them new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flowar.system.parts import part_of

SAVED = ".saved"  # holds files that are all written and on their way to the folder around it


@contextmanager
def write_together(folder: Path) -> Iterator[Path]:
    """Yield a folder to write files to, which come to `folder` together if the context ends without an error.

    If there is no such folder, it gets that name. Else its files are renamed to `.saved` in `folder` at once, the
    moment that counts, and to their places one by one. What a process that dies in between leaves to be done,
    `finish_saving` does for whoever reads or writes the folder next.

    Raises:
        OSError: if writing fails; the files in `folder` are as they were and nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with part_of(folder / SAVED if folder.exists() else folder, folder) as aside:
        yield aside
        finish_saving(folder)
        aside.rename(folder / SAVED if folder.exists() else folder)
    finish_saving(folder)


def finish_saving(folder: Path) -> None:
    """Bring files of `.saved` to their places. Other processes may do so at the same time."""
    saved = folder / SAVED
    if not saved.is_dir():
        return
    for path in [*saved.iterdir()]:
        with suppress(FileNotFoundError):
            path.replace(folder / path.name)
    with suppress(OSError):  # another process was faster, or has saved again
        saved.rmdir()
