"""Errors that a user can mend. Each message is one line: what was expected, what came."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import PurePath
from reprlib import Repr

__all__ = [
    "CheckpointError",
    "DataError",
    "FlowARError",
    "MissingPackageError",
    "TrainingError",
    "UnknownArgumentError",
]

MOST_CHARACTERS, MOST_SHOWN = 300, 80  # of a message, and of a value in it
MOST_PROPOSED = 3  # names in the place of an unknown one
PLAIN = (bool, int, float, str, bytes, list, tuple, dict, PurePath)  # types of values that show what they are

SYSTEM_NUMBER = re.compile(r"\[Errno -?\d+\] | \(os error \d+\)")  # as Python writes it, and Rust
# What a terminal or an editor takes for a command, not for text: control characters, other ends of lines, changes of
# direction, and halves of characters, which is how Python has bytes of file names that are no text.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class FlowARError(ValueError):
    """Base of the errors below; its message is one line of at most 300 characters."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(escaped(message)))


class CheckpointError(FlowARError):
    """A model or tokenizer that cannot be loaded; the message names the file or the tensor."""


class DataError(FlowARError):
    """Training data that cannot be used; the message names the file."""


class TrainingError(FlowARError):
    """A training run that cannot go on; the message says what happened and what may help."""


class MissingPackageError(FlowARError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""


class UnknownArgumentError(FlowARError, TypeError):
    """A keyword argument that a function does not have; the message names the nearest that it has."""


def first_line(error: BaseException) -> str:
    """The reason that an error of another library gives, cut to one line that can be shown.

    Of an error of the operating system neither number nor file: whoever quotes it has named the file. What torch says
    of `weights_only`, with which its users may run a pickle's code, goes no further.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    refused = re.search(r"WeightsUnpickler error:\s*(.*)", text)
    line = next(iter((refused[1] if refused else text).strip().splitlines()), type(error).__name__)
    kept = [each for each in re.split(r"(?<=\.) ", SYSTEM_NUMBER.sub("", line)) if "weights_only" not in each]
    return escaped(" ".join(kept) or "it holds more than tensors and plain containers")


def sentence(error: BaseException) -> str:
    """All that an error says, as one line that can be shown; of one of the operating system the file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    else:
        text = str(error) if isinstance(error, FlowARError) else " ".join(str(error).split())
    return escaped(SYSTEM_NUMBER.sub("", text) or type(error).__name__)


def escaped(text: str) -> str:
    """The text with escapes for what would move the cursor, end the line or turn the writing direction of a terminal.

    Those are control characters, line and paragraph separators, the controls of bidirectional text, and halves of
    surrogate pairs, which stand for the bytes of file names that are no text.
    """
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """`text` without its middle, if it has more than `most` characters."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[: most - 3 - half]}...{text[-half:]}"


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The end of a message about a word that is not `known`: those that are spelled like it, or hold it; or nothing."""
    near = get_close_matches(word[:100], known, n=1) or [name for name in known if word and word in name]
    return f"; did you mean {' or '.join(near[:MOST_PROPOSED])}?" if near else ""


def shown(value: object) -> str:
    """A value as messages show it, in at most 80 characters: as Python writes it, or its type if it is no plain one."""
    if value is not None and not isinstance(value, PLAIN):
        return f"a {type(value).__name__}"
    try:
        return escaped(shortened(_repr.repr(value), MOST_SHOWN))
    except ValueError:  # an integer of so many digits that Python refuses to write it
        return f"a number of type {type(value).__name__} that is too long to show"


_repr = Repr()
_repr.maxstring = _repr.maxlong = _repr.maxother = MOST_SHOWN
