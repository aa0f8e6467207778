"""Reading and writing files; a write that fails leaves what was there before."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from flowar.errors import CheckpointError, DataError, first_line
from flowar.system.parts import part_of


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read. Pipes, devices and sockets are refused: they may never begin, or never end.

    Raises:
        OSError: for one of those, and for a file that cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else a pipe would wait for somebody to write
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path}: expected a regular file, got a pipe, a device or a folder")
    return os.fdopen(descriptor, "rb")


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file of the same name elsewhere on the disk of `path`, flush it, then rename it to `path`.

    Raises:
        OSError: if writing fails (disk full, no permission); `path` is as it was and nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with part_of(path) as part:
        aside = part / path.name
        aside.touch()
        mode = aside.stat().st_mode  # what the user's umask asks for; some writers would make the file private
        write(aside)
        aside.chmod(mode)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an indented JSON object, aside first."""
    text = json.dumps(values, indent=2) + "\n"
    write_aside(path, lambda aside: aside.write_text(text))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        CheckpointError: if the file is missing, unreadable, or holds something else.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a JSON object, but reading it failed: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file, such as a run's metrics.jsonl; null is NaN again.

    Raises:
        DataError: if it is missing, empty, or a line is not JSON.
    """
    if not path.is_file():
        raise DataError(f"run: expected {path}, found none")
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise DataError(f"{path}: expected one JSON object a line ({first_line(error)})") from error
    if not rows:
        raise DataError(f"{path}: expected at least one row, found none")
    return [each_number(row, lambda number: math.nan if number is None else number) for row in rows]


def each_number(values: Any, change: Callable[[Any], Any]) -> Any:
    """Mappings and lists as they are, with `change` applied to what they hold."""
    if isinstance(values, Mapping):
        return {name: each_number(value, change) for name, value in values.items()}
    if isinstance(values, list):
        return [each_number(value, change) for value in values]
    return change(values)
