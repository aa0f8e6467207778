"""What is being written: folders for files that are not yet at their place, and those that dead processes left.

A part is a folder `.NAME.MACHINE.PID-NUMBER.part`, named after what is to come of it and the process that writes it.
Libraries may make files of their own beside what they write: they are in it, too. Older versions had single files.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = re.compile(r"\..+?\.(?:([0-9a-f]{8})\.)?(\d+)(?:-\d+)?\.part")
FORGOTTEN = 86400.0  # seconds that no write takes
AGAIN = 1.0  # seconds in which a folder is looked through once, however many files it gets
_numbers = itertools.count()
_looked_at: dict[Path, float] = {}
_lock = threading.Lock()


@contextmanager
def part_of(path: Path, folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, for what is to become that; parts of dead processes beside it are removed.

    What is left of the part when the context ends is removed. Errors of the operating system do not name its files as
    they are, but as files of `folder`, where they are to be.
    """
    now = time.monotonic()
    with _lock:
        due = now > _looked_at.get(path.parent, -AGAIN) + AGAIN
        if due:
            _looked_at[path.parent] = now
    if due:
        remove_left_parts(path.parent)
    part = path.with_name(f".{path.name}.{machine()}.{os.getpid()}-{next(_numbers)}.part")
    remove(part)  # of a process of the same number, as a container's first one
    try:
        part.mkdir()
        yield part
    except OSError as error:
        rename_in(error, part, folder)
        raise
    finally:
        remove(part)


def rename_in(error: OSError, part: Path, folder: Path) -> None:
    """Have an error name files of `part` as files of `folder`."""
    here, there = str(part), str(folder)
    error.args = tuple(each.replace(here, there) if isinstance(each, str) else each for each in error.args)
    if error.filename is not None:
        error.filename = str(error.filename).replace(here, there)


def remove_left_parts(folder: Path, below: bool = False) -> None:
    """Remove the parts in `folder` that nobody writes any more, and, if wanted, in all folders below it."""
    for parent, folders, files in os.walk(folder):
        for part in (Path(parent, name) for name in (*folders, *files)):
            if is_left(part):
                remove(part)
        if not below:
            break


def is_left(part: Path) -> bool:
    """Whether a path is a part whose process is dead or, on whatever machine it is, has not touched it for a day."""
    found = PART.fullmatch(part.name)
    if not found:
        return False
    if found[1] in (None, machine()) and not is_running(int(found[2])):
        return True
    try:
        return time.time() > part.stat().st_mtime + FORGOTTEN
    except OSError:  # it has its name by now
        return False


def is_running(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def machine() -> str:
    """Eight hexadecimal digits for this machine: processes of several may write to one disk."""
    return f"{zlib.crc32(os.uname().nodename.encode()):08x}"


def remove(part: Path) -> None:
    """Remove a file, or a folder with all that is in it; one that is gone already is no error."""
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink()
