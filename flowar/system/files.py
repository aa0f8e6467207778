"""Reading and writing files; a write that fails leaves what was there before."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from flowar.system.parts import part_of


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read. Pipes, devices and sockets are refused: they may never begin, or never end.

    Raises:
        OSError: for one of those, and for a file that cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else a pipe would wait for somebody to write
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "expected a regular file, got a pipe, a device or a folder", str(path))
    return os.fdopen(descriptor, "rb")


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file of the same name elsewhere on the disk of `path`, flush it, then rename it to `path`.

    Raises:
        OSError: if something else than a file is there, or writing fails (disk full, no permission); `path` is as it
            was and nothing is left behind.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "expected the place of a file, got a pipe, a device or a folder", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with part_of(path, path.parent) as part:
        aside = part / path.name
        try:
            aside.touch()
            mode = aside.stat().st_mode  # what the user's umask asks for; some writers would make the file private
            write(aside)
            aside.chmod(mode)
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            if error.strerror and error.filename is None:  # as of a write to a disk that is full
                error.filename = str(aside)
            raise
        aside.replace(path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an indented JSON object, aside first."""
    text = json.dumps(values, indent=2) + "\n"
    write_aside(path, lambda aside: aside.write_text(text))


def each_number(values: Any, change: Callable[[Any], Any]) -> Any:
    """Mappings and lists as they are, with `change` applied to what they hold."""
    if isinstance(values, Mapping):
        return {name: each_number(value, change) for name, value in values.items()}
    if isinstance(values, list):
        return [each_number(value, change) for value in values]
    return change(values)
