"""Progress bars: on a terminal by default, never in a log file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def step_progress(
    total: int, show: bool | Mapping[str, Any] | None, description: str = "sampling", initial: int = 0
) -> Iterator[Callable[[], None]]:
    """Show a progress bar of `total` steps, `initial` of them done, and yield the function that advances it.

    `show=None` shows it if stderr is a terminal. Options of tqdm in its place say how; where they do not `disable` the
    bar, or do so with False, that is as with None and with True.
    """
    options = dict(show) if isinstance(show, Mapping) else {"disable": None if show is None else not show}
    hide = options.pop("disable", None)
    if hide or (hide is None and not sys.stderr.isatty()):
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(**{"total": total, "desc": description, "initial": initial, "leave": False} | options) as bar:

        def advance() -> None:
            bar.update()

        yield advance


def duration(seconds: float) -> str:
    """A duration in words: 45 s, 12 min, 1 h 05 min, 12 days, 4e+05 years."""
    minutes, days = round(seconds / 60), seconds / 86400
    if days >= 2:
        return f"{days:.0f} days" if days < 1000 else f"{days / 365:.3g} years"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
