"""Progress bars: on a terminal by default, never in a log file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def step_progress(
    total: int, show: bool | None, description: str = "sampling", initial: int = 0
) -> Iterator[Callable[[], None]]:
    """A bar of `total` steps, `initial` of them done; yields the function that advances it.

    `show=None` means: if stderr is a terminal.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=description, initial=initial, leave=False) as bar:
        yield lambda: (bar.update(), None)[1]
