"""Folders that one process at a time may write to."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flowar.errors import FlowARError, first_line
from flowar.system.parts import remove_left_parts

if TYPE_CHECKING:
    from flowar.system.ranks import Ranks

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"  # says who holds it; one that a killed process left holds nobody up
LONGEST = 200  # bytes of it that are read


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone in this context; what dead processes left half-written there is removed.

    The operating system gives a lock back when its process ends in whatever way. Where the disk knows no locks, a
    warning says so.

    Raises:
        FlowARError: if another process holds it, saying which.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    descriptor = acquire(path)
    try:
        remove_left_parts(folder, below=True)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        if new:
            with suppress(OSError):  # it holds something now
                folder.rmdir()


def tidy(folder: Path) -> None:
    """Remove what dead processes left in a folder that is to be read, unless another process holds it right now."""
    with suppress(FlowARError, OSError), locked(folder):
        pass


@contextmanager
def locked_by_main(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Hold `folder` for all ranks in this context: the main one has the lock.

    Raises:
        FlowARError: on all ranks, as `locked`.
    """
    with ExitStack() as stack:
        with ranks.main_first():
            if ranks.main:
                stack.enter_context(locked(folder))
        yield


def acquire(path: Path) -> int:
    """Lock a file, which is made if it is missing, and return its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, LONGEST).decode(errors="replace").strip()
            os.close(descriptor)
            raise FlowARError(
                f"{path.parent}: expected a folder that no other process writes to, got that of {holder or 'another'}"
            ) from None
        except OSError as error:
            log.warning("%s: no lock keeps other processes out (%s)", path.parent, first_line(error))
        if is_file(path, descriptor):
            with suppress(OSError):  # on a full disk it does not say whose it is
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
            return descriptor
        os.close(descriptor)  # of a file that its holder has removed since it was opened


def is_file(path: Path, descriptor: int) -> bool:
    """Whether `path` is the very file that is open as `descriptor`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
