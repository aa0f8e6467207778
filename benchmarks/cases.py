"""What the speed benchmarks share: cases within a budget of time, saved after every part of one."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from record import device_of, save_results, settings_of
from tables import table


class Case(Protocol):
    """One row of settings: `values` are its results so far; under "wrong", the variants that do not agree and why."""

    values: dict[str, Any]

    def measure(self) -> Iterator[str]:
        """Fill `values`; a word after every part."""


TitledCase = tuple[str, Callable[[], Case]]  # made when its turn comes


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Where a benchmark runs, how long, and where its results go."""
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--seconds", type=float, default=5, help="to measure each variant for; two runs at least")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), help="after these, no case is begun")
    parser.add_argument("--output", type=Path, help="JSON file; by default in benchmarks/results")


def run_cases(
    benchmark: str,
    options: argparse.Namespace,
    cases: Callable[[argparse.Namespace, torch.device], Iterable[TitledCase]],
    header: Sequence[str],
    rows: Callable[[Mapping[str, Any]], list[list[str]]],
) -> None:
    """Measure the cases that `options` ask for, and show a table of `header` and the `rows` of every case's values.

    Exits with 1 if any variant was wrong.
    """
    started = time.perf_counter()
    device = device_of(options)
    results: list[dict[str, Any]] = []
    left_out: list[str] = []

    def save() -> Path:
        values = {"settings": settings_of(options), "results": results, "left_out": left_out}
        return save_results(benchmark, device, options.output, values)

    for title, make in cases(options, device):
        if time.perf_counter() - started > options.budget_seconds:
            left_out.append(title)
            continue
        case = make()
        results.append(case.values)
        for message in case.measure():
            print(f"{title}: {message}", file=sys.stderr)
            save()
    print(table(header, [row for result in results for row in rows(result)]))
    for title in left_out:
        print(f"left out, since {options.budget_seconds:.0f} s were over: {title}")
    print(save())
    if any(result["wrong"] for result in results):
        sys.exit(1)
