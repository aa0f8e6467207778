"""Arrays in npz files, whose headers are looked at before anything is read: nothing is unpickled, no bomb goes off."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from flowar.errors import DataError, first_line
from flowar.system.files import open_regular
from flowar.system.memory import check_memory

Arrays = dict[str, np.ndarray[Any, Any]]


def read_npz(path: Path, names: Sequence[str]) -> Arrays:
    """Read those arrays of an npz that have one of these names.

    Raises:
        DataError: if the file is missing or damaged, holds objects, which would have to be unpickled, or has more than
            fits into the memory.
    """
    with reading(path) as stored:
        members = members_of(stored)
        with zipfile.ZipFile(stored) as archive:
            for name in [name for name in names if name in members]:
                with archive.open(members[name]) as file:
                    check_array(name, file, members[name].file_size)
        stored.seek(0)
        with np.load(stored, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names if name in members}


def npz_names(path: Path) -> list[str]:
    """The names of the arrays in an npz. Raises DataError as `read_npz`."""
    with reading(path) as stored:
        return [*members_of(stored)]


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file in this context, in which all that goes wrong is a DataError."""
    try:
        with open_regular(path) as stored:
            yield stored
    except Exception as error:  # damaged archives make zipfile and numpy fail in many ways
        reason = f"but reading it failed ({first_line(error)})"
        raise DataError(f"{path}: expected an npz of plain arrays, {reason}") from error


def members_of(stored: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    """The files in an open zip by the names of their arrays. Raises ValueError for a name that is there twice."""
    with zipfile.ZipFile(stored) as archive:
        members = [(each.filename.removesuffix(".npy"), each) for each in archive.infolist()]
    found = dict(members)
    if len(found) < len(members):
        raise ValueError(f"expected every array once, got {len(members)} files of {len(found)} names")
    return found


def check_array(name: str, file: IO[bytes], length: int) -> None:
    """Check the header of an array in a file of so many bytes.

    Raises:
        ValueError: for an array of objects, and for one that is not as long as its shape says, or than the memory.
    """
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"{name}: expected an array of format 1.0 or 2.0, got {version[0]}.{version[1]}")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError(f"{name}: expected numbers, got objects")
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or needed != length - file.tell():
        raise ValueError(f"{name}: expected {needed} bytes for {dtype} {list(shape)}, got {length - file.tell()}")
    check_memory(name, f"{dtype} {list(shape)}", needed)
