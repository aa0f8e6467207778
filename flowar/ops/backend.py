"""Which implementation serves the ops: the compiled libraries, or `reference` in plain PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Choice(threading.local):
    """Per thread, so that one thread's `use_reference` never changes the numbers of another."""

    reference = False


_choice = _Choice()


def reference_active() -> bool:
    """True where ops called now, on this thread, are served by `flowar.ops.reference`."""
    return _choice.reference


@contextmanager
def use_reference() -> Iterator[None]:
    """Serve the ops called in this context, on this thread, by `flowar.ops.reference`."""
    before = _choice.reference
    _choice.reference = True
    try:
        yield
    finally:
        _choice.reference = before
