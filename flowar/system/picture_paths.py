"""Where pictures are to be written: a file whose name tells its format, one file each, or stdout."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from flowar.errors import shown
from flowar.system.rules import Line, NewFile, expanded

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # as Pillow calls them
ENDINGS = ", ".join(FORMATS)
STDOUT = "-"
PLACEHOLDER = re.compile(r"\{(index|class|label|seed)\}")
IN_FOLDER = "{index}-{class}-{seed}.png"
NO_NAME = re.compile(r"[^\w.]+")
LONGEST_NAME = 50  # characters of a class's name in that of a file, whose bytes are limited


class NewPicture(NewFile):
    """The path of one picture to be written."""

    words = f"a file that ends in {ENDINGS}"

    def got(self, value: Any) -> str:
        """A value that breaks the rule."""
        return super().got(value) if Path(value).suffix.lower() in FORMATS else shown(str(value))

    def fitting(self, value: Any) -> Any:
        """`value` as a path without `~`. Raises ValueError if it breaks the rule."""
        path: Path = super().fitting(value)
        if path.suffix.lower() not in FORMATS:
            raise ValueError
        return path


class NewPictures(Line):
    """Where several pictures are to be written: together in one file or to stdout, or one file each."""

    words = (
        f"a file that ends in {ENDINGS}, a folder as in out/, names as in out/{{class}}-{{seed}}.png (also {{index}} "
        "and {label}), or - for stdout"
    )

    def fitting(self, value: str) -> str:
        """`value`, in the place of a folder the pattern of the files in it. Raises ValueError if it breaks the rule."""
        if value == STDOUT:
            return value
        if not value:  # which would be the folder that one is in
            raise ValueError
        path = expanded(value)
        text = str(path / IN_FOLDER) if value.endswith("/") or os.path.isdir(path) else str(path)
        if set("{}") & set(PLACEHOLDER.sub("", text)):
            raise ValueError
        NewPicture().fitting(text)
        return text


def is_pattern(output: str) -> bool:
    """Whether an output that follows `NewPictures` is that of one file a picture."""
    return PLACEHOLDER.search(output) is not None


def filled(pattern: str, values: Mapping[str, str]) -> Path:
    """The path of one picture: a pattern with values for `index`, `class`, `label` and `seed`.

    Whatever a class is called, its name is neither a folder nor hidden.
    """
    return Path(PLACEHOLDER.sub(lambda found: name_in_path(values[found[1]]), pattern))


def name_in_path(name: str) -> str:
    """A name, or a number, as a part of the name of a file."""
    return NO_NAME.sub("-", name)[:LONGEST_NAME].strip(".") or "-"


PictureFile = Annotated[Path, NewPicture()]
PictureOutput = Annotated[str, NewPictures()]
