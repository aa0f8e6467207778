"""What lies in folders as they are on real disks: which files are images, and what is passed over, counted and said."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from flowar.data.opening import image_suffixes
from flowar.errors import DataError, first_line

log = logging.getLogger(__name__)

# What operating systems, file servers and programs put beside people's files, in lower case.
JUNK = {
    *("__macosx", "thumbnails", "__pycache__", "lost+found", "temporary items", "network trash folder"),
    *("@eadir", "#recycle", "#snapshot", "@__thumb", "@recycle", "@recently-snapshot"),
    *("$recycle.bin", "recycler", "system volume information"),
}
MOST_KINDS = 10  # of what was ignored that a message tells apart

Identity = tuple[int, int]  # of a folder, whatever links lead to it: device and inode


@dataclass
class Ignored:
    """How much was passed over, by kind."""

    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, count: int = 1) -> None:
        self.kinds[kind] += count

    def add_files(self, paths: Iterable[Path]) -> None:
        """Files that are no images, by their suffixes."""
        for path in paths:
            suffix = path.suffix.lower()
            self.add(suffix if re.fullmatch(r"\.\w{1,8}", suffix, re.ASCII) else "without a known suffix")

    def __str__(self) -> str:
        """As "ignored 5: hidden 3, .txt 2"; empty if there was nothing."""
        kinds = [(kind, count) for kind, count in self.kinds.items() if count]
        if not kinds:
            return ""
        kinds.sort(key=lambda each: (each[0].startswith("."), -each[1], each[0]))  # suffixes last
        shown = [f"{kind} {count}" for kind, count in kinds[:MOST_KINDS]]
        others = sum(count for _, count in kinds[MOST_KINDS:])
        return f"ignored {self.kinds.total()}: {', '.join(shown)}" + (f", of other kinds {others}" if others else "")

    def say(self, found: str) -> None:
        """Log what was `found`, and what was ignored."""
        log.info("%s", "; ".join(filter(None, (found, str(self)))))


@dataclass
class Contents:
    """What lies directly in a folder: sorted paths, by what they are or what they link to."""

    images: list[Path]
    folders: list[Path]
    others: list[Path]


def junk(name: str) -> str | None:
    """The kind of a file or folder that was not put there to be read; None for all others."""
    if name.startswith("."):
        return "hidden"
    return name if name.lower() in JUNK else None


def look_into(folder: Path, ignored: Ignored) -> Contents:
    """What lies directly in `folder`, without junk.

    Raises:
        DataError: if it cannot be read.
    """
    contents = Contents([], [], [])
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = folder / entry.name
                if kind := junk(entry.name):
                    ignored.add(kind)
                elif path.is_dir() if entry.is_symlink() else entry.is_dir():
                    contents.folders.append(path)
                elif path.suffix.lower() in image_suffixes():
                    contents.images.append(path)
                else:
                    contents.others.append(path)
    except OSError as error:
        raise DataError(f"{folder}: expected a readable folder ({first_line(error)})") from error
    for found in (contents.images, contents.folders, contents.others):
        found.sort()
    return contents


def identity(folder: Path) -> Identity:
    found = folder.stat()
    return found.st_dev, found.st_ino


def images_below(folder: Path, above: Iterable[Identity], ignored: Ignored) -> list[Path]:
    """The images in `folder` and below, sorted. Links are followed, but into no folder twice, nor into those `above`.

    Raises:
        DataError: for a folder that cannot be read.
    """
    images: list[Path] = []
    waiting, seen = [folder], {*above}
    while waiting:
        here = waiting.pop()
        if identity(here) in seen:
            ignored.add("links to where they come from")
            continue
        seen.add(identity(here))
        contents = look_into(here, ignored)
        images += contents.images
        waiting += contents.folders
        ignored.add_files(contents.others)
    return sorted(images)
