"""Errors that a user can mend. Each message is one line: what was expected, what came."""

from __future__ import annotations

__all__ = ["CheckpointError", "DataError", "FlowARError", "MissingPackageError", "TrainingError"]


class FlowARError(ValueError):
    """Base of the errors below."""


class CheckpointError(FlowARError):
    """A model or tokenizer that cannot be loaded; the message names the file or the tensor."""


class DataError(FlowARError):
    """Training data that cannot be used; the message names the file."""


class TrainingError(FlowARError):
    """A training run that cannot go on; the message says what happened and what may help."""


class MissingPackageError(FlowARError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""


def first_line(error: BaseException) -> str:
    """What an error of another library says, cut to one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
