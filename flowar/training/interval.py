"""The steps since the last row of metrics: what they add up to, and the time that they took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from flowar.system.ranks import Ranks
from flowar.training.metrics import StepMetrics
from flowar.training.step import Batch


class Interval:
    """The steps since the last row of metrics, in parts where a checkpoint lies between.

    Attributes:
        metrics: the sums over the steps.
        first: the number of steps before the interval.
        waited: the seconds that fetching batches took.
    """

    def __init__(self, metrics: StepMetrics, first: int) -> None:
        self.metrics = metrics
        self.begin(first)

    def begin(self, first: int) -> None:
        """Begin a new interval."""
        self.metrics.reset()
        self.first, self.waited, self._started = first, 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """The duration up to now."""
        return time.perf_counter() - self._started

    def wait_for(self, source: Iterator[Batch]) -> Batch:
        """The next batch; `waited` grows by the seconds that fetching it took."""
        started = time.perf_counter()
        batch = next(source)
        self.waited += time.perf_counter() - started
        return batch

    def record(self, ranks: Ranks) -> dict[str, Any]:
        """Plain data for `restore`. All ranks must call this together."""
        times = {"first": self.first, "seconds": self.seconds, "waited": self.waited}
        return times | self.metrics.record(ranks.sum(self.metrics.sums()))

    def restore(self, record: dict[str, Any], ranks: Ranks) -> None:
        """Go on with the interval of a record, whose sums over all ranks become the main one's."""
        self.first, self.waited = record["first"], record["waited"]
        self._started = time.perf_counter() - record["seconds"]
        self.metrics.restore(record, ranks.main)
