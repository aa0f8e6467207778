"""The standard streams of a command: any encoding will do, and whoever reads them may leave."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def accept_any_encoding() -> None:
    """Have characters that the terminal's encoding lacks written as escapes such as \\xe9."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def flushed_output() -> Iterator[None]:
    """Write all that was printed in this context when it ends.

    Raises:
        BrokenPipeError: if nobody reads stdout any more.
        OSError: if it cannot be written, as on a full disk.
    """
    failure = None
    try:
        yield
    finally:
        try:
            if sys.stdout is not None:  # as where the shell closed it
                sys.stdout.flush()
        except OSError as error:
            failure = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python fails once more when it ends
    if failure is not None:
        raise failure
