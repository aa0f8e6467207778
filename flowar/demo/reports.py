"""The reports of a running function as an iterator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def reports(work: Callable[[Callable[[T], None]], object]) -> Iterator[T]:
    """Run `work` in a thread, and yield each value that it passes to its argument.

    Raises:
        Exception: what `work` raises, after its reports.
    """
    queue: SimpleQueue[tuple[T] | None] = SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, lambda report: queue.put((report,)))
        future.add_done_callback(lambda _: queue.put(None))
        while (report := queue.get()) is not None:
            yield report[0]
        future.result()
