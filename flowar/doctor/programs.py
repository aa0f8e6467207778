"""Running the programs of other packages."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

TIMEOUT = 20  # seconds; a driver in trouble may never answer


class ProgramError(Exception):
    """A program that failed; the message is what it said first."""


def output(command: Sequence[str], text: str = "") -> str:
    """What `command` prints when it reads `text`.

    Raises:
        ProgramError: if it cannot be started, fails, or does not end.
    """
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramError(str(error)) from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[0]
        raise ProgramError(f"exit code {done.returncode}: {said}")
    return done.stdout
