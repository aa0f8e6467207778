"""WebDataset tars as a source: `0001.jpg` beside its label, `0001.cls` (an integer) or `0001.json` with "label"."""

from __future__ import annotations

import glob
import io
import math
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from PIL import Image

from flowar.config import Grid
from flowar.data.folders import Ignored, junk
from flowar.data.image_source import FilePart, ImageSource
from flowar.data.opening import check_length, decode, image_suffixes
from flowar.errors import DataError, first_line
from flowar.system.files import open_regular
from flowar.system.rules import expanded
from flowar.system.structured import parse_json

END_BYTES = 2 * tarfile.BLOCKSIZE
MOST_LABEL_BYTES = 2**24  # of a file with a label, or of a header
MOST_TARS = 10**6
MOST_CLASSES = 2**31
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Member(NamedTuple):
    """Where the bytes of an image are: in which tar, from which byte, and how many; or why it cannot be used."""

    tar: int
    name: str
    offset: int
    size: int
    problem: str = ""


@dataclass
class TarImages(ImageSource):
    """Images in uncompressed tars; an image is read by seeking to it."""

    tars: list[str]
    members: list[Member]

    def name(self, index: int) -> str:
        member = self.members[index]
        return f"{self.tars[member.tar]}/{member.name}"

    def _read(self, index: int, cover: Grid | None) -> Image.Image:
        member = self.members[index]
        if member.problem:
            raise DataError(member.problem)
        check_length(member.size)
        with open_regular(self.root / self.tars[member.tar]) as file:
            file.seek(member.offset)
            return decode(io.BytesIO(file.read(member.size)), self.channels, cover)

    def part(self, index: int) -> FilePart:
        member = self.members[index]
        return FilePart(self.root / self.tars[member.tar], member.offset, member.size)


def find_tars(source: str) -> list[Path]:
    """The tars that `source` names: one, or those of a pattern; none if it is something else.

    Raises:
        DataError: if a pattern fits no file, or stands for more than anybody has.
    """
    if not source.endswith(".tar"):
        return []
    source = str(expanded(source))
    count = math.prod(max(0, int(last) - int(first) + 1) for first, last in RANGE.findall(source))
    if count > MOST_TARS:
        raise DataError(f"data: expected a pattern of at most {MOST_TARS} tars, got {source}, which stands for {count}")
    paths = [Path(path) for pattern in expand_ranges(source) for path in matches(pattern)]
    if not paths:
        raise DataError(f"data: expected tars, got {source} (fits no file)")
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


def open_tars(paths: list[Path], image_size: Grid, channels: int, skip_bad: bool, ignored: Ignored) -> TarImages:
    """All images of these tars, in their order; each tar is read through once, for where its members are.

    Args:
        skip_bad: let images without a proper label, and what is damaged of a tar, be unreadable images.
        ignored: counts what belongs to no image.

    Raises:
        DataError: unless those are skipped, for a tar that is missing, compressed or damaged, and for an image without
            a label; for tars without an image in any case.
    """
    members: list[Member] = []
    labels: list[int] = []
    for number, path in enumerate(paths):
        for member, label in TarIndex.read(path, number, ignored).samples():
            if member.problem and not skip_bad:
                raise DataError(member.problem)
            members.append(member)
            labels.append(label)
    if all(member.problem for member in members):
        wrong = f"; {members[0].problem}" if members else ""
        raise DataError(f"{paths[0]}: expected images, found none in {len(paths)} tars{wrong}")
    root = Path(os.path.commonpath([path.parent for path in paths]))
    tars = [str(path.relative_to(root)) for path in paths]
    ignored.say(f"{root}: {len(members)} images in {len(paths)} tars")
    return TarImages(root, torch.tensor(labels), (), image_size, channels, tars, members)


class Bounded:
    """An open file that reads no more at once than a tar needs: a header says itself how long it is."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Read `size` bytes. Raises tarfile.ReadError for too many."""
        if size > MOST_LABEL_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)


@dataclass
class TarIndex:
    """What there is in tar `number` of a source.

    Attributes:
        images: by what the names of a sample's files begin with; in the order of the tar.
        labels: by the same; where one is none, what is wrong with it.
        damage: why the tar could not be read to its end.
    """

    path: Path
    number: int
    images: dict[str, Member] = field(default_factory=dict)
    labels: dict[str, int | str] = field(default_factory=dict)
    damage: str = ""

    @staticmethod
    def read(path: Path, number: int, ignored: Ignored) -> TarIndex:
        """Read all headers, and the files with labels."""
        index, others = TarIndex(path, number), []
        try:
            with open_regular(path) as file, tarfile.TarFile(fileobj=Bounded(file)) as tar:  # type: ignore[arg-type]
                for entry in tar:
                    if entry.isdir():
                        continue
                    if kind := kind_of_junk(entry):
                        ignored.add(kind)
                    elif not index._takes(tar, entry):
                        others.append(entry.name)
            check_end(path)
        except Exception as error:  # damaged headers make tarfile fail in many ways
            index.damage = f"{path}: expected an uncompressed tar, but reading it failed ({first_line(error)})"
        ignored.add("labels without an image", len(index.labels.keys() - index.images.keys()))
        ignored.add_files(Path(name) for name in others if split_name(name)[0] not in index.images)
        return index

    def samples(self) -> Iterator[tuple[Member, int]]:
        """Images with their labels; one that has no proper label has a problem, and -1. So has what is damaged."""
        if self.damage:
            yield Member(self.number, "", 0, 0, self.damage), -1
        for key, member in self.images.items():
            label = self.labels.get(key)
            if label is None:
                label = f'expected a label of {member.name} in {key}.cls, or as "label" in {key}.json'
            if isinstance(label, str):
                yield member._replace(problem=member.problem or f"{self.path}: {label}"), -1
            else:
                yield member, -1 if member.problem else label

    def _takes(self, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bool:
        """Whether a regular file is an image or a label, which it then joins."""
        key, suffix = split_name(entry.name)
        if suffix in image_suffixes():
            member = Member(self.number, entry.name, entry.offset_data, entry.size)
            if before := self.images.get(key):
                got = f"got {before.name}, {entry.name}"
                member = before._replace(problem=f"{self.path}: expected one image called {key}, {got}")
            self.images[key] = member
        elif suffix in (".cls", ".json"):
            label = read_label(entry.name, suffix, content(tar, entry))
            if isinstance(label, int) or (label is not None and not isinstance(self.labels.get(key), int)):
                self.labels[key] = label
        else:
            return False
        return True


def kind_of_junk(entry: tarfile.TarInfo) -> str | None:
    """The kind of a member that is not read; None for regular files that nobody hid."""
    parts = [part for part in entry.name.split("/") if part not in (".", "..")]
    hidden = next(filter(None, map(junk, parts)), None)
    return hidden if hidden or (entry.isreg() and not entry.issparse()) else "links and devices"


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
    """The bytes of a regular file in a tar, of a large one its beginning."""
    file = tar.extractfile(entry)
    return file.read(MOST_LABEL_BYTES) if file else b""


def read_label(name: str, suffix: str, text: bytes) -> int | str | None:
    """The label in a `.cls` or `.json` file, or what is wrong with it; None if the JSON has no "label"."""
    try:
        value = int(text) if suffix == ".cls" else parse_json(text)
    except ValueError:
        value = text
    if suffix == ".json" and isinstance(value, dict):
        if "label" not in value:
            return None
        value = value["label"]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST_CLASSES:
        return f"expected an integer >= 0 as the label in {name}, got {value!r:.50}"
    return value
