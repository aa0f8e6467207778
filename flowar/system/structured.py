"""The one way to read structured text: JSON and JSON Lines, guarded against all that a file may hold instead.

Files are regular and of bounded size, text is UTF-8, every key is there once, nothing is nested deeply, and numbers are
finite and of at most 64 bits. What a record holds is checked by its declaration (`fields.py`). For YAML, see
`yaml_text.py`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from flowar.errors import CheckpointError, DataError, FlowARError, first_line, shown
from flowar.system.fields import checked
from flowar.system.files import each_number, open_regular

MOST_BYTES = 2**28  # of a file
MOST_NESTING = 64
WIDE = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")  # what text in UTF-16 and UTF-32 begins with

Record = TypeVar("Record")


def read_json(
    path: Path, kind: type[Record], error: type[FlowARError] = CheckpointError, finite: bool = True
) -> Record:
    """The JSON object in a file.

    Args:
        path: the file.
        kind: the `TypedDict` that the object is, or `dict`.
        error: the class of what is raised.
        finite: whether to refuse NaN and infinity.

    Raises:
        FlowARError: if the file is missing, unreadable, or holds something else, naming it and the field.
    """
    return parse_record(read_text(path, "a JSON object", error), kind, str(path), error, finite)


def read_rows(path: Path, kind: type[Record]) -> list[Record]:
    """The rows of a JSON Lines file, such as a run's metrics.jsonl; null is NaN again.

    Args:
        path: the file.
        kind: the `TypedDict` that every row is.

    Raises:
        DataError: if it is missing, empty, or a line is something else.
    """
    if not path.is_file():
        raise DataError(f"run: expected {path}, found none")
    lines = read_text(path, "one JSON object a line", DataError).split("\n")
    named = [(f"{path}: line {number}", line) for number, line in enumerate(lines, 1) if line]
    rows = [parse_record(line, kind, name, DataError, finite=False) for name, line in named]
    return [each_number(row, lambda number: math.nan if number is None else number) for row in rows]


def row_text(values: Mapping[str, Any]) -> str:
    """A line of a JSON Lines file, as `read_rows` reads it: numbers that are not finite become null."""
    finite = each_number(values, lambda each: None if isinstance(each, float) and not math.isfinite(each) else each)
    return json.dumps(finite, allow_nan=False) + "\n"


def parse_record(
    text: str, kind: type[Record], where: str, error: type[FlowARError] = CheckpointError, finite: bool = True
) -> Record:
    """The JSON object in `text`, which messages call `where`; all else is as of `read_json`."""
    try:
        values = parse_json(text, finite)
    except ValueError as problem:
        raise error(f"{where}: expected a JSON object, got {problem}") from problem
    if not isinstance(values, dict):
        raise error(f"{where}: expected a JSON object, got {type(values).__name__}")
    return as_record(values, kind, where, error)


def as_record(values: Any, kind: type[Record], where: str, error: type[FlowARError] = CheckpointError) -> Record:
    """`values` as the record that `kind` declares, as of `parse_record`."""
    try:
        record: Record = checked(values, kind)
    except FlowARError as problem:
        raise error(f"{where}: {problem}") from problem
    return record


def parse_json(text: str | bytes, finite: bool = True) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: for anything else, with what came.
    """

    def number(digits: str) -> float:
        value = float(digits)
        if finite and not math.isfinite(value):
            raise ValueError(f"{digits}, where numbers are to be finite")
        return value

    try:
        text = decoded(text) if isinstance(text, bytes) else text
        value = json.loads(
            text, parse_float=number, parse_constant=number, parse_int=integer, object_pairs_hook=without_doubles
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"something else: {first_line(error)}") from error
    except RecursionError:
        value = None
        too_deep()
    check_nesting(value)
    return value


def integer(digits: str) -> int:
    """An integer of at most 64 bits. Raises ValueError for more."""
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"an integer of {len(digits)} digits, where 64 bits are the most")
    return int(digits)


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of these pairs. Raises ValueError for a key that is there twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shown(next(name for name in names if names.count(name) > 1))} twice")
    return values


def check_nesting(value: Any) -> None:
    """Check how deeply lists and dicts are nested. Raises ValueError beyond `MOST_NESTING`."""
    level = [value]
    for _ in range(MOST_NESTING):
        nested: Iterable[Any] = (each for each in level if isinstance(each, (dict, list)))
        level = [part for each in nested for part in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return
    too_deep()


def too_deep() -> NoReturn:
    raise ValueError(f"values nested deeper than {MOST_NESTING} times")


def read_text(path: Path, expected: str, error: type[FlowARError], most: int = MOST_BYTES) -> str:
    """The text in a file.

    Args:
        path: the file.
        expected: what the file is to hold, in words.
        error: the class of what is raised.
        most: the most bytes that the file may have.

    Raises:
        FlowARError: if it is missing, unreadable, empty, too large, or no text in UTF-8.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise ValueError(f"{size} bytes, where {most} are the most")
            return decoded(file.read(most))
    except OSError as problem:
        raise error(f"{path}: expected {expected}, but reading it failed: {first_line(problem)}") from problem
    except ValueError as problem:
        raise error(f"{path}: expected {expected}, got {problem}") from problem


def decoded(content: bytes) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        ValueError: for an empty file, and for what is not in UTF-8.
    """
    if content.startswith(WIDE):
        raise ValueError("text in UTF-16 or UTF-32, not in UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"something that is no text in UTF-8, from byte {error.start} on") from error
    if not text.strip():
        raise ValueError("an empty file")
    return text
