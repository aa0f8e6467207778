"""Rules that a declared field follows beyond its type, and the declarations that many fields share."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from flowar.errors import CONTROL, FlowARError, shown
from flowar.system.progress import duration

LARGEST = 2**63 - 1  # of 64 bits, with a sign


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; a round bracket in `ends` leaves that end out.

    Attributes:
        seconds: the least time that each of a number of steps or repetitions takes; 0 if it is none of these.
    """

    low: float
    high: float = LARGEST
    ends: Literal["[]", "(]", "[)", "()"] = "[]"
    seconds: float = 0.0

    def expected(self, kind: Any) -> str:
        """The rule in words, for a field of this kind."""
        if kind is float:
            return f"a number in {self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"
        if self.low < -LARGEST:
            return "an integer of 64 bits"
        if self.high < LARGEST:
            return f"an integer from {self.low} to {self.high}"
        return "a positive integer" if self.low == 1 else f"an integer >= {self.low}"

    def got(self, value: Any) -> str:
        """A value that breaks the rule, with the time that it would take if that is why."""
        if not (self.seconds and isinstance(value, int) and self.high < value <= LARGEST):
            return shown(value)
        return f"{value}, which takes {duration(value * self.seconds)} or more"

    def holds(self, value: float) -> bool:
        """Whether a number is in the range."""
        above = value > self.low if self.ends[0] == "(" else value >= self.low
        below = value < self.high if self.ends[1] == ")" else value <= self.high
        return above and below

    def fitting(self, value: Any) -> Any:
        """`value`. Raises ValueError if it breaks the rule."""
        if not self.holds(value):
            raise ValueError
        return value


class Measured(Range):
    """A number that was measured, or NaN where there was nothing to measure."""

    def holds(self, value: float) -> bool:
        return math.isnan(value) or super().holds(value)


class Line:
    """Text in one line, which a terminal can show."""

    words = "text without control characters"

    def expected(self, kind: Any) -> str:
        """The rule in words."""
        return self.words

    def got(self, value: Any) -> str:
        """A value that breaks the rule."""
        return shown(value)

    def fitting(self, value: str) -> str:
        """`value`. Raises ValueError if it breaks the rule."""
        if CONTROL.search(value):
            raise ValueError
        return value


class FileName(Line):
    """The name of a file that is in a known folder."""

    words = "the name of a file, without a folder"

    def fitting(self, value: str) -> str:
        """`value`. Raises ValueError if it breaks the rule."""
        if value in ("", ".", "..") or "/" in value or "\\" in value:
            raise ValueError
        return super().fitting(value)


class UserPath(Line):
    """A path, or a name in the place of one; `~` in front is the user's own folder, as in a shell."""

    words = "a path"

    def fitting(self, value: str) -> str:
        """`value` without `~`."""
        return str(expanded(value)) if value.startswith("~") else value


class NewFile(Line):
    """Where a file is to be written. One that is there is replaced; a folder, a device or a pipe must not be."""

    words = "the path of a file"

    def got(self, value: Any) -> str:
        """A value that breaks the rule."""
        known = isinstance(value, (str, Path))
        return f"{shown(str(value))}, where there is something else" if known else shown(value)

    def fitting(self, value: Any) -> Any:
        """`value` as a path without `~`. Raises ValueError if it breaks the rule."""
        path = expanded(value)
        if os.path.exists(path) and not path.is_file():  # a link counts as what it leads to
            raise ValueError
        return path


def expanded(path: str | Path) -> Path:
    """A path with `~` or `~user` in front as that folder.

    Raises:
        FlowARError: for a user whom this machine does not know.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise FlowARError(f"{path}: expected a user of this machine after ~") from error


Rule = Range | Line

STEPS = Range(1, 10_000, seconds=1e-3)  # of an ODE whose networks tell a thousand times apart
GUIDANCE = Range(0, 1000)

TRAINING_STEPS = Range(1, 10**8, seconds=1e-3)

MOST_SIDE = 2**16  # of a grid, or a picture

Count = Annotated[int, Range(1)]
Index = Annotated[int, Range(0)]
Seed = Annotated[int, Range(-(2**63), 2**64 - 1)]
Side = Annotated[int, Range(1, MOST_SIDE)]
Channels = Literal[1, 3]  # grey, RGB
Zoom = Annotated[int, Range(1, 64)]  # whole times as large
Fraction = Annotated[float, Range(0, 1, "[)")]
Noise = Annotated[float, Range(0, 100)]  # in standard deviations of what it is added to
Weight = Annotated[float, Range(0, 1e6)]
Rate = Annotated[float, Range(0, 100, "(]")]
Norm = Annotated[float, Range(0, 1e9, "(]")]
Epochs = Annotated[float, Range(0, 1e6, "(]")]
Steps = Annotated[int, STEPS]
TrainingSteps = Annotated[int, TRAINING_STEPS]
Guidance = Annotated[float, GUIDANCE]
Interval = tuple[Annotated[float, Range(0, 1)], Annotated[float, Range(0, 1)]]
Measurement = Annotated[float, Measured(-1e100, 1e100)]
Name = Annotated[str, Line()]
Place = Annotated[str, UserPath()]
OutputFile = Annotated[Path, NewFile()]
