"""What SIGINT and SIGTERM do: end a command in good order, and a training after the step that it is in."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any, NoReturn

STOPS = (signal.SIGINT, signal.SIGTERM)
TORCHRUN = "TORCHELASTIC_RUN_ID"  # is in the environment of the processes that it starts
ECHO = 2.0  # seconds in which a signal to a group of processes comes once more, from torchrun


def exit_code(signum: int) -> int:
    """The exit code of a process that a signal ended, as shells have it: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + signum


def end(signum: int, frame: FrameType | None = None) -> NoReturn:
    """End the process by an exception, so that nothing is left half-written. It is a handler of SIGTERM.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: for another signal, with its exit code.
    """
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(exit_code(signum))


class StopRequest:
    """A context in which the first SIGINT or SIGTERM is only noted, for a loop to end in good order.

    A second one ends the process at once. Under torchrun a terminal or a batch system signals both the process and
    torchrun, which passes it on: there a second signal counts after two seconds only. Signals that the program handles
    in its own way, or ignores, are left alone, as all are outside of the main thread.

    Attributes:
        signum: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._came = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        usual = (signal.SIG_DFL, signal.default_int_handler, end)
        if threading.current_thread() is threading.main_thread():
            taken = [each for each in STOPS if signal.getsignal(each) in usual]
            self._before = {each: signal.signal(each, self._note) for each in taken}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum, self._came = signum, time.monotonic()
            if TORCHRUN not in os.environ:
                for each in self._before:
                    signal.signal(each, signal.SIG_DFL)  # which no operation that is under way delays
        elif time.monotonic() > self._came + ECHO:
            os._exit(exit_code(signum))
