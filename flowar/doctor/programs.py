"""Programs of other packages, and their output."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from flowar.errors import first_line

TIMEOUT = 20  # seconds; a driver in trouble may never answer


class ProgramError(Exception):
    """A program failed; the message is the first line of its output."""


def output(command: Sequence[str], text: str = "") -> str:
    """The output of `command` for `text` on its standard input.

    Raises:
        ProgramError: if it cannot be started, fails, or does not end.
    """
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramError(first_line(error)) from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[0]
        raise ProgramError(f"exit code {done.returncode}: {said}")
    return done.stdout
