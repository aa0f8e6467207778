"""WebDataset tars as a source: `0001.jpg` beside its label, `0001.cls` (an integer) or `0001.json` with "label"."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from flowar.config import Grid
from flowar.data.image_source import IMAGE_SUFFIXES, ImageSource
from flowar.data.transforms import decode
from flowar.errors import DataError, first_line

END_BYTES = 2 * tarfile.BLOCKSIZE
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Member(NamedTuple):
    """Where the bytes of an image are: in which tar, from which byte, and how many."""

    tar: int
    name: str
    offset: int
    size: int


@dataclass
class TarImages(ImageSource):
    """Images in uncompressed tars; an image is read by seeking to it."""

    tars: list[str]
    members: list[Member]

    def name(self, index: int) -> str:
        member = self.members[index]
        return f"{self.tars[member.tar]}/{member.name}"

    def _read(self, index: int) -> Image.Image:
        member = self.members[index]
        with (self.root / self.tars[member.tar]).open("rb") as file:
            file.seek(member.offset)
            return decode(file.read(member.size), self.channels)


def find_tars(source: str | Path) -> list[Path]:
    """The tars that `source` names: one, those in a folder, or those of a pattern; none if it is something else.

    Raises:
        DataError: if a pattern fits no file.
    """
    text = str(source)
    if Path(text).is_dir():
        return sorted(Path(text).glob("*.tar"))
    if not text.endswith(".tar"):
        return []
    paths = [Path(path) for pattern in expand_ranges(text) for path in matches(pattern)]
    if not paths:
        raise DataError(f"data: expected tars, got {text} (fits no file)")
    return paths


def expand_ranges(pattern: str) -> Iterator[str]:
    """`{08..10}` becomes 08, 09, 10: the pattern once for every number, for all of its ranges."""
    found = RANGE.search(pattern)
    if not found:
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from expand_ranges(f"{pattern[: found.start()]}{number:0{len(first)}d}{pattern[found.end() :]}")


def matches(pattern: str) -> list[str]:
    """The files of a pattern with * and ?; a plain name is itself, there or not, so that a missing tar is an error."""
    return sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]


def open_tars(paths: list[Path], image_size: Grid, channels: int) -> TarImages:
    """All images of these tars, in their order; each tar is read through once, for where its members are.

    Raises:
        DataError: for a tar that is missing, compressed or damaged, and for an image without a label.
    """
    members: list[Member] = []
    labels: list[int] = []
    for number, path in enumerate(paths):
        for member, label in read_index(path, number):
            members.append(member)
            labels.append(label)
    if not members:
        raise DataError(f"{paths[0]}: expected images, found none in {len(paths)} tars")
    root = Path(os.path.commonpath([path.parent for path in paths]))
    tars = [str(path.relative_to(root)) for path in paths]
    return TarImages(root, torch.tensor(labels), (), image_size, channels, tars, members)


def read_index(path: Path, number: int) -> Iterator[tuple[Member, int]]:
    """Images and labels of tar `number` of the source, in the order of the images."""
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                if not entry.isfile():
                    continue
                key, suffix = split_name(entry.name)
                if suffix in IMAGE_SUFFIXES:
                    if key in images:
                        raise DataError(
                            f"{path}: expected one image called {key}, got {images[key].name}, {entry.name}"
                        )
                    images[key] = Member(number, entry.name, entry.offset_data, entry.size)
                elif suffix in (".cls", ".json"):
                    labels |= read_label(path, entry.name, suffix, key, content(tar, entry))
        check_end(path)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path}: expected an uncompressed tar, but reading it failed ({first_line(error)})") from error
    for key, member in images.items():
        if key not in labels:
            raise DataError(f'{path}: expected a label of {member.name} in {key}.cls, or as "label" in {key}.json')
        yield member, labels[key]


def check_end(path: Path) -> None:
    """Check that a tar ends as tars do, in zeros; the tarfile module does not mind if it stops between two members.

    Raises:
        tarfile.ReadError: if it does not.
    """
    with path.open("rb") as file:
        file.seek(-END_BYTES, os.SEEK_END)
        if any(file.read()):
            raise tarfile.ReadError("unexpected end of data")


def split_name(name: str) -> tuple[str, str]:
    """`a/b.seg.PNG` as `a/b` and `.seg.png`: the parts of a sample share what stands before the first dot."""
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return folder + slash + stem, (dot + suffix).lower()


def content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    """The bytes of a regular file in a tar."""
    file = tar.extractfile(entry)
    return file.read() if file else b""


def read_label(path: Path, name: str, suffix: str, key: str, text: bytes) -> dict[str, int]:
    """The label in a `.cls` or `.json` file, by key; none if the JSON has no "label"."""
    try:
        value = int(text) if suffix == ".cls" else json.loads(text)
    except ValueError:
        value = text
    if suffix == ".json" and isinstance(value, dict):
        if "label" not in value:
            return {}
        value = value["label"]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DataError(f"{path}: expected an integer >= 0 as the label in {name}, got {value!r:.50}")
    return {key: value}
