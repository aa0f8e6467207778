"""Errors that a user can mend. Each message is one line: what was expected, what came."""

from __future__ import annotations

import re
from reprlib import Repr

__all__ = ["CheckpointError", "DataError", "FlowARError", "MissingPackageError", "TrainingError"]

MOST_CHARACTERS, MOST_SHOWN = 300, 80  # of a message, and of a value in it

# What a terminal or an editor takes for a command, not for text: control characters, other ends of lines, changes of
# direction, and halves of characters, which is how Python has bytes of file names that are no text.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


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


def first_line(error: BaseException) -> str:
    """What an error of another library says, cut to one line; of the operating system's the reason alone."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def escaped(text: str) -> str:
    r"""`text` with control characters as Python writes them, as \n."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """`text` without its middle, if it has more than `most` characters."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[: most - 3 - half]}...{text[-half:]}"


def shown(value: object) -> str:
    """A value as messages show it: as Python writes it, in at most 80 characters, whatever its size."""
    try:
        return escaped(shortened(_repr.repr(value), MOST_SHOWN))
    except ValueError:  # an integer of so many digits that Python refuses to write it
        return f"a number of type {type(value).__name__} that is too long to show"


_repr = Repr()
_repr.maxstring = _repr.maxlong = _repr.maxother = MOST_SHOWN
